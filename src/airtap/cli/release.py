"""airtap release: remove a guest device now."""

import argparse
from typing import Any

from ..ipc import client


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "release",
        help="remove a guest device, also while its guest runs",
        description="Remove a device that airtap made, also while its guest runs: the guest "
        "is then without a network. Devices otherwise go by themselves with their guest.",
    )
    parser.add_argument("device", metavar="DEVICE", help="as airtap status shows it")
    parser.set_defaults(run=run, needs_daemon=True)


def run(arguments: argparse.Namespace, connection: client.Connection) -> None:
    connection.call("release", device=arguments.device)

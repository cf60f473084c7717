"""airtap release: remove a guest device now."""

import argparse

from ...ipc import client


def run(arguments: argparse.Namespace, connection: client.Connection) -> None:
    """Have airtapd remove a device. Raises Problem."""
    connection.call("release", device=arguments.device)

"""airtap: the operator's command."""

import argparse
import sys
from collections.abc import Callable

from .. import __version__, client
from ..errors import Problem
from . import domain, network, parent, release, status


def parser() -> argparse.ArgumentParser:
    """The whole command line. Manual page and shell completion are held against it."""
    parser = argparse.ArgumentParser(
        prog="airtap", description="QEMU and libvirt guests straight on the LAN."
    )
    parser.add_argument("--version", action="version", version=f"airtap {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parser.set_defaults(needs_daemon=True)
    for module in (status, release, network, domain, parent):
        module.add_parser(commands)
    return parser


def main() -> int:
    """Entry point. Returns the exit status: 0, 1 for a Problem, 2 for a wrong command line."""
    arguments = parser().parse_args()
    run: Callable[..., None] = arguments.run
    try:
        if arguments.needs_daemon:
            run(arguments, client.Connection(client.socket_path()))
        else:
            run(arguments)
    except Problem as problem:
        print(f"airtap: {problem}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # as in `airtap status | head -1`
        sys.stderr.close()
        return 1
    return 0

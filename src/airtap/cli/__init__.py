"""airtap: the operator's command."""

import argparse
import signal
import sys
from collections.abc import Callable

from .. import __version__
from ..errors import Problem
from ..ipc import client
from . import doctor, domain, network, parent, release, status, trace, trial


def parser() -> argparse.ArgumentParser:
    """The whole command line. Manual page and shell completion are held against it."""
    parser = argparse.ArgumentParser(
        prog="airtap", description="QEMU and libvirt guests straight on the LAN."
    )
    parser.add_argument("--version", action="version", version=f"airtap {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parser.set_defaults(needs_daemon=False)
    for module in (status, trace, doctor, trial, network, domain, parent, release):
        module.add_parser(commands)
    return parser


def main() -> int:
    """Entry point. Returns the exit status: 0, 1 for a Problem, 2 for a wrong command line.

    And 130 after Ctrl-C, as of a shell's command that it ends.
    """
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
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # as in `airtap status | head -1`
        sys.stderr.close()
        return 1
    return 0

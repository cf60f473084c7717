"""airtap: the operator's command."""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from importlib import import_module

from ..errors import Problem
from ..ipc import client
from . import parser


def main() -> int:
    """Entry point. Returns the exit status: 0, 1 for a Problem, 2 for a wrong command line.

    And 130 after Ctrl-C, as of a shell's command that it ends.
    """
    arguments = parser.build().parse_args()
    module, function = arguments.run
    try:
        if arguments.needs_root and os.geteuid() != 0:
            hint = shlex.join(["sudo", "airtap", *sys.argv[1:]])
            raise Problem("not-root", f"airtap {sys.argv[1]} is for root", hint)
        run: Callable[..., None] = getattr(import_module(f"{__name__}.commands.{module}"), function)
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

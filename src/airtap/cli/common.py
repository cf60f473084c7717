"""What commands have in common: how they speak and end."""

import argparse
import os
import signal
import sys

from ..uris import SYSTEM


def libvirt_mode(mode: str) -> str:
    """Return a mode in libvirt's word."""
    return "passthrough" if mode == "passthru" else mode


def uri(arguments: argparse.Namespace) -> str:
    """Return the libvirt that a command line means."""
    return arguments.connect or os.environ.get("LIBVIRT_DEFAULT_URI") or SYSTEM


def echo(text: str) -> None:
    """Print what was asked for, at once."""
    print(text, flush=True)


def warn(text: str) -> None:
    """Print what the user should know, beside the output."""
    print(f"airtap: {text}", file=sys.stderr, flush=True)


def notice(text: str) -> None:
    """Tell what is not as one may expect."""
    warn(f"note: {text}")


def end_orderly(*signals: int) -> None:
    """Have signals end the program as exceptions do, so that what is under way is undone."""
    for number in signals:
        signal.signal(number, _end)


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)

"""What commands have in common: how they speak and end."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

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


@contextmanager
def ending() -> Iterator[Event]:
    """An event that SIGTERM, SIGHUP and Ctrl-C set meanwhile, instead of ending us halfway."""
    ended = Event()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in numbers}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_orderly(*signals: int) -> None:
    """Have signals end the program as exceptions do, so that what is under way is undone."""
    for number in signals:
        signal.signal(number, _end)


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)

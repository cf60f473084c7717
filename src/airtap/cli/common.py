"""What commands have in common: options, and how they speak and end."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ..uris import SYSTEM

# Of macvtaps; libvirt and ip(8) spell the last one differently.
MODES = ("bridge", "private", "vepa", "passthrough", "passthru")
URI_DEFAULT = f"$LIBVIRT_DEFAULT_URI or {SYSTEM}"


def add_uri(parser: argparse.ArgumentParser, default: str = URI_DEFAULT) -> None:
    parser.add_argument("--connect", metavar="URI", help=f"of libvirt; default: {default}")


def add_parent(parser: Any, *, required: bool = False) -> None:
    """Let a command name an uplink. parser: or a group of one."""
    parser.add_argument(
        "--parent", metavar="DEV", required=required, help="the uplink, or an alias in airtap.toml"
    )


def seconds(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    """A type for argparse: a length of time. above: least itself is too short."""
    bounds = f"above {least:g} and at most {most:g}" if above else f"{least:g} to {most:g} seconds"

    def length(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = -1.0
        if not least <= found <= most or (above and found == least):
            raise argparse.ArgumentTypeError(f"must be {bounds}")
        return found

    return length


def libvirt_mode(mode: str) -> str:
    """A mode in libvirt's word."""
    return "passthrough" if mode == "passthru" else mode


def uri(arguments: argparse.Namespace) -> str:
    """The libvirt that a command line means."""
    return arguments.connect or os.environ.get("LIBVIRT_DEFAULT_URI") or SYSTEM


def say(text: str) -> None:
    """Print what was asked for, at once."""
    print(text, flush=True)


def tell(text: str) -> None:
    """Print what the user should know, beside the output."""
    print(f"airtap: {text}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Tell what is not as one may expect."""
    tell(f"note: {text}")


def hold_against_schema(xml: str, schema: str) -> None:
    """Raise Problem bad-xml where libvirt's schema of that name does not allow XML."""
    from ..libvirt.xml import validate

    if not validate(xml, schema):
        note("libvirt's schemas are not installed here: the XML goes to libvirt unchecked")


def end_orderly(*signals: int) -> None:
    """Have signals end the program as exceptions do, so that what is under way is undone."""
    for number in signals:
        signal.signal(number, _end)


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)

"""What the commands that speak with libvirt have in common."""

import argparse
import os
import sys
from collections.abc import Callable

# Of macvtaps; libvirt and ip(8) spell the last one differently.
MODES = ("bridge", "private", "vepa", "passthrough", "passthru")
SYSTEM = "qemu:///system"
URI_DEFAULT = f"$LIBVIRT_DEFAULT_URI or {SYSTEM}"


def add_uri(parser: argparse.ArgumentParser, default: str = URI_DEFAULT) -> None:
    parser.add_argument("--connect", metavar="URI", help=f"of libvirt; default: {default}")


def add_card(parser: argparse.ArgumentParser) -> None:
    """Let a command name one network card of a domain."""
    parser.add_argument("domain", metavar="DOMAIN", help="its name or UUID")
    parser.add_argument(
        "--nic",
        metavar="MAC|N",
        help="which network card, by MAC address or by number from 1; needed if there are several",
    )


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A type for argparse: a length of time."""

    def length(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = -1.0
        if not least <= found <= most:
            raise argparse.ArgumentTypeError(f"must be {least:g} to {most:g} seconds")
        return found

    return length


def libvirt_mode(mode: str) -> str:
    """A mode in libvirt's word."""
    return "passthrough" if mode == "passthru" else mode


def uri(arguments: argparse.Namespace) -> str:
    """The libvirt that a command line means."""
    return arguments.connect or os.environ.get("LIBVIRT_DEFAULT_URI") or SYSTEM


def note(text: str) -> None:
    """Say what the user should know, beside the output."""
    print(f"airtap: note: {text}", file=sys.stderr)

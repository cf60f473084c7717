"""Options that several commands have."""

import argparse
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
    """Return a type for argparse: a length of time. above: least itself is too short."""
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

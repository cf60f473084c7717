"""What the commands that speak with libvirt have in common."""

import argparse
import os
import sys

SYSTEM = "qemu:///system"
URI_DEFAULT = f"$LIBVIRT_DEFAULT_URI or {SYSTEM}"


def add_uri(parser: argparse.ArgumentParser, default: str = URI_DEFAULT) -> None:
    parser.add_argument("--connect", metavar="URI", help=f"of libvirt; default: {default}")


def uri(arguments: argparse.Namespace) -> str:
    """The libvirt that a command line means."""
    return arguments.connect or os.environ.get("LIBVIRT_DEFAULT_URI") or SYSTEM


def note(text: str) -> None:
    """Say what the user should know, beside the output."""
    print(f"airtap: note: {text}", file=sys.stderr)

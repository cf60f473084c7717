"""airtap-bridge-helper: what QEMU and session libvirtd run for ``-netdev tap,helper=``.

A drop-in for qemu-bridge-helper: the same command line, the same one byte with one file
descriptor on the socket it was given, the same exit codes. It has no privilege of its own;
airtapd decides and makes the device. Exit status 0 means that the descriptor was sent, which
is the last thing done; anything else leaves one line on stderr, status 1, and nothing sent.

Runs at every guest start and imports accordingly little: tests/unit/test_helper.py holds the
list.
"""

import os
import sys
from _socket import AF_UNIX, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET
from _socket import socket as Socket

from .errors import Problem, reason
from .ipc import client, protocol

USAGE = "usage: airtap-bridge-helper [--use-vnet] [--mac=MAC] --br=NAME --fd=FD"
HELP = f"""{USAGE}

Give QEMU a guest device on the LAN behind NAME. QEMU runs it:

  -netdev tap,id=n0,helper=/usr/bin/airtap-bridge-helper,br=eth0
  -netdev tap,id=n0,helper="/usr/bin/airtap-bridge-helper --mac=52:54:00:0a:57:01",br=eth0

  --br=NAME    a host interface, a Linux bridge, or an alias from airtap.toml
  --fd=FD      the Unix socket on which to send the device's file descriptor
  --use-vnet   frames carry a virtio_net header (IFF_VNET_HDR)
  --mac=MAC    the guest's MAC address; without it, the source of its first frame

The file /etc/airtap/bridge.conf says who may use what. AIRTAP_SOCKET names
airtapd's socket if it is not {protocol.DEFAULT_SOCKET}."""


def main() -> int:
    """Entry point. Returns the exit status."""
    if sys.argv[1:] == ["--help"]:
        print(HELP)
        return 0
    try:
        br, unix_fd, mac, vnet_hdr = parse(sys.argv[1:])
        qemu = qemu_socket(unix_fd)
        tap = attach(br, mac, vnet_hdr)
        hand_over(qemu, tap)
    except Problem as problem:
        print(f"airtap-bridge-helper: {problem}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str]) -> tuple[str, int, str | None, bool]:
    """Read the command line: (br, fd, mac, vnet_hdr).

    As in qemu-bridge-helper the last of a repeated option counts, and a number ends at its
    first character that is no digit, as atoi() has it; a number without a digit does not
    pass for 0. Raises Problem usage.
    """
    br = mac = None
    fd = -1
    vnet_hdr = False
    for argument in arguments:
        if argument == "--use-vnet":
            vnet_hdr = True
        elif argument.startswith("--br="):
            br = os.fsencode(argument[5:]).decode("utf-8", "surrogateescape")
        elif argument.startswith("--fd="):
            fd = _number(argument[5:])
        elif argument.startswith("--mac="):
            mac = argument[6:]
        else:
            raise Problem("usage", f"unknown option '{argument[:64]}'", USAGE)
    if br is None:
        raise Problem("usage", "there is no --br=NAME", USAGE)
    if fd < 0:
        raise Problem("usage", "there is no --fd=FD with the number of a socket", USAGE)
    return br, fd, mac, vnet_hdr


def _number(text: str) -> int:
    """The number at the start of text, -1 if there is none that can be a descriptor's."""
    text = text.lstrip(" \t\n\v\f\r").removeprefix("+")
    digits = 0
    while digits < len(text) and text[digits] in "0123456789":
        digits += 1
    return int(text[:digits]) if 0 < digits < 10 else -1


def qemu_socket(fd: int) -> Socket:
    """The socket that QEMU passed as fd. Raises Problem bad-fd: closed, or not a socket."""
    try:
        qemu = Socket(fileno=fd)
    except OSError as exc:
        raise Problem("bad-fd", f"--fd={fd} is not a socket: {reason(exc)}") from exc
    if qemu.family != AF_UNIX:  # any other would drop the descriptor and report success
        raise Problem("bad-fd", f"--fd={fd} is not a Unix socket")
    return qemu


def attach(br: str, mac: str | None, vnet_hdr: bool) -> int:
    """Ask airtapd for a guest's tap behind br and return its descriptor. Raises Problem."""
    connection = client.Connection(client.socket_path())
    connection.send("attach", br=br, mac=mac, vnet_hdr=vnet_hdr)
    return connection.receive_tap()[1]


def hand_over(qemu: Socket, tap: int) -> None:
    """Send QEMU the byte and the descriptor that it waits for. Raises Problem bad-fd.

    The device needs no undoing if this fails: it goes when the last holder of its tap does.
    """
    rights = (SOL_SOCKET, SCM_RIGHTS, tap.to_bytes(4, sys.byteorder))
    try:
        qemu.sendmsg([b"\0"], [rights], MSG_NOSIGNAL)
    except OSError as exc:
        why = reason(exc)
        raise Problem("bad-fd", f"cannot send on --fd={qemu.fileno()}: {why}") from exc


if __name__ == "__main__":
    sys.exit(main())

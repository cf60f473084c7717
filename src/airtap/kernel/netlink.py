"""Netlink's messages and attributes, for what pyroute2 does not read, or would read too much of."""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator

# include/uapi/linux/netlink.h
ACK, DUMP = 0x4, 0x300
_REQUEST = 0x1
_ERROR, _DONE = 2, 3
_RECEIVE_BYTES = 1 << 17
_MOST_PACKETS = 20_000
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF

Attributes = dict[int, bytes]


def ask(
    asking: socket.socket, kind: int, body: bytes, flags: int = 0
) -> Iterator[tuple[int, bytes]]:
    """Send a request, and give the type and the payload of each message that answers it.

    flags: ACK or DUMP; without one nothing tells where an answer ends. Raises OSError: what the
    kernel refuses with.
    """
    head = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0)
    asking.send(head + body)
    for _ in range(_MOST_PACKETS):
        for answer, payload in messages(asking.recv(_RECEIVE_BYTES)):
            if answer in (_ERROR, _DONE):
                _expect_success(payload)
                return
            yield answer, payload
    raise OSError(errno.EOVERFLOW, "the kernel's answer has no end")


def messages(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the payload of each message in a packet."""
    while len(packet) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(packet)
        if length < _HEADER.size:
            return
        yield kind, packet[_HEADER.size : length]
        packet = packet[(length + 3) & ~3 :]


def _expect_success(payload: bytes) -> None:
    [code] = struct.unpack_from("=i", payload)
    if code < 0:  # some families answer with a number of theirs
        raise OSError(-code, os.strerror(-code))


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute as it stands in a request."""
    octets = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
    return octets.ljust((len(octets) + 3) & ~3, b"\0")


def attributes(octets: bytes) -> Attributes:
    """Attributes by type; the last of a type counts."""
    found = {}
    while len(octets) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(octets)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = octets[_ATTRIBUTE.size : length]
        octets = octets[(length + 3) & ~3 :]
    return found


def number(octets: bytes) -> int:
    """An unsigned integer's value, of as many bytes as there are, in the host's order."""
    return int.from_bytes(octets, sys.byteorder)


def text(octets: bytes) -> str:
    """A name, which a NUL may end."""
    return octets.rstrip(b"\0").decode(errors="replace")

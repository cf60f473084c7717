"""Generic netlink: a family by its name, requests to it, and its messages' attributes.

pyroute2 decodes a message whole, down to the elements of a beacon, which any transmitter nearby
may have written; here only what is asked for is read.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator

# include/uapi/linux/netlink.h, genetlink.h
NETLINK_GENERIC = 16
_CTRL = 16  # GENL_ID_CTRL
_GETFAMILY = 3
_FAMILY_ID, _FAMILY_NAME, _MCAST_GROUPS = 1, 2, 7
_GROUP_NAME, _GROUP_ID = 1, 2
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_HEADER = struct.Struct("=IHHII")
_GENL_BYTES = 4
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_RECEIVE_BYTES = 1 << 17
# The kernel answers before a request's send() returns, so this is for answers that got lost.
_ANSWER_S = 5.0

Attributes = dict[int, bytes]


class Family:
    """A generic netlink family. number: its id, the type of its messages. groups: by name."""

    def __init__(self, name: str) -> None:
        """Raises OSError (ENOENT: the kernel has no such family)."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        try:
            self._socket.settimeout(_ANSWER_S)
            self._socket.bind((0, 0))
            asked = attribute(_FAMILY_NAME, name.encode() + b"\0")
            [family] = self._ask(_CTRL, _GETFAMILY, asked, _ACK)
        except BaseException:
            self._socket.close()
            raise
        self.number = number(family[_FAMILY_ID])
        self.groups = dict(_groups(family.get(_MCAST_GROUPS, b"")))

    def __enter__(self) -> "Family":
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def request(self, command: int, asked: bytes = b"") -> list[Attributes]:
        """Run a command with encoded attributes, and return those of its answers.

        Raises OSError: what the kernel refuses with.
        """
        return self._ask(self.number, command, asked, _ACK)

    def dump(self, command: int, asked: bytes = b"") -> list[Attributes]:
        """As request(), for a command that lists something."""
        return self._ask(self.number, command, asked, _DUMP)

    def _ask(self, kind: int, command: int, asked: bytes, flags: int) -> list[Attributes]:
        body = struct.pack("=BBH", command, 1, 0) + asked
        head = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0)
        self._socket.send(head + body)
        found: list[Attributes] = []
        while True:
            for answer, payload in messages(self._socket.recv(_RECEIVE_BYTES)):
                if answer in (_ERROR, _DONE):
                    _expect_success(payload)
                    return found
                if answer == kind:
                    found.append(of_message(payload))


def _expect_success(payload: bytes) -> None:
    [code] = struct.unpack_from("=i", payload)
    if code < 0:  # some families answer with a number of theirs
        raise OSError(-code, os.strerror(-code))


def _groups(nested: bytes) -> Iterator[tuple[str, int]]:
    for group in attributes(nested).values():
        entry = attributes(group)
        yield entry[_GROUP_NAME].rstrip(b"\0").decode(), number(entry[_GROUP_ID])


def number(octets: bytes) -> int:
    """An unsigned integer's value, of as many bytes as there are, in the host's order."""
    return int.from_bytes(octets, sys.byteorder)


def messages(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the payload of each message in a packet."""
    while len(packet) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(packet)
        if length < _HEADER.size:
            return
        yield kind, packet[_HEADER.size : length]
        packet = packet[(length + 3) & ~3 :]


def of_message(payload: bytes) -> Attributes:
    """The attributes of a generic netlink message."""
    return attributes(payload[_GENL_BYTES:])


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

"""Netlink's messages and attributes, for what pyroute2 does not read, or would read too much of."""

import asyncio
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator

# include/uapi/linux/netlink.h
ACK, DUMP = 0x4, 0x300
_REQUEST = 0x1
_ERROR, _DONE = 2, 3
_RECEIVE_BYTES = 1 << 17
_MOST_PACKETS = 20_000
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NOTIFICATION_BYTES = 1 << 16
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF

Attributes = dict[int, bytes]


class MulticastSocket:
    """Calls back with the ifindex of a device at which something changed. Needs an event loop.

    protocol: a number of netlink's, whose notifications to these groups are heard.
    buffer_bytes: how much may wait in the kernel.
    changed: reads the devices off a packet of notifications; None stands for all.
    on_event: called with each of them, and with None when the buffer has overflowed.
    """

    def __init__(
        self,
        protocol: int,
        groups: Iterable[int],
        buffer_bytes: int,
        changed: Callable[[bytes], Iterable[int | None]],
        on_event: Callable[[int | None], None],
    ) -> None:
        """Raises OSError."""
        self._changed = changed
        self._on_event = on_event
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            asyncio.get_running_loop().add_reader(self._socket, self._read)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        try:
            packet = self._socket.recv(_NOTIFICATION_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                raise
            self._on_event(None)
            return
        for index in self._changed(packet):
            self._on_event(index)


def ask(
    asking: socket.socket, kind: int, body: bytes, flags: int = 0
) -> Iterator[tuple[int, bytes]]:
    """Send a request, and give the type and the payload of each message that answers it.

    This blocks until the kernel has answered.
    flags: ACK or DUMP; without one nothing tells where an answer ends.
    Raises OSError: what the kernel refuses with.
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
    return _parts(packet, _HEADER)


def _parts(octets: bytes, header: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """The type and the rest of each part whose header begins with its length and its type."""
    at = 0
    while len(octets) - at >= header.size:
        length, kind, *_ = header.unpack_from(octets, at)
        if length < header.size:
            return
        yield kind, octets[at + header.size : at + length]
        at += (length + 3) & ~3


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
    return dict(attribute_parts(octets))


def attribute_parts(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the value of each attribute."""
    return ((kind & _TYPE_MASK, value) for kind, value in _parts(octets, _ATTRIBUTE))


def number(octets: bytes) -> int:
    """An unsigned integer's value, of as many bytes as there are, in the host's order."""
    return int.from_bytes(octets, sys.byteorder)

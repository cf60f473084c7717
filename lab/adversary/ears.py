"""Sockets that listen for what an adversary sends, where others would hear it."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator

from lab.adversary import packets as p
from lab.lan import SLOWNESS
from lab.sandbox import inside
from lab.traffic import with_tag

_EXPERIMENTAL = 253  # RFC 3692
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_AUXDATA = 263, 8
_PACKET_OUTGOING, _PACKET_OTHERHOST = 4, 3


class Frames:
    """What comes in at a device, of one ethertype or of all.

    stack: only what the machine itself would take; of all ethertypes, else, what is for others too.
    """

    def __init__(
        self, namespace: str | None, device: str, kind: int = 0x0003, *, stack: bool = False
    ) -> None:
        with _there(namespace):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
            self.socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            self.socket.bind((device, kind))
        self.socket.setblocking(False)
        self._promiscuous = kind == 0x0003 and not stack

    def heard(self) -> Iterator[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, beside, _flags, address = self.socket.recvmsg(1 << 16, 64)
                if address[2] == _PACKET_OUTGOING:
                    continue
                if self._promiscuous or address[2] != _PACKET_OTHERHOST:
                    yield with_tag(frame, beside[0][2])

    def close(self) -> None:
        self.socket.close()


class Port:
    """A UDP port of a namespace, over both families."""

    def __init__(self, namespace: str | None, number: int) -> None:
        self.sockets = {}
        with _there(namespace):
            for family in (socket.AF_INET, socket.AF_INET6):
                one = self.sockets[family] = socket.socket(family, socket.SOCK_DGRAM)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(("", number))
                one.setblocking(False)
        self.number = number

    def heard(self) -> Iterator[bytes]:
        for one in self.sockets.values():
            with contextlib.suppress(BlockingIOError):
                while True:
                    yield one.recv(1 << 16)

    def send(self, address: str, data: bytes) -> None:
        """Send to the same port of an address. What cannot be sent is lost, as any may be."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.suppress(OSError):
            self.sockets[family].sendto(data, (address, self.number))

    def close(self) -> None:
        for one in self.sockets.values():
            one.close()


class Barrier:
    """Waits until all that was sent has arrived: marks that are sent behind it have."""

    def __init__(self, places: dict[str, Frames]) -> None:
        self._places = places
        self._number = 0

    def wait(self, source: str, send: Callable[[bytes], object], places: set[str]) -> set[str]:
        """Send a mark from a MAC until it was seen in places. Gives where it never was."""
        self._number += 1
        mark = b"mark %d " % self._number
        # Of no protocol and from no address, but IPv4: the host hears nothing else of a guest.
        packet = p.ipv4("0.0.0.0", "255.255.255.255", _EXPERIMENTAL, mark.ljust(26))
        frame = p.ethernet("ff:ff:ff:ff:ff:ff", source, p.IPV4, packet)
        end = time.monotonic() + 5 * SLOWNESS
        again = 0.0
        while places and time.monotonic() < end:
            if time.monotonic() > again:
                send(frame)
                again = time.monotonic() + 1 * SLOWNESS
            select.select([self._places[place].socket for place in places], [], [], 0.5)
            places = {place for place in places if not self._seen(place, mark)}
        return places

    def _seen(self, place: str, mark: bytes) -> bool:
        # In all that is there, so that it is read.
        return any([mark in frame[34:60] for frame in self._places[place].heard()])


def _there(namespace: str | None) -> contextlib.AbstractContextManager[None]:
    return inside(namespace) if namespace else contextlib.nullcontext()

"""What a network namespace knows, asked by netlink: a program would take longer than an attack."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from types import TracebackType

from lab import sandbox

_ROUTE = 0
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP: linux/netlink.h
_DONE, _ERROR = 3, 2
_GETADDR, _GETROUTE, _GETNEIGH, _DELNEIGH = 22, 26, 30, 29
_RTM_F_CLONED = 0x200
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x08, 0x40
_NDA_DST, _NDA_LLADDR = 1, 2
# Without NUD_NOARP, which nobody said: linux/neighbour.h.
_NUD_VALID = 0x9E
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15

Attributes = dict[int, bytes]


class State:
    """The kernel's tables in a namespace; None is the host's. Close it, or use it in a with."""

    def __init__(self, namespace: str | None) -> None:
        with sandbox.inside(namespace) if namespace else contextlib.nullcontext():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _ROUTE)

    def __enter__(self) -> State:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def neighbours(self) -> dict[str, str]:
        """Addresses of neighbours, as far as their MAC is known."""
        found = {}
        for head, attributes in self._dump(_GETNEIGH, bytes(12), 12):
            state = struct.unpack("=8xH2x", head)[0]
            mac = attributes.get(_NDA_LLADDR, b"")
            if state & _NUD_VALID and len(mac) == 6 and _NDA_DST in attributes:
                found[str(ip_address(attributes[_NDA_DST]))] = mac.hex(":")
        return found

    def forget(self, index: int, address: str) -> None:
        """Delete what is known of a neighbour of device index."""
        octets = ip_address(address).packed
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        body = struct.pack("=BxxxiHBB", family, index, 0, 0, 0) + _attribute(_NDA_DST, octets)
        self._ask(_DELNEIGH, 5, body)  # NLM_F_REQUEST | NLM_F_ACK
        self._socket.recv(1 << 16)

    def addresses(self) -> set[str]:
        """The addresses of all devices; one that failed the search for duplicates says so."""
        found = set()
        for head, attributes in self._dump(_GETADDR, bytes(8), 8):
            flags = " dadfailed" if head[2] & _IFA_F_DADFAILED else ""
            octets = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b""))
            found.add(f"{ip_address(octets)}/{head[1]}{flags}")
        return found

    def routes(self) -> set[str]:
        """Every route of every table, without what ages."""
        return set(self._routes(0))

    def exceptions(self) -> set[str]:
        """Routes that the kernel has made of others, for redirects and path MTUs."""
        return set(self._routes(_RTM_F_CLONED))

    def _routes(self, flags: int) -> Iterator[str]:
        for family in (socket.AF_INET, socket.AF_INET6):
            body = struct.pack("=BxxxxxxxI", family, flags)
            for head, attributes in self._dump(_GETROUTE, body, 12):
                if struct.unpack("=8xI", head)[0] & _RTM_F_CLONED != flags:
                    continue
                to, gateway = (_text(attributes.get(key)) for key in (_RTA_DST, _RTA_GATEWAY))
                table, device = (
                    int.from_bytes(attributes.get(key, b""), "little")
                    for key in (_RTA_TABLE, _RTA_OIF)
                )
                via = f" via {gateway}" if gateway else ""
                yield f"{to}/{head[1]}{via} dev {device} table {table}"

    def _dump(self, kind: int, body: bytes, size: int) -> Iterator[tuple[bytes, Attributes]]:
        self._ask(kind, _DUMP, body)
        while True:
            answer = self._socket.recv(1 << 18)
            while answer:
                length, what = struct.unpack_from("=IH", answer)
                if what in (_DONE, _ERROR):
                    return
                yield answer[16 : 16 + size], _attributes(answer[16 + size : length])
                answer = answer[length + 3 & ~3 :]

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)


def _attribute(kind: int, octets: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(octets), kind) + octets


def _attributes(octets: bytes) -> Attributes:
    found = {}
    while len(octets) >= 4:
        length, kind = struct.unpack_from("=HH", octets)
        found[kind & 0x3FFF] = octets[4:length]
        octets = octets[max(length, 4) + 3 & ~3 :]
    return found


def _text(octets: bytes | None) -> str:
    return str(ip_address(octets)) if octets and len(octets) in (4, 16) else ""

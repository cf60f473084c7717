"""Devices on our uplinks that live in other network namespaces: containers'.

A parent has one rx_handler, whoever's child takes it, and `ip link` shows none of theirs. So each
namespace that a process or a name keeps is asked, by a socket that a thread opens in it.
"""

import os
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...kernel.links import FAMILY
from ...kernel.netlink import DUMP, ask, attribute, attributes, number, text
from ...kernel.netns import enter

# include/uapi/linux/rtnetlink.h, if_link.h, net_namespace.h
_NEWLINK, _GETLINK, _NEWNSID, _GETNSID = 16, 18, 88, 90
_IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO, _IFLA_LINK_NETNSID = 3, 5, 18, 37
_INFO_KIND = 1
_NETNSA_NSID, _NETNSA_FD = 1, 3
_IFINFO_BYTES, _RTGEN_BYTES = 16, 4
_NAMED = ("/run/netns", "/run/docker/netns")
_MOST = 64
_ANSWER_S = 2.0


@dataclass(frozen=True)
class Stranger:
    """A macvlan or ipvlan in another namespace. parent: ifindex here. where: whose it is."""

    name: str
    kind: str
    parent: int
    where: str


def read() -> tuple[list[Stranger], int]:
    """Those in namespaces that we may enter, and how many namespaces were too many to look at.

    Others than root see none.
    """
    others = list(_others())
    found: list[Stranger] = []
    with open("/proc/self/ns/net") as ours:
        for where, path in others[:_MOST]:
            try:
                with _socket_in(path) as netlink:
                    found += _on_ours(netlink, where, ours.fileno())
            except OSError:  # it has gone, or is not ours to enter
                continue
    return found, len(others[_MOST:])


def _others() -> Iterator[tuple[str, str]]:
    """One path for each network namespace but our own, and what it is known by."""
    seen = {_identity("/proc/self/ns/net")}
    named = [entry for root in _NAMED if os.path.isdir(root) for entry in Path(root).iterdir()]
    for entry in named:
        identity = _identity(str(entry))
        if identity and identity not in seen:
            seen.add(identity)
            yield f"namespace {entry.name}", str(entry)
    for process in Path("/proc").iterdir():
        identity = _identity(f"{process}/ns/net") if process.name.isdecimal() else None
        if identity and identity not in seen:
            seen.add(identity)
            yield f"namespace of pid {process.name}", f"{process}/ns/net"


def _identity(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _socket_in(path: str) -> socket.socket:
    """A socket in another namespace, opened by a thread: only that one goes there."""

    def open_there() -> socket.socket:
        with open(path) as there:
            enter(there.fileno())
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)

    with ThreadPoolExecutor(1) as thread:
        netlink = thread.submit(open_there).result()
    netlink.settimeout(_ANSWER_S)
    return netlink


def _on_ours(netlink: socket.socket, where: str, ours: int) -> Iterator[Stranger]:
    us = _our_number(netlink, ours)
    if us is None:
        return
    for answer, payload in ask(netlink, _GETLINK, bytes(_IFINFO_BYTES), DUMP):
        if answer != _NEWLINK:
            continue
        link = attributes(payload[_IFINFO_BYTES:])
        kind = text(attributes(link.get(_IFLA_LINKINFO, b"")).get(_INFO_KIND, b""))
        if kind in FAMILY and link.get(_IFLA_LINK_NETNSID) == us:
            yield Stranger(text(link.get(_IFLA_IFNAME, b"")), kind, number(link[_IFLA_LINK]), where)


def _our_number(netlink: socket.socket, ours: int) -> bytes | None:
    """How another namespace numbers ours; None if it has nothing to do with it."""
    asked = bytes(_RTGEN_BYTES) + attribute(_NETNSA_FD, struct.pack("=I", ours))
    for answer, payload in ask(netlink, _GETNSID, asked):
        if answer == _NEWNSID:
            us = attributes(payload[_RTGEN_BYTES:]).get(_NETNSA_NSID, b"")
            return us if struct.unpack("=i", us)[0] >= 0 else None
    return None

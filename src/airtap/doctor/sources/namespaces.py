"""Reads which devices on our uplinks live in other network namespaces: containers'.

A parent has one rx_handler, whoever's child takes it, and `ip link` shows none of theirs. So each
namespace that a process or a name keeps is asked, by a socket that a thread opens in it.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ...kernel.links import FAMILY
from ...kernel.netns import enter

_NAMED = ("/run/netns", "/run/docker/netns")
_MOST = 64
_ANSWER_S = 2.0


@dataclass(frozen=True)
class Stranger:
    """A macvlan or ipvlan in another namespace.

    parent: an ifindex of this namespace.
    where: whose the device is, for people.
    """

    name: str
    kind: str
    parent: int
    where: str


async def read() -> tuple[list[Stranger], int]:
    """Return those in namespaces that we may enter, and how many were too many to look at.

    Others than root see none.
    """
    others = list(_others())
    found: list[Stranger] = []
    with open("/proc/self/ns/net") as ours:
        for where, path in others[:_MOST]:
            try:
                with _socket_in(path) as netlink:
                    found += await _on_ours(netlink, where, ours.fileno())
            except (OSError, NetlinkError):  # it has gone, or is not ours to enter
                continue
    return found, len(others[_MOST:])


def _others() -> Iterator[tuple[str, str]]:
    """Give one path for each network namespace but our own, after what it is known by."""
    seen = {_identity("/proc/self/ns/net")}
    for where, path in _paths():
        identity = _identity(path)
        if identity and identity not in seen:
            seen.add(identity)
            yield where, path


def _paths() -> Iterator[tuple[str, str]]:
    for entry in [each for root in _NAMED for each in Path(root).glob("*")]:
        yield f"namespace {entry.name}", str(entry)
    for process in Path("/proc").glob("[0-9]*"):
        yield f"namespace of pid {process.name}", f"{process}/ns/net"


def _identity(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _socket_in(path: str) -> socket.socket:
    """Open a socket in another namespace by a thread: only that one goes there."""

    def open_there() -> socket.socket:
        with open(path) as there:
            enter(there.fileno())
        return socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(open_there).result()


async def _on_ours(netlink: socket.socket, where: str, ours: int) -> list[Stranger]:
    """Ask another namespace for its devices on links of ours. Raises NetlinkError, TimeoutError."""
    async with asyncio.timeout(_ANSWER_S), AsyncIPRoute(use_socket=netlink) as ipr:
        us = (await ipr.get_netnsid(fd=ours))["nsid"]  # how it numbers ours
        if us < 0:  # it has nothing to do with it
            return []
        return [
            Stranger(_text(link.get_attr("IFLA_IFNAME")), kind, link.get_attr("IFLA_LINK"), where)
            async for link in await ipr.get_links()
            if (kind := link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")) in FAMILY
            and link.get_attr("IFLA_LINK_NETNSID") == us
        ]


def _text(name: str | bytes) -> str:
    """Return a name as text; pyroute2 leaves one that is not UTF-8 as it is."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name

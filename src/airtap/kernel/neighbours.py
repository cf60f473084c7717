"""Who was seen on a device's LAN, asked of the kernel's neighbour tables through rtnetlink."""

import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .addresses import Address
from .links import asking, link_errors
from .netlink import DUMP, ask, attribute, attributes

# include/uapi/linux/neighbour.h: NUD_REACHABLE, STALE, DELAY, PROBE
_REACHABLE = 0x02
_ANSWERED_ONCE = _REACHABLE | 0x04 | 0x08 | 0x10
_PERMANENT = 0x80
_NEIGHBOUR = struct.Struct("=4xiH2x")  # struct ndmsg
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_RTM_GETNEIGH = 30  # rtnetlink.h
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12  # netlink.h: the kernel heeds _NDA_IFINDEX


async def neighbours(ipr: AsyncIPRoute, index: int) -> list[Address]:
    """The addresses that have told the device with index their MAC. Raises LinkError."""
    found = await _dump(ipr, index, _ANSWERED_ONCE)
    return [ip_address(message.get("dst")) for message in found if message.get("dst")]


def neighbour_macs(index: int) -> dict[Address, str]:
    """The MACs that addresses have told the device with index, or that it was given for them.

    By hand, at a hundredth of what pyroute2 takes, and of that device alone: it is asked for at the
    start of each guest. Raises LinkError.
    """
    request = bytes(_NEIGHBOUR.size) + attribute(_NDA_IFINDEX, struct.pack("=I", index))
    with asking("dump neighbours") as opened:
        opened.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        return dict(_heard(body for _, body in ask(opened, _RTM_GETNEIGH, request, DUMP)))


def _heard(messages: Iterable[bytes]) -> Iterator[tuple[Address, str]]:
    for body in messages:
        _index, state = _NEIGHBOUR.unpack_from(body)
        found = attributes(body[_NEIGHBOUR.size :])
        if state & (_ANSWERED_ONCE | _PERMANENT) and len(found.get(_NDA_LLADDR, b"")) == 6:
            yield ip_address(found[_NDA_DST]), found[_NDA_LLADDR].hex(":")


async def neighbour_mac(
    ipr: AsyncIPRoute, index: int, address: Address, *, asked: bool = False
) -> str | None:
    """The MAC that address has told the device with index; None if it has told none.

    asked: whether only an answer to a recent question counts, and not what it told by itself.
    Raises LinkError.
    """
    found = await _dump(ipr, index, _REACHABLE if asked else _ANSWERED_ONCE)
    macs = [message.get("lladdr") for message in found if message.get("dst") == str(address)]
    return macs[-1] if macs else None


async def forget_neighbour(ipr: AsyncIPRoute, index: int, address: Address) -> None:
    """Have the kernel ask for an address anew. One that it does not know is success."""
    with suppress(NetlinkError):
        await ipr.neigh("del", dst=str(address), ifindex=index)


async def _dump(ipr: AsyncIPRoute, index: int, states: int) -> list[Any]:
    with link_errors("dump neighbours"):
        found = [message async for message in await ipr.neigh("dump", ifindex=index)]
    return [entry for entry in found if entry["ifindex"] == index and entry["state"] & states]

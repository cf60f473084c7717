"""Who was seen on a device's LAN, asked of the kernel's neighbour tables through rtnetlink."""

from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .addresses import Address
from .links import link_errors

# include/uapi/linux/neighbour.h: NUD_REACHABLE, STALE, DELAY, PROBE
_REACHABLE = 0x02
_ANSWERED_ONCE = _REACHABLE | 0x04 | 0x08 | 0x10
_PERMANENT = 0x80


async def neighbours(ipr: AsyncIPRoute, index: int) -> list[Address]:
    """The addresses that have told the device with index their MAC. Raises LinkError."""
    found = await _dump(ipr, index, _ANSWERED_ONCE)
    return [ip_address(message.get("dst")) for message in found if message.get("dst")]


async def neighbour_macs(ipr: AsyncIPRoute, index: int) -> dict[Address, str]:
    """The MACs that addresses have told the device with index, or that it was given for them.

    Raises LinkError.
    """
    found = await _dump(ipr, index, _ANSWERED_ONCE | _PERMANENT)
    return {
        ip_address(message.get("dst")): message.get("lladdr")
        for message in found
        if message.get("dst") and message.get("lladdr")
    }


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

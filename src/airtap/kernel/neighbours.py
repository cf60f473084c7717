"""Who was seen on a device's LAN, asked of the kernel's neighbour tables through rtnetlink."""

from contextlib import suppress
from ipaddress import ip_address

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .addresses import Address
from .links import LinkError

# include/uapi/linux/neighbour.h: NUD_REACHABLE, STALE, DELAY, PROBE
_REACHABLE = 0x02
_ANSWERED_ONCE = _REACHABLE | 0x04 | 0x08 | 0x10


async def neighbours(ipr: AsyncIPRoute, index: int) -> list[Address]:
    """The addresses that have told the device with index their MAC. Raises LinkError."""
    found: list[Address] = []
    try:
        async for message in await ipr.neigh("dump", ifindex=index):
            here = message["ifindex"] == index and message["state"] & _ANSWERED_ONCE
            if here and (address := message.get("dst")):
                found.append(ip_address(address))
    except NetlinkError as exc:
        raise LinkError(exc.code, f"dump neighbours: {exc.args[-1]}") from exc
    return found


async def neighbour_mac(
    ipr: AsyncIPRoute, index: int, address: Address, *, asked: bool = False
) -> str | None:
    """The MAC that address has told the device with index; None if it has told none.

    asked: whether only an answer to a recent question counts, and not what it told by itself.
    Raises LinkError.
    """
    states = _REACHABLE if asked else _ANSWERED_ONCE
    mac: str | None = None
    try:
        async for message in await ipr.neigh("dump", ifindex=index):
            here = message["ifindex"] == index and message["state"] & states
            if here and message.get("dst") == str(address):
                mac = message.get("lladdr")
    except NetlinkError as exc:
        raise LinkError(exc.code, f"dump neighbours: {exc.args[-1]}") from exc
    return mac


async def forget_neighbour(ipr: AsyncIPRoute, index: int, address: Address) -> None:
    """Have the kernel ask for an address anew. One that it does not know is success."""
    with suppress(NetlinkError):
        await ipr.neigh("del", dst=str(address), ifindex=index)

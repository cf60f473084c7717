"""Who was seen on a device's LAN: the kernel's neighbour tables, through rtnetlink."""

from ipaddress import ip_address

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .addresses import Address
from .links import LinkError

# include/uapi/linux/neighbour.h: NUD_REACHABLE, STALE, DELAY, PROBE
_ANSWERED_ONCE = 0x02 | 0x04 | 0x08 | 0x10


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

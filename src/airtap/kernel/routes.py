"""Where the host's routes lead, asked of rtnetlink, and what only /proc tells of them."""

import socket
from ipaddress import IPv4Network
from pathlib import Path

from pyroute2 import AsyncIPRoute

from .addresses import MAIN_TABLE, RTN_UNICAST
from .links import link_errors

_IPV6_ROUTES = "/proc/net/ipv6_route"
_RTF_ADDRCONF = 0x40000  # include/uapi/linux/ipv6_route.h


async def ipv4_routes(ipr: AsyncIPRoute) -> list[IPv4Network]:
    """Where routes of all tables lead, and so the host's own addresses too. Raises LinkError."""
    found = []
    with link_errors("dump routes"):
        async for message in await ipr.route("dump", family=socket.AF_INET):
            to = message.get("dst") or "0.0.0.0"
            found.append(IPv4Network(f"{to}/{message['dst_len']}"))
    return found


async def default_devices(ipr: AsyncIPRoute) -> list[int]:
    """The ifindexes of default routes of the main table, the best first. Raises LinkError."""
    found = []
    with link_errors("dump routes"):
        for family in (socket.AF_INET, socket.AF_INET6):
            async for message in await ipr.route("dump", family=family, table=MAIN_TABLE):
                hops = [message, *(message.get("multipath") or [])]
                devices = [hop.get("oif") for hop in hops if hop.get("oif")]
                if message["dst_len"] == 0 and message["type"] == RTN_UNICAST and devices:
                    found.append((family, message.get("priority") or 0, devices[0]))
    return [device for _family, _metric, device in sorted(found)]


def kernel_autoconfigures() -> bool:
    """Whether the kernel itself has taken IPv6 routes from router advertisements.

    It drops them when the host begins to forward, unless their device has accept_ra 2
    (Documentation/networking/ip-sysctl.rst). rtnetlink does not tell them from those that a
    network manager has made; a manager switches accept_ra off.
    """
    try:
        lines = Path(_IPV6_ROUTES).read_text().splitlines()
    except FileNotFoundError:  # a host without IPv6
        return False
    rows = [line.split() for line in lines]
    devices = {row[9] for row in rows if int(row[8], 16) & _RTF_ADDRCONF}
    return any(_accepts(device) for device in devices)


def _accepts(device: str) -> bool:
    accepted = [_accept_ra(name) for name in (device, "all")]
    return accepted[0] == 1 or accepted == [0, 1]


def _accept_ra(name: str) -> int:
    try:
        return int(Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra").read_text())
    except FileNotFoundError:  # a device that has just gone
        return -1

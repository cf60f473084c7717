"""The addresses that are the host's own, and its gateways', through rtnetlink."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .links import LinkError

Address = IPv4Address | IPv6Address

_MAIN_TABLE = 254


@dataclass(frozen=True)
class HostAddresses:
    """own: of every device of the host; it may answer for any on any (weak host model).

    gateways: next hops behind the one uplink. broadcasts: of the uplink's IPv4 networks.
    """

    own: frozenset[Address]
    gateways: frozenset[Address]
    broadcasts: frozenset[IPv4Address]


async def host_addresses(ipr: AsyncIPRoute, uplink: int) -> HostAddresses:
    """What no guest behind the device with index uplink may use. Raises LinkError."""
    own: set[Address] = set()
    broadcasts: set[IPv4Address] = set()
    gateways: set[Address] = set()
    try:
        async for message in await ipr.addr("dump"):
            # IFA_LOCAL is the host's end where there is a peer, IFA_ADDRESS else.
            address = ip_address(message.get("local") or message.get("address"))
            if not address.is_loopback:
                own.add(address)
            if message["index"] == uplink:
                broadcasts |= _broadcasts(message, address)
        async for message in await ipr.route("dump", table=_MAIN_TABLE):
            gateways |= _gateways(message, uplink)
    except NetlinkError as exc:
        raise LinkError(exc.code, f"dump addresses and routes: {exc.args[-1]}") from exc
    return HostAddresses(frozenset(own), frozenset(gateways), frozenset(broadcasts))


def _broadcasts(message: Any, address: Address) -> set[IPv4Address]:
    """Of an IPv4 address: the one that it names, and the one that the kernel makes of its prefix
    in any case (net/ipv4/fib_frontend.c: fib_add_ifaddr)."""
    if not isinstance(address, IPv4Address):
        return set()
    named = message.get("broadcast")
    prefix = message["prefixlen"]
    found = {IPv4Address(named)} if named else set()
    if prefix < 31:
        found.add(IPv4Network((int(address), prefix), strict=False).broadcast_address)
    return found


def _gateways(route: Any, uplink: int) -> set[Address]:
    hops = [route, *(route.get("multipath") or [])]
    found: set[Address] = set()
    for hop in hops:
        if hop.get("oif") != uplink:
            continue
        via = hop.get("via")
        for text in (hop.get("gateway"), via.get("addr") if via else None):
            if text:
                found.add(ip_address(text))
    return found

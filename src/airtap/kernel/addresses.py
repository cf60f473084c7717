"""Which addresses are the host's own and its gateways', asked of rtnetlink."""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from pyroute2 import AsyncIPRoute

from .links import link_errors

Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network

# include/uapi/linux/rtnetlink.h
MAIN_TABLE = 254
RTN_UNICAST = 1
IFA_F_TENTATIVE = 0x40  # include/uapi/linux/if_addr.h

_LINK_LOCAL = IPv6Network("fe80::/10")


@dataclass(frozen=True)
class HostAddresses:
    """What no guest behind one uplink may use, and where that uplink leads.

    own: addresses of every device of the host, which may answer for any on any (weak host model).
    tentative: those of them that the kernel still asks about (RFC 4862 5.4), or found taken.
    gateways: next hops behind the uplink.
    broadcasts: broadcast addresses of the uplink's IPv4 networks.
    subnets: the networks of the uplink's own addresses, but for link-local ones.
    on_link: networks that the uplink reaches without a router.
    """

    own: frozenset[Address]
    tentative: frozenset[Address]
    gateways: frozenset[Address]
    broadcasts: frozenset[IPv4Address]
    subnets: frozenset[Subnet]
    on_link: frozenset[Subnet]


def overlap(one: Subnet, other: Subnet) -> bool:
    """Whether two subnets, of whichever families, share an address."""
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one.overlaps(other)
    return isinstance(one, IPv6Network) and isinstance(other, IPv6Network) and one.overlaps(other)


async def host_addresses(ipr: AsyncIPRoute, uplink: int) -> HostAddresses:
    """Ask for the addresses around the device with index uplink. Raises LinkError."""
    own: set[Address] = set()
    tentative: set[Address] = set()
    broadcasts: set[IPv4Address] = set()
    gateways: set[Address] = set()
    subnets: set[Subnet] = set()
    on_link: set[Subnet] = {_LINK_LOCAL}
    with link_errors("dump addresses and routes"):
        async for message in await ipr.addr("dump"):
            # IFA_LOCAL is the host's end where there is a peer, IFA_ADDRESS else.
            address = ip_address(message.get("local") or message.get("address"))
            if not address.is_loopback:
                own.add(address)
            if message["flags"] & IFA_F_TENTATIVE:
                tentative.add(address)
            if message["index"] == uplink:
                broadcasts |= _broadcasts(message, address)
                if not address.is_link_local:
                    subnets.add(ip_network((address, message["prefixlen"]), strict=False))
        async for message in await ipr.route("dump", table=MAIN_TABLE):
            if message["family"] not in (socket.AF_INET, socket.AF_INET6):
                continue
            found = _gateways(message, uplink)
            gateways |= found
            if not found and message.get("oif") == uplink and message["type"] == RTN_UNICAST:
                on_link.add(_destination(message))
    return HostAddresses(
        frozenset(own),
        frozenset(tentative),
        frozenset(gateways),
        frozenset(broadcasts),
        frozenset(subnets),
        frozenset(on_link),
    )


def _broadcasts(message: Any, address: Address) -> set[IPv4Address]:
    """An IPv4 address has the one that it names, and the one that the kernel makes of its prefix
    in any case (net/ipv4/fib_frontend.c: fib_add_ifaddr)."""
    if not isinstance(address, IPv4Address):
        return set()
    named = message.get("broadcast")
    prefix = message["prefixlen"]
    found = {IPv4Address(named)} if named else set()
    if prefix < 31:
        found.add(IPv4Network((int(address), prefix), strict=False).broadcast_address)
    return found


def _destination(route: Any) -> Subnet:
    anywhere = "0.0.0.0" if route["family"] == socket.AF_INET else "::"
    return ip_network((route.get("dst") or anywhere, route["dst_len"]))


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

"""The host's addresses and where its routes lead, asked of rtnetlink in one pass for all uplinks.

By hand: pyroute2 would take some 50 us over each route, in the event loop.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from .links import asking
from .netlink import DUMP, Attributes, ask, attribute, attributes, number

Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network

# include/uapi/linux/rtnetlink.h
MAIN_TABLE = 254
RTN_UNICAST = 1
MOST_ROUTES = 50_000  # of each family
_RTM_GETLINK, _RTM_GETADDR, _RTM_GETROUTE = 18, 22, 26
_RTM_F_CLONED = 0x200
_IFA_F_TENTATIVE = 0x40  # if_addr.h
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 1, 4, 5, 9, 15, 18
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4  # if_addr.h
# if_link.h
_IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_LINK_NETNSID = 5, 10, 18, 37
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VRF_TABLE = 1, 2, 1
_IFLA_EXT_MASK, _SKIP_STATISTICS = 29, struct.pack("=I", 1 << 3)
_LINK = struct.Struct("=4xi8x")  # struct ifinfomsg
_ADDRESS = struct.Struct("=BBBBi")  # struct ifaddrmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_NEXTHOP = struct.Struct("=HBBi")  # struct rtnexthop
_VERSIONS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}
_WIDTHS = {4: 32, 6: 128}

_LINK_LOCAL = IPv6Network("fe80::/10")


class Prefix(NamedTuple):
    """A subnet in numbers, of which there may be very many. bits: its address."""

    version: int
    length: int
    bits: int

    def shortened(self, length: int) -> "Prefix":
        """Return the prefix of this length that includes this one."""
        cut = _WIDTHS[self.version] - length
        return Prefix(self.version, length, self.bits >> cut << cut)

    @property
    def subnet(self) -> Subnet:
        address = IPv4Address(self.bits) if self.version == 4 else IPv6Address(self.bits)
        return ip_network((address, self.length))


class Hop(NamedTuple):
    """Where a route leads next: by a device, to a gateway, b"" without one."""

    device: int
    gateway: bytes


class Route(NamedTuple):
    """A unicast route."""

    prefix: Prefix
    table: int
    hops: tuple[Hop, ...]


class HostAddress(NamedTuple):
    """An address of the host's.

    broadcast: that it names, b"" for none.
    tentative: whether the kernel still asks about it (RFC 4862 5.4), or found it taken.
    """

    device: int
    address: Address
    length: int
    broadcast: bytes
    tentative: bool


class Device(NamedTuple):
    """parent: the device here that it stands on. vrf_table: of a VRF. 0 each for none."""

    parent: int
    master: int
    kind: str
    vrf_table: int


@dataclass(frozen=True)
class HostAddresses:
    """What no guest behind one uplink may use, and where that uplink leads.

    own: addresses of every device of the host, which may answer for any on any (weak host model).
    tentative: those of them that are not the host's yet, as HostAddress has it.
    gateways: next hops behind the uplink, of whichever routing table.
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


@dataclass(frozen=True)
class HostNetwork:
    """The host's addresses, devices by ifindex, and routes of all tables, the first MOST_ROUTES."""

    addresses: list[HostAddress]
    routes: list[Route]
    devices: Mapping[int, Device]

    def around(self, uplink: int) -> HostAddresses:
        """Return what concerns one uplink."""
        gateways: set[bytes] = set()
        on_link: set[Subnet] = {_LINK_LOCAL}
        for route in self.routes:
            found = [hop.gateway for hop in route.hops if hop.device == uplink]
            gateways.update(found)
            if found and not any(found):
                on_link.add(route.prefix.subnet)
        at_uplink = [each for each in self.addresses if each.device == uplink]
        return HostAddresses(
            frozenset(each.address for each in self.addresses if not each.address.is_loopback),
            frozenset(each.address for each in self.addresses if each.tentative),
            frozenset(ip_address(gateway) for gateway in gateways if gateway),
            frozenset(address for each in at_uplink for address in _broadcasts(each)),
            frozenset(
                ip_network((each.address, each.length), strict=False)
                for each in at_uplink
                if not each.address.is_link_local
            ),
            frozenset(on_link),
        )


def overlap(one: Subnet, other: Subnet) -> bool:
    """Whether two subnets, of whichever families, share an address."""
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one.overlaps(other)
    return isinstance(one, IPv6Network) and isinstance(other, IPv6Network) and one.overlaps(other)


async def host_addresses(uplink: int) -> HostAddresses:
    """Ask for the addresses around the device with index uplink. Raises LinkError."""
    return (await asyncio.to_thread(host_network)).around(uplink)


def host_network() -> HostNetwork:
    """Ask for addresses, routes and devices. Blocks, for long where there are many.

    Raises LinkError.
    """
    with asking("dump addresses and routes") as opened:
        return _ask(opened)


def _ask(opened: socket.socket) -> HostNetwork:
    brief = bytes(_LINK.size) + attribute(_IFLA_EXT_MASK, _SKIP_STATISTICS)
    devices = dict(_device(body) for _, body in ask(opened, _RTM_GETLINK, brief, DUMP))
    addresses = ask(opened, _RTM_GETADDR, bytes(_ADDRESS.size), DUMP)
    own = [found for _, body in addresses if (found := _address(body))]
    routes: list[Route] = []
    for family in _VERSIONS:
        seen: list[Route] = []
        request = _ROUTE.pack(family, *[0] * 8)
        for _, body in ask(opened, _RTM_GETROUTE, request, DUMP):
            if len(seen) < MOST_ROUTES and (route := _route(body)):
                seen.append(route)
        routes += seen
    return HostNetwork(own, routes, devices)


def _device(body: bytes) -> tuple[int, Device]:
    [index] = _LINK.unpack_from(body)
    said = attributes(body[_LINK.size :])
    info = attributes(said.get(_IFLA_LINKINFO, b""))
    kind = info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
    data = attributes(info.get(_IFLA_INFO_DATA, b"")) if kind == "vrf" else {}
    parent = 0 if _IFLA_LINK_NETNSID in said else _number(said, _IFLA_LINK)
    table = _number(data, _IFLA_VRF_TABLE)
    return index, Device(parent, _number(said, _IFLA_MASTER), kind, table)


def _address(body: bytes) -> HostAddress | None:
    family, length, flags, _scope, device = _ADDRESS.unpack_from(body)
    said = attributes(body[_ADDRESS.size :])
    # IFA_LOCAL is the host's end where there is a peer, IFA_ADDRESS else.
    own = said.get(_IFA_LOCAL) or said.get(_IFA_ADDRESS)
    if family not in _VERSIONS or own is None:
        return None
    tentative = bool(flags & _IFA_F_TENTATIVE)
    return HostAddress(device, ip_address(own), length, said.get(_IFA_BROADCAST, b""), tentative)


def _route(body: bytes) -> Route | None:
    family, length, _, _, table, _, _, kind, flags = _ROUTE.unpack_from(body)
    if kind != RTN_UNICAST or flags & _RTM_F_CLONED:
        return None
    said = attributes(body[_ROUTE.size :])
    prefix = Prefix(_VERSIONS[family], length, int.from_bytes(said.get(_RTA_DST, b"")))
    if _RTA_OIF in said:
        hops = _one_hop(number(said[_RTA_OIF]), _gateway(said))
    else:
        hops = tuple(_multipath(said.get(_RTA_MULTIPATH, b"")))
    return Route(prefix, _number(said, _RTA_TABLE) or table, hops)


@lru_cache(maxsize=4096)
def _one_hop(device: int, gateway: bytes) -> tuple[Hop, ...]:
    """Of many routes the hop is the same."""
    return (Hop(device, gateway),)


def _multipath(octets: bytes) -> Iterator[Hop]:
    while len(octets) >= _NEXTHOP.size:
        length, _flags, _weight, device = _NEXTHOP.unpack_from(octets)
        if length < _NEXTHOP.size:
            return
        yield Hop(device, _gateway(attributes(octets[_NEXTHOP.size : length])))
        octets = octets[(length + 3) & ~3 :]


def _gateway(said: Attributes) -> bytes:
    return said.get(_RTA_GATEWAY) or said.get(_RTA_VIA, b"")[2:]  # struct rtvia: its family first


def _number(said: Attributes, kind: int) -> int:
    return number(said[kind]) if kind in said else 0


def _broadcasts(own: HostAddress) -> set[IPv4Address]:
    """An IPv4 address has the one that it names, and the one that the kernel makes of its prefix
    in any case (net/ipv4/fib_frontend.c: fib_add_ifaddr)."""
    if not isinstance(own.address, IPv4Address):
        return set()
    found = {IPv4Address(own.broadcast)} if own.broadcast else set()
    if own.length < 31:
        network = IPv4Network((int(own.address), own.length), strict=False)
        found.add(network.broadcast_address)
    return found

"""What the host knows of the uplink that is tried. It is looked at, and never changed."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_interface

from pyroute2 import AsyncIPRoute

from .. import uplink
from ..errors import Problem
from ..kernel.addresses import Address, host_addresses
from ..kernel.links import FAMILY, Link, LinkNotFound, Links, open_links, rtnetlink
from ..kernel.neighbours import neighbour_mac
from .ping import Echo, Pinger

Interface = IPv4Interface | IPv6Interface

_RTPROT_RA = 9  # include/uapi/linux/rtnetlink.h; network managers use it too
_IFA_F_TENTATIVE = 0x40


class TrialHost:
    """The host on one of its devices, as open_host() makes it."""

    def __init__(self, links: Links, ipr: AsyncIPRoute, found: uplink.Uplink) -> None:
        self._links = links
        self._ipr = ipr
        self._index = found.link.index
        self.name = found.link.name
        self.type = found.type
        self.takes_one_mac = found.takes_one_mac

    async def link(self) -> Link:
        """Return the device as it is now. Raises LinkNotFound."""
        return await self._links.by_index(self._index)

    async def child(self) -> tuple[str, str]:
        """Return the name of a macvlan or ipvlan device on it, and the kind of guests beside that.

        Both are "" if there is none.
        """
        child = await uplink.a_child(self._links, await self.link())
        return (child.name, FAMILY[child.kind]) if child else ("", "")

    async def addresses(self, family: int) -> list[Interface]:
        """Return its addresses of IPv4 or IPv6 (4 or 6) that are ready for use, with their
        networks."""
        found = []
        af = socket.AF_INET6 if family == 6 else socket.AF_INET
        async for message in await self._ipr.addr("dump", family=af):
            ready = not (message.get("flags") or message["flags"]) & _IFA_F_TENTATIVE
            if message["index"] == self._index and ready:
                address = message.get("local") or message.get("address")
                found.append(ip_interface((address, message["prefixlen"])))
        return found

    async def gateways4(self) -> list[IPv4Address]:
        """Return its IPv4 gateways there. Raises LinkError."""
        found = (await host_addresses(self._index)).gateways
        return sorted(address for address in found if isinstance(address, IPv4Address))

    async def hears_routers(self) -> bool:
        """Return whether it has a default route there that a router has advertised."""
        found = False
        async for message in await self._ipr.route("dump", family=socket.AF_INET6):
            advertised = message["proto"] == _RTPROT_RA and message["dst_len"] == 0
            hops = [message, *(message.get("multipath") or [])]
            found |= advertised and any(hop.get("oif") == self._index for hop in hops)
        return found

    async def knows(self, address: Address) -> bool:
        """Return whether an address there has answered its ARP or ND. Raises LinkError."""
        return await neighbour_mac(self._ipr, self._index, address) is not None

    async def ping(self, address: Address, seconds: float) -> Echo:
        """Ping an address out of the device. Raises OSError."""
        with Pinger(address, self.name) as pinger:
            return await pinger.echo(seconds)


@asynccontextmanager
async def open_host(device: str) -> AsyncIterator[TrialHost]:
    """Open the host on a device. Raises Problem no-such-device, no-nl80211, OSError."""
    async with open_links() as links, rtnetlink() as ipr:
        try:
            link = await links.by_name(device)
        except LinkNotFound as exc:
            raise uplink.absent(device) from exc
        found = uplink.inspect(link)
        if found.type == "other":
            raise Problem("bad-parent", f"{link.name} carries no Ethernet frames for guests")
        yield TrialHost(links, ipr, found)

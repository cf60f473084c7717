"""The throw-away guest: a network namespace whose only device is wired to a guest's tap.

So the kernel of this host is the guest's operating system as well: ARP, neighbour discovery,
autoconfiguration and answers to pings are its own. Frames are carried by this process's event
loop; the tap speaks no virtio-net header, for which the kernel completes checksums and segments.
Whatever ends this process ends the guest: namespace and tap are there by its descriptors alone.
"""

import asyncio
import os
import socket
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from ..errors import Problem, reason
from ..kernel import tap
from ..kernel.addresses import Address
from ..kernel.links import IFF_UP, LinkError, rtnetlink
from ..kernel.neighbours import forget_neighbour, neighbour_mac
from ..kernel.netns import Namespace
from ..names import octets
from ..packet import arp
from ..packet.ethernet import BROADCAST, ETH_P_ARP, ETH_P_IP
from .ping import Echo, Pinger

_LARGEST_FRAME = 1 << 16
_BURST = 64
_ANSWER_BYTES = 2048
_LOOK_S = 0.05
_AGAIN_S = 0.5

# include/uapi/linux/if_addr.h, rtnetlink.h
_IFA_F_DADFAILED = 0x08
_IFA_F_TENTATIVE = 0x40
_RTNH_F_ONLINK = 4

# What an ordinary guest has, whatever this host's defaults are (Documentation/networking/
# ip-sysctl.rst). It solicits routers at once, and every second; what a neighbour has told by
# itself, as a router does in its advertisements, it checks after one second.
_SYSCTLS = {
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/{}/rp_filter": "0",
    "ipv4/conf/{}/arp_ignore": "0",
    "ipv4/icmp_echo_ignore_all": "0",
    "ipv4/neigh/{}/delay_first_probe_time": "1",
    "ipv6/neigh/{}/delay_first_probe_time": "1",
    "ipv6/conf/{}/disable_ipv6": "0",
    "ipv6/conf/{}/addr_gen_mode": "0",
    "ipv6/conf/{}/accept_ra": "1",
    "ipv6/conf/{}/autoconf": "1",
    "ipv6/conf/{}/use_tempaddr": "0",
    "ipv6/conf/{}/router_solicitation_delay": "0",
    "ipv6/conf/{}/router_solicitation_interval": "1",
    "ipv6/conf/{}/router_solicitations": "-1",
}


@dataclass(frozen=True)
class GuestAddress6:
    """An IPv6 address of the guest's.

    ready: whether nobody else was found to have it.
    duplicate: whether somebody else was.
    """

    interface: IPv6Interface
    ready: bool
    duplicate: bool


class TrialGuest:
    """A guest behind an open tap, from start() to close().

    mac: the guest's.
    sent, received: how many frames it gave to the tap, and took from it.
    """

    def __init__(self, descriptor: int, mac: str) -> None:
        """descriptor is that of the tap; the guest owns it from now on."""
        self.mac = mac
        self.sent = self.received = 0
        self._outside = descriptor
        self._undo = AsyncExitStack()
        self._undo.callback(os.close, descriptor)

    async def start(self) -> None:
        """Make the guest. Raises Problem no-guest; close() is due all the same."""
        try:
            await self._make()
        except OSError as exc:
            raise Problem("no-guest", f"cannot make a guest in a namespace: {reason(exc)}") from exc

    async def close(self) -> None:
        """Let the guest go, and the tap with it; closing twice is fine."""
        await self._undo.aclose()

    async def _make(self) -> None:
        self._namespace = Namespace()
        self._undo.callback(self._namespace.close)
        with self._namespace.inside():
            self._inside, self.name = tap.open_tap(vnet_hdr=False)
            self._undo.callback(os.close, self._inside)
            self._index = socket.if_nametoindex(self.name)
            self._ipr = await self._undo.enter_async_context(rtnetlink())
            await self._set(address=self.mac)  # opens the socket, here inside
            for path, value in _SYSCTLS.items():
                with suppress(OSError):  # no IPv6, an older kernel, or a /proc/sys not to write to
                    Path("/proc/sys/net", path.format(self.name)).write_text(value)
            await self._set(flags=IFF_UP, change=IFF_UP)
        self._carry_from(self._inside, self.send_waiting)
        self._carry_from(self._outside, self._carry_in)

    async def _set(self, **attributes: object) -> None:
        try:
            await self._ipr.link("set", index=self._index, **attributes)
        except NetlinkError as exc:
            raise LinkError(exc.code, exc.args[-1]) from exc

    # Frames.

    def _carry_from(self, source: int, carry: Any) -> None:
        os.set_blocking(source, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(source, carry)
        self._undo.callback(loop.remove_reader, source)

    def _carry_in(self) -> None:
        self.received += self._carry(self._outside, self._inside)

    def _carry(self, source: int, sink: int) -> int:
        """Carry the frames that wait, up to a burst, and return how many."""
        carried = 0
        for _ in range(_BURST):
            try:
                frame = os.read(source, _LARGEST_FRAME)
            except BlockingIOError:
                break
            except OSError:  # the device has gone
                asyncio.get_running_loop().remove_reader(source)
                break
            # A device that is down or has no room: a wire drops the frame too.
            with suppress(OSError):
                os.write(sink, frame)
                carried += 1
        return carried

    # IPv4.

    async def take_address(self, address: IPv4Address, network: IPv4Network) -> None:
        """Take an address of a network that is on the link. Raises Problem no-guest."""
        try:
            await self._ipr.addr(
                "add", index=self._index, address=str(address), prefixlen=network.prefixlen
            )
        except NetlinkError as exc:
            raise Problem("no-guest", f"cannot configure {address}: {exc.args[-1]}") from exc

    async def take_router(self, router: IPv4Address) -> None:
        """Reach all else by a router, which is on the link whatever its address."""
        with suppress(NetlinkError):
            await self._ipr.route(
                "replace",
                dst="0.0.0.0/0",
                oif=self._index,
                gateway=str(router),
                flags=_RTNH_F_ONLINK,
            )

    def packets(self) -> socket.socket:
        """Open a socket for IPv4 packets, with or without an address. The caller closes it."""
        return self._packet_socket(socket.SOCK_DGRAM, ETH_P_IP)

    def send_packet(self, packets: socket.socket, packet: bytes, to: str | None = None) -> None:
        """Send an IPv4 packet to a MAC, None for all. Raises OSError."""
        packets.sendto(packet, (self.name, ETH_P_IP, 0, 0, octets(to) if to else BROADCAST))

    def send_waiting(self) -> None:
        """Give to the tap what has been sent and still waits: the guest's last words."""
        self.sent += self._carry(self._inside, self._outside)

    async def resolve_unconfigured(self, address: IPv4Address, seconds: float) -> str | None:
        """Ask by ARP who has an address, as one without its own; return the MAC that answers."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        with self._packet_socket(socket.SOCK_RAW, ETH_P_ARP) as frames:
            while loop.time() < end:
                frames.send(arp.who_has(address, octets(self.mac)))
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(_AGAIN_S, end - loop.time())):
                        return await self._arp_answer(frames, address)
        return None

    async def _arp_answer(self, frames: socket.socket, address: IPv4Address) -> str:
        # Behind MAC NAT it comes to all: nobody is known to have 0.0.0.0, which has asked.
        while True:
            frame = await asyncio.get_running_loop().sock_recv(frames, _ANSWER_BYTES)
            if mac := arp.answering_mac(frame, address):
                return mac.hex(":")

    def _packet_socket(self, kind: int, protocol: int) -> socket.socket:
        with self._namespace.inside():
            packets = socket.socket(socket.AF_PACKET, kind | socket.SOCK_NONBLOCK, 0)
            try:
                packets.bind((self.name, protocol))
            except BaseException:
                packets.close()
                raise
            return packets

    # IPv6.

    async def addresses6(self) -> list[GuestAddress6]:
        """Return the guest's IPv6 addresses, the link-local one included."""
        found = []
        async for message in await self._ipr.addr("dump", family=socket.AF_INET6):
            if message["index"] == self._index:
                flags = message.get("flags") or message["flags"]
                bad = bool(flags & _IFA_F_DADFAILED)
                interface = IPv6Interface((message.get("address"), message["prefixlen"]))
                found.append(
                    GuestAddress6(interface, not flags & _IFA_F_TENTATIVE and not bad, bad)
                )
        return found

    async def router6(self) -> IPv6Address | None:
        """Return the router that the guest has heard advertise itself."""
        found = None
        async for message in await self._ipr.route("dump", family=socket.AF_INET6):
            if message["dst_len"] == 0 and message.get("oif") == self._index:
                found = message.get("gateway") or found
        return None if found is None else IPv6Address(found)

    # Both.

    async def resolve(self, address: Address, seconds: float) -> str | None:
        """Have the guest's kernel find out the MAC of an address, by ARP or ND; None: silence."""
        loop = asyncio.get_running_loop()
        await forget_neighbour(self._ipr, self._index, address)
        end = loop.time() + seconds
        with self._pinger(address):  # each request makes the kernel ask
            while loop.time() < end:
                if mac := await neighbour_mac(self._ipr, self._index, address, asked=True):
                    return mac
                await asyncio.sleep(_LOOK_S)
        return None

    async def is_on_link(self, address: Address) -> bool:
        """Return whether the guest reaches an address without a router."""
        if address.is_link_local:
            return True
        try:
            [route] = await self._ipr.route("get", dst=str(address))
        except NetlinkError:  # not at all
            return False
        return route.get("gateway") is None

    async def mac_of(self, address: Address) -> str | None:
        """Return the MAC that the guest knows of an address."""
        return await neighbour_mac(self._ipr, self._index, address)

    async def ping(self, address: Address, seconds: float) -> Echo:
        """Ping an address. Raises OSError."""
        with self._pinger(address) as pinger:
            return await pinger.echo(seconds)

    def _pinger(self, address: Address) -> Pinger:
        with self._namespace.inside():
            return Pinger(address, self.name)

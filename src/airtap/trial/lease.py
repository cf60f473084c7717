"""A DHCP lease for the throw-away guest: asked for, taken, and given back at the end."""

import asyncio
import os
import socket
from collections.abc import Callable
from ipaddress import IPv4Interface

from ..names import octets
from ..packet import dhcp
from ..packet.dhcp import Answer
from .guest import TrialGuest

# When a request is sent again, in seconds after the first; then every _LATER_S.
_EARLY_S = (1.0, 3.0)
_LATER_S = 4.0

Notice = Callable[[str], None]


class NoLease(Exception):
    """There was none to be had. The text says how far it got."""


class Lease:
    """What a server leased. get() makes one; release() is due when the guest goes."""

    def __init__(self, guest: TrialGuest, answer: Answer) -> None:
        self.answer = answer
        self._guest = guest

    @property
    def interface(self) -> IPv4Interface:
        """The guest's address, with the network that is on the link."""
        return IPv4Interface((self.answer.address, self.answer.network.prefixlen))

    async def release(self) -> None:
        """Give the lease back: by one message, which is not answered. Raises OSError, LinkError."""
        server = self.answer.server
        routers = () if server in self.answer.network else self.answer.routers
        # A router passes it on; to all if neither is known: a server hears that too.
        known = [await self._guest.mac_of(hop) for hop in (server, *routers)]
        to = next((mac for mac in known if mac), None)
        message = dhcp.release(_number(), octets(self._guest.mac), self.answer)
        with self._guest.packets() as packets:
            self._guest.send_packet(packets, message, to)
        self._guest.send_waiting()


async def get(guest: TrialGuest, seconds: float, notice: Notice) -> Lease:
    """Ask for a lease and take the first that is offered, within so many seconds.

    notice: is told what is waited for.

    Raises NoLease, OSError.
    """
    exchange = _DhcpExchange(guest)
    seen = "no DHCP server answered"
    try:
        async with asyncio.timeout(seconds):
            with guest.packets() as packets:
                while True:
                    notice("a DHCP server to make an offer")
                    discover = dhcp.discover(exchange.xid, exchange.mac)
                    offer = await exchange.ask(packets, discover, (dhcp.OFFER,))
                    notice(f"{offer.server} to confirm its offer of {offer.address}")
                    seen = f"{offer.server} offered {offer.address} and did not confirm it"
                    request = dhcp.request(exchange.xid, exchange.mac, offer)
                    answer = await exchange.ask(packets, request, (dhcp.ACK, dhcp.NAK))
                    if answer.kind == dhcp.ACK:
                        return Lease(guest, answer)
                    seen = f"{answer.server} offered {offer.address} and then refused it"
                    exchange = _DhcpExchange(guest)
                    await asyncio.sleep(_EARLY_S[0])
    except TimeoutError:
        raise NoLease(seen) from None


class _DhcpExchange:
    """One exchange with servers, under a number of its own."""

    def __init__(self, guest: TrialGuest) -> None:
        self._guest = guest
        self.mac = octets(guest.mac)
        self.xid = _number()

    async def ask(self, packets: socket.socket, packet: bytes, kinds: tuple[int, ...]) -> Answer:
        """Send a packet, again and again, until an answer of these kinds comes."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        early = list(_EARLY_S)
        while True:
            self._guest.send_packet(packets, packet)
            again = began + early.pop(0) if early else loop.time() + _LATER_S
            try:
                async with asyncio.timeout_at(again):
                    return await self._answer(packets, kinds)
            except TimeoutError:
                continue

    async def _answer(self, packets: socket.socket, kinds: tuple[int, ...]) -> Answer:
        loop = asyncio.get_running_loop()
        while True:
            packet = await loop.sock_recv(packets, dhcp.LARGEST + 1)
            answer = dhcp.read(packet, self.xid, self.mac)
            if answer and answer.kind in kinds:
                return answer


def _number() -> int:
    return int.from_bytes(os.urandom(4))

"""Router probes: which routers an uplink has, told by the MACs with which they answer.

Networks of the same numbers differ in that (detecting network attachment, RFC 4436). A router is
asked for by ARP or neighbour discovery once after each time that the carrier came, so nobody can
have it asked for at will. It is another only if somebody answers at its address, and the former one
does not when it is asked itself, three times. A router that has just been switched on with the
link is waited for, asked ever less often.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from ..kernel.addresses import Address
from ..kernel.links import Link
from ..kernel.packet_socket import Exchange
from ..packet.neighbour import answering_mac, probe, solicitation

log = logging.getLogger(__name__)

_TIMES, _ANSWER_S = 3, 1.0  # as in neighbour unreachability detection (RFC 4861, 10)
_AGAIN_S, _AGAIN_MOST_S = 2.0, 300.0
MOST = 8  # to ask each time


class Router(NamedTuple):
    """A router's address, and the MAC with which it answers there."""

    address: str
    mac: str


Routers = frozenset[Router]


class RouterProbe:
    """Asks for the routers of one uplink. Needs a running event loop.

    on_found is called when one has answered.
    """

    def __init__(self, on_found: Callable[[], None]) -> None:
        self._on_found = on_found
        self._since: tuple[int, str] | None = None
        self._tasks: dict[Address, asyncio.Task[None]] = {}
        self._found: set[Router] = set()

    def close(self) -> None:
        """Ask no more."""
        for task in self._tasks.values():
            task.cancel()

    def routers(self, link: Link, gateways: Iterable[Address], former: Routers) -> Routers:
        """Return those of an uplink's gateways that have answered since it has carrier.

        The others are asked. former are those of before.
        """
        if self._since != (link.carrier_ups, link.mac):
            self.close()
            self._tasks, self._found = {}, set()
            self._since = link.carrier_ups, link.mac
        macs = dict(former)
        for address in sorted(gateways, key=str):
            if address not in self._tasks and len(self._tasks) < MOST:
                asking = self._ask(link, address, macs.get(str(address), ""))
                self._tasks[address] = asyncio.create_task(asking)
        return frozenset(self._found)

    async def _ask(self, link: Link, address: Address, holder: str) -> None:
        """Ask until somebody answers at an address; holder is the MAC of who did before."""
        wait = _AGAIN_S
        while True:
            answered: list[str] = []
            with suppress(OSError):  # it is down for the moment
                answered = await _answering(link, address, holder)
            if answered:
                mac = holder if holder in answered else answered[0]
                log.debug("%s: router %s has %s", link.name, address, mac)
                self._found.add(Router(str(address), mac))
                return self._on_found()
            await asyncio.sleep(wait)
            wait = min(2 * wait, _AGAIN_MOST_S)


async def _answering(link: Link, address: Address, holder: str) -> list[str]:
    """Return the MACs that answer at an address; holder alone as soon as that one does.

    Raises OSError.
    """
    found: list[str] = []
    with Exchange(link.name, promiscuous=False) as exchange:
        for _ in range(_TIMES):
            exchange.send(solicitation(address, link.mac))
            if holder:
                exchange.send(probe(address, 0, link.mac, holder))
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    while mac := await _answer(exchange, address, link.mac):
                        found.append(mac)
                        if holder in (mac, ""):
                            return [mac]
    return found


async def _answer(exchange: Exchange, address: Address, asker: str) -> str:
    """Wait for an answer, and return its MAC. Raises OSError."""
    while True:
        if mac := answering_mac(await exchange.receive(), address, asker):
            return mac

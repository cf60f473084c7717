"""No guest bears a MAC that the LAN uses.

A macvlan switches by MAC: what its guests have for the router goes to the one of them that bears
the router's MAC, if there is one. So a gateway's MAC, as the host's neighbour table has it, is
refused to whoever asks for it. Any other is found out when a frame comes in with it: with MAC NAT
no guest's MAC is on the LAN. A device that bears such a MAC, of whom the holder may change it at
any time, is kept down, which takes it out of the macvlan's table (drivers/net/macvlan.c:
macvlan_stop). It is up again once nobody on the LAN answers there, or its MAC is another.

An ipvlan does not switch by MAC, and the uplink's own is refused by the kernel.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from ..bpf.bearers import BearerTable
from ..kernel.addresses import Address, host_addresses
from ..kernel.links import Link, LinkError, LinkNotFound, Links
from ..kernel.neighbours import neighbour_macs
from ..kernel.packet_socket import send
from ..packet.neighbour import probe

log = logging.getLogger(__name__)

# How often the LAN is asked whether it still uses a MAC, and for how long it must have been silent:
# several questions. Nobody can be asked of whom no address is known.
_ASK_S = 1.0
_SILENT_S = 4.0
_SILENT_UNASKED_S = 60.0
# For how long what comes in may be a guest's own, from before MAC NAT was on: echoes of switches
# and access points, frames on their way.
_ECHOES_S = 3.0
# A device that changes its MAC so often within so many seconds bears none for long enough to be
# seen with it, neither here nor by the LAN. No guest needs that.
_RESTLESS, _RESTLESS_S = 6, 30.0
# How long it is known of a MAC that no guest bears any more.
_KEPT_S = 600.0


class LanMacs:
    """The guests of one uplink whose MAC the LAN uses. Needs a running event loop.

    gateways are the addresses of those of the uplink; gateway is the MAC of the guest that may be
    one, "" for none.
    enqueue is called for a device that is to be looked at again.
    """

    def __init__(self, table: BearerTable, links: Links, enqueue: Callable[[int], None]) -> None:
        self._table = table
        self._links = links
        self._enqueue = enqueue
        self._routers: dict[str, Address] = {}
        self._begun = float("-inf")
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._changes: dict[int, tuple[str, list[float]]] = {}
        self.gateways: Collection[Address] = ()
        self.gateway = ""

    def close(self) -> None:
        """Leave all as it is."""
        for timer in self._timers.values():
            timer.cancel()

    def begin(self) -> None:
        """Note that the LAN is another, or that guests' MACs are on it no more, from now on."""
        self._begun = time.monotonic() + _ECHOES_S
        self._routers = {}

    def is_held(self, index: int) -> bool:
        """Tell whether a device is kept down."""
        return self._table.is_held(index)

    def held_for(self, index: int) -> str:
        """Tell in words for whom a device is kept down; "" if it is not."""
        if not self.is_held(index):
            return ""
        mac = self._table.mac(index)
        return self._restlessness(index) or self.user(mac) or f"{mac} was in use"

    def user(self, mac: str) -> str:
        """Tell in words who on the LAN uses a MAC; "" for nobody that was seen."""
        if mac in self._routers:
            return _of_gateway(mac, self._routers[mac])
        address, _vlan = self._table.address(mac)
        if self._is_seen(mac) and self._table.last_seen(mac) > self._begun:
            where = f" at {address}" if address else ""
            return f"{mac} is the MAC address of a station of the LAN{where}"
        return ""

    async def forget(self, index: int) -> None:
        """Leave a device alone from now on, up. It is no error that it is not known, or gone."""
        if self.is_held(index):
            with suppress(LinkError):  # it is gone, or a sibling has taken its MAC
                await self._links.set_up(index)
        self._table.remove(index)
        self._changes.pop(index, None)
        if timer := self._timers.pop(index, None):
            timer.cancel()

    def note_gateways(self, uplink: Link, children: Collection[Link]) -> None:
        """Find out the MACs of gateways, if any of these children has another MAC than before.

        Call this before enforce(). Raises LinkError.
        """
        macvtaps = [link for link in children if _counts(link, uplink)]
        if any(self._is_new(link) or self.is_held(link.index) for link in macvtaps):
            noted = neighbour_macs(uplink.index)
            found = {mac: at for at, mac in noted.items() if at in self.gateways}
            self._routers = {mac: at for mac, at in found.items() if mac != self.gateway}

    async def enforce(self, uplink: Link, link: Link) -> None:
        """Keep a child down if it is a macvtap whose MAC the LAN uses, and only then.

        Raises LinkError, LinkNotFound.
        """
        if not _counts(link, uplink):
            return
        if self._is_new(link):
            self._table.add(link.index, link.mac)
            self._ask(uplink, link.mac)
        if why := self._restlessness(link.index) or self.user(link.mac):
            await self._hold(uplink, link, why)
        elif self.is_held(link.index):
            await self._let_go(uplink, link)
        elif self._is_seen(link.mac):
            self._ask_later(uplink, link)

    def _is_seen(self, mac: str) -> bool:
        """Tell whether a MAC came in of late, be it as an echo."""
        silence = _SILENT_S if self._table.address(mac)[0] else _SILENT_UNASKED_S
        last_seen = self._table.last_seen(mac)
        # The clock begins with the host: soon after, never is not long ago.
        return bool(last_seen) and last_seen > time.monotonic() - silence

    def _is_new(self, link: Link) -> bool:
        return self._table.mac(link.index) != link.mac

    async def _hold(self, uplink: Link, link: Link, why: str) -> None:
        """Keep a device down. One that somebody else has taken down is theirs to bring up."""
        if link.up:
            if not self.is_held(link.index):
                what = "%s is kept down: %s; give its guest another MAC address"
                log.warning(what, link.name, why)
            self._table.set_held(link.index, True)
            await self._links.set_down(link.index)
        if self.is_held(link.index):
            self._ask_later(uplink, link)

    async def _let_go(self, uplink: Link, link: Link) -> None:
        try:
            await self._links.set_up(link.index)
        except LinkNotFound:
            raise
        except LinkError:  # a sibling has taken the MAC meanwhile
            return self._ask_later(uplink, link)
        self._table.set_held(link.index, False)
        self._table.forget(before=time.monotonic() - _KEPT_S)
        log.info("%s is up again: nobody else has %s", link.name, link.mac)

    def _ask_later(self, uplink: Link, link: Link) -> None:
        """Ask the LAN whether it still uses a device's MAC; from_uplink notes the answer."""
        if timer := self._timers.get(link.index):
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[link.index] = loop.call_later(_ASK_S, self._ask_again, uplink, link)

    def _ask_again(self, uplink: Link, link: Link) -> None:
        del self._timers[link.index]
        self._ask(uplink, link.mac)
        self._enqueue(link.index)

    def _ask(self, uplink: Link, mac: str) -> None:
        """Ask whoever has used a MAC on the LAN, if anybody was seen to."""
        address, vlan = self._table.address(mac)
        if address:
            send(uplink.name, [probe(address, vlan, uplink.mac, mac)])

    def note_mac(self, index: int, mac: str) -> None:
        """Note a MAC that a device has borne, if for a moment only: reconciling sees some."""
        now = asyncio.get_running_loop().time()
        last, times = self._changes.get(index, (mac, []))
        if mac != last:
            times = [*(at for at in times if at > now - _RESTLESS_S), now][-_RESTLESS:]
        self._changes[index] = mac, times

    def _restlessness(self, index: int) -> str:
        """Tell in words that a device changes its MAC too often to be looked at; "" if not."""
        _mac, times = self._changes.get(index, ("", []))
        now = asyncio.get_running_loop().time()
        if len([at for at in times if at > now - _RESTLESS_S]) < _RESTLESS:
            return ""
        return f"its MAC address has changed {_RESTLESS} times in {_RESTLESS_S:g} s"


async def gateway_with(uplink: int, mac: str, allowed: str) -> str:
    """Tell in words which gateway behind a device (ifindex) has a MAC; "" for none.

    allowed is the MAC of a guest that may be one. Raises OSError.
    """
    if mac == allowed:
        return ""
    addresses = {address for address, known in neighbour_macs(uplink).items() if known == mac}
    gateways = (await host_addresses(uplink)).gateways if addresses else set()
    return next((_of_gateway(mac, address) for address in addresses & gateways), "")


def _counts(link: Link, uplink: Link) -> bool:
    """Tell whether a child's MAC is to be its own alone; in mode passthru it has the uplink's."""
    return link.kind == "macvtap" and link.mac != uplink.mac


def _of_gateway(mac: str, address: Address) -> str:
    return f"{mac} is the MAC address of gateway {address}"

"""A station's 4-address mode: switched on and off, and kept only if frames pass.

With it a station sends frames of any MAC, and so needs no MAC NAT and may be the port of a bridge.
The access point has to take such frames, and nothing tells beforehand whether it does: one that
does not drops all that the station sends, the host's own included. So who answers the host is
asked in a guest's place, from a MAC that the access point has never seen. Without an answer the
mode is switched back, and what was before is waited for.

An access point that has taken 4-address frames goes on to send them, which the station drops once
the mode is off (mac80211: __ieee80211_data_to_8023). It forgets that with the association.
"""

import asyncio
import errno
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from pyroute2 import AsyncIPRoute

from . import uplink
from .config import Config
from .errors import Problem, reason
from .kernel import nl80211
from .kernel.addresses import host_addresses
from .kernel.links import Link, LinkNotFound, Links, open_links, rtnetlink
from .kernel.neighbours import neighbours
from .kernel.packet_socket import Exchange
from .names import octets, random_mac
from .packet.ndp import link_local
from .packet.neighbour import Address, is_answer, solicitation

# Seconds.
_ANSWER_S = 3.0
_PASS_S = 10.0
_ASSOCIATE_S = 30.0
_AGAIN_S = 0.5  # between questions
_MOST = 8  # neighbours to ask

Say = Callable[[str], None]
Pair = tuple[Address, str]


async def switch(name: str, on: bool, config: Config, say: Say) -> str:
    """Switch the 4-address mode of the station called name, which may be an alias.

    say: is told what is waited for, where that takes long.

    Returns one line about what has become of it. Raises Problem no-such-device, not-wifi,
    not-root, parent-busy (off, and the port of a bridge), not-associated, nothing-to-ask,
    no-answer, no-4addr (the access point does not take such frames, or the driver does not make
    them); the mode is then as it was.
    """
    try:
        async with open_links() as links, rtnetlink() as ipr:
            link = await _device(links, config, name)
            mode = "on" if on else "off"
            if _is_on(link) == on:
                return f"{link.name}: 4-address mode is {mode} already"
            if not on:
                _expect_no_bridge(links, link)
            elif not any(nl80211.station_bss(link.index)):
                raise Problem(
                    "not-associated",
                    f"{link.name} is not on any network, so whether its access point takes"
                    " 4-address frames cannot be found out",
                    "connect it first",
                )
            addresses = await _addresses(ipr, link.index)
        with Exchange(link.name) as exchange:
            station = _Station(link, exchange, say)
            return await (station.switch_on if on else station.switch_off)(addresses)
    except OSError as exc:
        raise _problem(name, exc) from exc


async def _device(links: Links, config: Config, name: str) -> Link:
    device = await uplink.choose(links, config, name)
    try:
        return await links.by_name(device)
    except LinkNotFound as exc:
        raise uplink.absent(device) from exc


def _is_on(link: Link) -> bool:
    found = uplink.inspect(link)
    kind = found.type
    if found.station:
        what = f"{link.name} is no Wi-Fi station itself"
        raise Problem("not-wifi", what, f"name the station below it: {found.station.name}")
    if kind not in ("wifi-station", "wifi-4addr"):
        raise Problem("not-wifi", f"{link.name} is no Wi-Fi station, but of type {kind}")
    return kind == "wifi-4addr"


def _expect_no_bridge(links: Links, link: Link) -> None:
    """As the kernel would (net/wireless/nl80211.c: nl80211_valid_4addr), but with a name."""
    if link.slave_kind == "bridge":
        bridge = links.name_of(link.master)
        raise Problem(
            "parent-busy",
            f"{link.name} is a port of bridge {bridge}, which takes 4-address mode",
            f"take it out of {bridge} first: ip link set {link.name} nomaster",
        )


async def _addresses(ipr: AsyncIPRoute, index: int) -> list[Address]:
    """Who is to answer: the gateways, else neighbours."""
    gateways = (await host_addresses(index)).gateways
    return sorted(gateways, key=str) or (await neighbours(ipr, index))[:_MOST]


class _Station:
    """A station while its mode is switched. exchange: sends and receives on its device."""

    def __init__(self, link: Link, exchange: Exchange, say: Say) -> None:
        self._link = link
        self._name = link.name
        self._exchange = exchange
        self._say = say

    async def switch_on(self, addresses: Collection[Address]) -> str:
        """Switch on what is off, and keep it if those at addresses answer."""
        if not addresses:
            raise Problem(
                "nothing-to-ask",
                f"{self._name} has no gateway and knows no neighbour, so whether frames pass"
                " cannot be found out",
                "give it an address and a default route, or reach another host through it",
            )
        known = await self._answering(addresses)
        if not known:
            raise Problem(
                "no-answer",
                f"{_named(addresses)} does not answer {self._name} as it is now, so 4-address"
                " frames cannot be tried",
            )
        foreign = random_mac()
        asked = {(address, mac) for address in known for mac in (self._link.mac, foreign)}
        self._set(True)
        try:
            self._say(
                f"{self._name}: waiting up to {_PASS_S:.0f} s for {_named(known)} to answer"
                " 4-address frames"
            )
            silent = await self._unanswered(asked, _PASS_S)
            back = not silent or await self._off(known)
        except BaseException:
            await self._give_up()
            raise
        if silent:
            raise self._refused(silent == asked, back)
        return f"{self._name}: 4-address mode is on, and frames of other MACs pass"

    async def switch_off(self, addresses: Collection[Address]) -> str:
        """Switch off what is on. It may be wanted just because nothing passes."""
        known = await self._answering(addresses)
        if not await self._off(known):
            self._set(True)
            self._say(f"{self._name}: on again, waiting up to {_PASS_S:.0f} s for an answer")
            back = not await self._unanswered(self._by_own(known), _PASS_S)
            raise Problem(
                "no-answer",
                f"without 4-address frames, {_named(known)} does not answer {self._name} any more:"
                f" they are on again, and {_passing(back)}",
            )
        unknown = "" if known else "; nobody was known to answer, so frames were not tried"
        return f"{self._name}: 4-address mode is off{unknown}"

    async def _answering(self, addresses: Iterable[Address]) -> list[Address]:
        """Those of addresses that answer the station now."""
        asked = self._by_own(addresses)
        silent = await self._unanswered(asked, _ANSWER_S)
        return [address for address, _mac in sorted(asked - silent, key=str)]

    async def _off(self, known: Collection[Address]) -> bool:
        """Switch off, and see to it that those known answer again; return whether they do."""
        self._set(False)
        asked = self._by_own(known)
        if known and not await self._unanswered(asked, _ANSWER_S):
            return True
        return await self._associate_anew(asked)

    async def _associate_anew(self, asked: set[Pair]) -> bool:
        """Begin a new association, and wait until all answer; return whether."""
        if not nl80211.associate_anew(self._link.index):
            return not asked
        if asked:
            self._say(
                f"{self._name}: waiting up to {_ASSOCIATE_S:.0f} s for it to associate anew, as the"
                " access point still sends 4-address frames"
            )
            return not await self._unanswered(asked, _ASSOCIATE_S)
        await self._unanswered({(link_local(octets(random_mac())), self._link.mac)}, _ANSWER_S)
        return True

    async def _give_up(self) -> None:
        """Go back at once, without knowing what the access point made of it."""
        try:
            nl80211.set_4addr(self._link.index, False)
        except OSError as exc:
            self._say(f"{self._name}: 4-address mode cannot be switched off again: {reason(exc)}")
        with suppress(OSError):
            await self._associate_anew(set())

    def _refused(self, all_silent: bool, back: bool) -> Problem:
        after = f"4-address mode is off again, and {_passing(back)}"
        if all_silent:
            return Problem(
                "no-4addr",
                f"the access point of {self._name} takes no 4-address frames: {after}",
                "it has to be set up for that: WDS in many menus, wds_sta=1 for hostapd",
            )
        return Problem(
            "no-4addr",
            f"behind {self._name}, not all 4-address frames are answered, as those of a MAC other"
            f" than its own: {after}",
        )

    def _by_own(self, addresses: Iterable[Address]) -> set[Pair]:
        return {(address, self._link.mac) for address in addresses}

    async def _unanswered(self, asked: Iterable[Pair], seconds: float) -> set[Pair]:
        """Ask for each address from its MAC until all have answered, for so long at most."""
        loop = asyncio.get_running_loop()
        silent, end = set(asked), loop.time() + seconds
        while silent and loop.time() < end:
            for address, mac in silent:
                self._exchange.send(solicitation(address, mac))
            with suppress(OSError):  # TimeoutError, or the device is down for a moment
                async with asyncio.timeout(_AGAIN_S):
                    while silent:
                        frame = await self._exchange.receive()
                        silent -= {pair for pair in silent if is_answer(frame, *pair)}
        return silent

    def _set(self, on: bool) -> None:
        try:
            nl80211.set_4addr(self._link.index, on)
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP:
                what = f"the driver of {self._name} has no 4-address mode"
                raise Problem("no-4addr", what) from exc
            raise


def _problem(name: str, error: OSError) -> Problem:
    if error.errno in (errno.EPERM, errno.EACCES):
        return Problem("not-root", f"only root may switch {name}'s 4-address mode")
    if error.errno in (errno.ENODEV, errno.ENXIO):
        return Problem("no-such-device", f"{name} has gone")
    return Problem("no-4addr", f"cannot switch {name}'s 4-address mode: {reason(error)}")


def _named(addresses: Iterable[Address]) -> str:
    return ", ".join(map(str, addresses))


def _passing(back: bool) -> str:
    return "frames pass as before" if back else "nothing has answered since"

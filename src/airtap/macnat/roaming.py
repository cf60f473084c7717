"""Roaming: which network an uplink is on, and what another one means for its guests.

A station knows its network's name (SSID), and a host its own subnets there and, where there is no
name, its router (network attachment detection, RFC 4436). Between access points of one network none
of them changes; nor when a laptop wakes up where it fell asleep.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, ip_network

from .. import uplink
from ..bpf.macnat import Macnat
from ..bpf.records import Event
from ..errors import Problem
from ..kernel import nl80211
from ..kernel.addresses import Address, Subnet, overlap
from ..kernel.links import Link
from .router_probe import MOST, Router, Routers

log = logging.getLogger(__name__)

Subnets = frozenset[Subnet]

# For how long what guests still use of a network that was left is not learned again: meanwhile they
# are made to ask for new leases. Then they are asked what they have of it still: they may have
# static addresses, on a wire where only the host has others now.
LEFT_S = 120.0
_DROPPED = 1024


class Change(StrEnum):
    """Why guests are to ask for new leases, if they are; in words that follow "is on"."""

    NONE = ""
    FIRST = "its first network"
    OTHER = "another network"


@dataclass(frozen=True)
class UplinkCallbacks:
    """Who is told of uplinks that move, go and come back.

    on_moved is called with the name of an uplink whose guests are to ask for new leases, and with
    what to call once they have been seen to. on_lost is called with the name of an uplink that is
    gone. on_seen is called with each device that has changed while is_awaiting says that one is
    expected back.
    """

    on_moved: Callable[[str, Callable[[], None]], None]
    on_lost: Callable[[str], None]
    on_seen: Callable[[Link], None]
    is_awaiting: Callable[[], bool]


@dataclass(frozen=True)
class Attachment:
    """What was last known of an uplink's network.

    ssid is b"" before a station was on any, and without Wi-Fi.
    subnets are those of the host's addresses there.
    left are the subnets of the network before.
    unsettled tells that the name is new, and that the host may not have its new addresses yet.
    carrier tells whether there ever was one; None before anybody has looked.
    routers are those that have answered, on a network without a name.
    """

    ssid: bytes = b""
    subnets: Subnets = frozenset()
    left: Subnets = frozenset()
    unsettled: bool = False
    carrier: bool | None = None
    routers: Routers = frozenset()

    def without_carrier(self) -> "Attachment":
        """Return what is known once no carrier was seen: all stays as it was."""
        return replace(self, carrier=bool(self.carrier))

    def update(
        self, ssid: bytes, subnets: Subnets, routers: Routers = frozenset()
    ) -> "tuple[Attachment, Change]":
        """Return what is known once these were seen, with carrier, and what has changed.

        What is not there (the name is hidden, the host has no lease of a family yet, no router has
        answered) stays as it was.
        """
        renamed = bool(self.ssid and ssid) and self.ssid != ssid
        resettled = self._is_resettled(subnets)
        macs = dict(self.routers)
        replaced = any(macs.get(address, mac) != mac for address, mac in routers)
        kept = subnets if resettled else subnets | _lacking(self.subnets, subnets)
        known = Attachment(
            ssid or self.ssid,
            kept,
            (self.subnets if resettled else self.left) - subnets,
            (self.unsettled or renamed) and not resettled,
            carrier=True,
            routers=routers if renamed or resettled or replaced else self._and(routers),
        )
        if renamed or replaced or (resettled and not self.unsettled):
            return known, Change.OTHER
        return known, Change.FIRST if self.carrier is False else Change.NONE

    def _is_resettled(self, subnets: Subnets) -> bool:
        """Tell whether no subnet of a family that was there and is there is near one of before."""
        common = _families(self.subnets) & _families(subnets)
        pairs = [(old, new) for old in self.subnets for new in subnets]
        return bool(common) and not any(overlap(old, new) for old, new in pairs)

    def _and(self, routers: Routers) -> Routers:
        """Return the routers that are known with these, of which an address has one."""
        macs = dict([*self.routers, *routers])
        return frozenset(map(Router._make, macs.items())) if len(macs) <= MOST else routers

    def to_text(self) -> str:
        """Return this in the form that from_text() reads."""
        return json.dumps(
            {
                "ssid": self.ssid.hex(),
                "subnets": sorted(map(str, self.subnets)),
                "left": sorted(map(str, self.left)),
                "unsettled": self.unsettled,
                "carrier": self.carrier,
                "routers": sorted(self.routers),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> "Attachment":
        """Return what to_text() has written; nothing is known if it is something else."""
        try:
            known = json.loads(text)
            subnets, left = (frozenset(map(ip_network, known[key])) for key in ("subnets", "left"))
            ssid, unsettled = bytes.fromhex(known["ssid"]), bool(known["unsettled"])
            routers = frozenset(map(Router._make, known.get("routers", ())))
            return cls(ssid, subnets, left, unsettled, known.get("carrier", True), routers)
        except (ValueError, KeyError, TypeError):
            return cls()

    def is_stale(self, address: Address) -> bool:
        """Tell whether an address is of the network before this one, and not of this."""
        return _is_in(address, self.left) and not _is_in(address, self.subnets)


class Roaming:
    """Follows one uplink from network to network. Needs a running event loop.

    All that guests have used is forgotten on another network, and of the one that was left it
    stays so for LEFT_S; then probe is called with the ifindex, address and VLAN of each.
    """

    def __init__(self, nat: Macnat, probe: Callable[[int, Address, int], None]) -> None:
        self._nat = nat
        self._probe = probe
        self._dropped: set[tuple[int, Address, int]] = set()
        self._attachment = Attachment.from_text(nat.note.read())
        self._is_settled = True
        self._needs_renew: set[int] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._leave()

    def close(self) -> None:
        """Leave all as it is."""
        for timer in filter(None, (self._sweep, self._leaving)):
            timer.cancel()

    def needs_renew(self, index: int) -> bool:
        """Tell whether a child's guest was not heard with an IPv4 address on this network yet."""
        return index in self._needs_renew

    def without_carrier(self) -> None:
        """Note that the uplink has no carrier."""
        self._note(self._attachment.without_carrier())

    @property
    def routers(self) -> Routers:
        """The routers that are known of the network where the uplink was last."""
        return self._attachment.routers

    def update(
        self, ssid: bytes, subnets: Subnets, routers: Routers, children: Iterable[int]
    ) -> Change:
        """Note where the uplink is with its children, and return what has changed."""
        known, change = self._attachment.update(ssid, subnets, routers)
        self._is_settled = self._is_settled and not change
        self._note(known)
        self._forget_stale(everything=change == Change.OTHER)
        if change:
            self._needs_renew = set(children) - self._heard()
        return change

    def _heard(self) -> set[int]:
        """Return the children of which an IPv4 address is known."""
        entries = self._nat.addresses.all()
        return {entry.ifindex for entry in entries if isinstance(entry.address, IPv4Address)}

    def _note(self, known: Attachment) -> None:
        before, self._attachment = self._attachment, known
        if known.left != before.left:
            self._leave()
        if self._is_settled and known != before:
            self.settle()

    def settle(self) -> None:
        """Note that all is done that another network asks for, so the next airtapd leaves it."""
        self._is_settled = True
        self._nat.note.write(self._attachment.to_text())

    def forget(self, index: int) -> None:
        """Forget a child. It is no error that it is not known."""
        self._needs_renew.discard(index)

    def reject(self, event: Event) -> bool:
        """Tell whether an event is of the network that was left; what it says is forgotten then.

        Any other that tells of an IPv4 address shows that its guest has come along.
        """
        is_learned = event.what in ("learned", "moved")
        if event.what == "suppressed" and self._leaving:
            self._sweep_soon()
        if event.address and self._attachment.is_stale(event.address):
            if is_learned and self._leaving:
                self._drop(event.ifindex, event.address, event.vlan)
            return self._leaving is not None
        if is_learned and isinstance(event.address, IPv4Address):
            self._needs_renew.discard(event.ifindex)
        return False

    def _leave(self) -> None:
        """Forget for a while what is learned of the network that was left."""
        if self._leaving:
            self._leaving.cancel()
        left = bool(self._attachment.left)
        loop = asyncio.get_running_loop()
        self._leaving = loop.call_later(LEFT_S, self._end_leaving) if left else None

    def _end_leaving(self) -> None:
        self._leaving = None
        dropped, self._dropped = self._dropped, set()
        for each in dropped:
            self._probe(*each)

    def _sweep_soon(self) -> None:
        """Forget in a second what a guest uses of the left network too often to be told of it."""
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(1.0, self._end_sweep)

    def _end_sweep(self) -> None:
        self._sweep = None
        self._forget_stale(everything=False)

    def _forget_stale(self, *, everything: bool) -> None:
        """Forget addresses of the network that was left, or all of them."""
        for entry in self._nat.addresses.all():
            if everything or (self._leaving and self._attachment.is_stale(entry.address)):
                self._drop(entry.ifindex, entry.address, entry.vlan)

    def _drop(self, ifindex: int, address: Address, vlan: int) -> None:
        self._nat.addresses.forget(address, vlan)
        if self._attachment.is_stale(address) and len(self._dropped) < _DROPPED:
            self._dropped.add((ifindex, address, vlan))


def network_name(link: Link) -> tuple[bytes, bytes]:
    """Return the SSID of a station's network, b"" for none and for one that hides it, and the MAC
    of its access point there. Blocks.

    Of a bond, team or VLAN, that of the station by which it sends.
    """
    try:
        found = uplink.inspect(link)
        station = (found.station or link) if found.type.startswith("wifi") else None
        name, bssid = nl80211.station_bss(station.index) if station else (b"", b"")
    except (Problem, OSError) as exc:
        log.warning("cannot ask for the network of %s: %s", link.name, exc)
        name = bssid = b""
    return name.strip(b"\0"), bssid


def _families(subnets: Subnets) -> set[int]:
    return {subnet.version for subnet in subnets}


def _lacking(before: Subnets, now: Subnets) -> Subnets:
    """Return those of the families of which there are none now."""
    return frozenset(subnet for subnet in before if subnet.version not in _families(now))


def _is_in(address: Address, subnets: Subnets) -> bool:
    return any(address in subnet for subnet in subnets)

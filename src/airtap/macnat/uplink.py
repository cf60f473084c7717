"""MAC NAT and host access at work on one uplink: its guests, what it reports, and questions to
them."""

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

from pyroute2 import AsyncIPRoute

from ..alias import Owner, guest_mac
from ..bpf.macnat import Macnat
from ..bpf.records import UNKNOWN_MAC, Event
from ..bpf.role import Role
from ..kernel.addresses import Subnet, host_addresses
from ..kernel.links import GROUP, Link, LinkNotFound, Links
from ..kernel.packet_socket import send
from ..packet.neighbour import gratuitous
from .address_probe import AddressProbes
from .binding_cache import BindingCache
from .policy import is_sociable
from .roaming import Attachment

log = logging.getLogger(__name__)


class UplinkState:
    """MAC NAT and host access at work on one uplink. Needs a running event loop.

    role: what is on. With translate, guests get the uplink's MAC; without, those of ipvtaps must
    use it, and those of macvtaps have their own on the wire.
    children: ifindex to MAC, None while it is to be learned; know() and forget() change it.
    meeting: those among them which the host may meet. stranded: those that have not been heard on
    the network where the uplink is now.
    expected: attaches under way, for whose sake it stays on without a child. inquiries: to guests.
    on_spoke: called with the ifindex of a child whose guest has told its MAC.
    """

    def __init__(
        self,
        link: Link,
        role: Role,
        nat: Macnat,
        links: Links,
        ipr: AsyncIPRoute,
        former: BindingCache,
        on_spoke: Callable[[int], None],
    ) -> None:
        self.link = link
        self.role = role
        self.nat = nat
        self._links = links
        self._ipr = ipr
        self.children: dict[int, str | None] = {}
        self.meeting: set[int] = set()
        self.stranded: set[int] = set()
        self._where = Attachment.from_text(nat.note.read())
        self._unsettled = False
        self._sweeping: asyncio.TimerHandle | None = None
        self.expected = 0
        self._awaited = 0.0
        self._former = former
        self._on_spoke = on_spoke
        self.inquiries = AddressProbes(nat, link.name)
        self._loop = asyncio.get_running_loop()
        self._events = nat.events.open(self._on_event)
        self._loop.add_reader(self._events, nat.events.consume)

    def close(self, *, remove: bool = False) -> None:
        """End this object; what is attached goes on. remove: forget the pinned state too."""
        self._loop.remove_reader(self._events)
        self.inquiries.close()
        if self._sweeping:
            self._sweeping.cancel()
        if remove:
            self.nat.remove()
        else:
            self.nat.close()

    def await_child(self, seconds: float) -> None:
        """Stay needed for so long, for a child that somebody else is to make."""
        self._awaited = self._loop.time() + seconds

    @property
    def has_host_access(self) -> bool:
        """Whether the host meets a guest."""
        return self.role.host_access and bool(self.meeting)

    def is_needed(self) -> bool:
        """Whether there is a child, or is to be one."""
        return bool(self.children or self.expected) or self._loop.time() < self._awaited

    async def set_up(self, link: Link, role: Role, mode: str) -> frozenset[Subnet]:
        """Programs on the uplink for a role, with all that must be known before a frame passes.

        mode: of the children; "" to leave it as it is. Returns the subnets that the host is in
        there. Raises BpfError, LinkError.
        """
        self.nat.config.set_role(role, mode)
        addresses = await host_addresses(self._ipr, link.index)
        self.nat.hosts.set_addresses(addresses.own | addresses.gateways, addresses.broadcasts)
        self.nat.hosts.set_on_link(addresses.on_link)
        self.nat.config.set_parent(link.index, link.mac)
        await self.nat.programs.attach(self._ipr, link.index, role.on_parent)
        return addresses.subnets

    async def keep(self, children: list[Link], among: set[int] | None) -> None:
        """Make the guests, among devices or all, those on the children that are there."""
        known = self.nat.guests.macs()
        gone = (known.keys() | self.children.keys()) - {link.index for link in children}
        for index in gone if among is None else gone & among:
            self.forget(index)
        if among is None:
            self._part_strangers()
        for link in children:
            try:
                await self._keep_one(link, known.get(link.index, UNKNOWN_MAC))
            except LinkNotFound:
                continue  # its own notification follows
            except OSError as exc:  # no fault of its siblings
                log.error("%s: its guest is not heard: %s", link.name, exc)

    async def guard(self, index: int, mac: str | None) -> None:
        """Guard a child and learn on it. Raises BpfError, LinkError.

        mac: None if it is not known; it may have been learned since the kernel was asked.
        """
        mac = mac or self.children.get(index)
        if index not in self.children or self.children[index] != mac:
            self.know(index, mac)
        await self.nat.programs.attach(self._ipr, index, self.role.on_child)

    async def _keep_one(self, link: Link, heard: str) -> None:
        """heard: the MAC that learn has."""
        foreign = link.kind == "macvtap" and link.group != GROUP
        if foreign and link.index not in self.children:  # what daemon/broker.py gives ours
            self._links.keep_host_off(link.name)
            await self._links.set_allmulti(link.index)
        await self.guard(link.index, await self._guest_mac(link, heard))
        self.let_meet(link.index, self.role.host_access and is_sociable(link))

    async def _guest_mac(self, link: Link, heard: str) -> str | None:
        """The MAC of a child's guest; None if it is a device of ours that still learns it.

        That of an ipvtap is written into the alias once heard, where status finds it.
        """
        is_ipvtap = self.role.kind == "ipvtap"
        if is_ipvtap and not self.role.translate:
            return link.mac
        owner = Owner.from_alias(link.alias) if link.group == GROUP else None
        if is_ipvtap and owner and owner.learning and heard != UNKNOWN_MAC:
            owner = replace(owner, learning=False, mac=heard)
            await self._links.set_alias(link.index, owner.to_alias())
            log.info("%s: the guest is %s", link.name, heard)
        return guest_mac(link.mac, owner)

    def know(self, index: int, mac: str | None) -> None:
        """Note a child, or its MAC; a guest that was here before has its addresses again.

        Guests that use the uplink's MAC are not known by it.
        """
        if self.children.get(index) != mac:
            self._part(index)
        for other, known in list(self.children.items()):
            # Of a guest that is quicker back than the news of its end.
            if mac and known == mac and other != index and not _is_there(other):
                self.forget(other)
        self.nat.guests.add(index, mac)
        self.children[index] = mac
        if mac and self.role.translate:
            self.nat.addresses.restore_bindings(index, mac, self._former.take(self.link.index, mac))

    def forget(self, index: int) -> None:
        """Forget a child. One that is not known is success."""
        self.let_meet(index, False)
        self.stranded.discard(index)
        held = self.nat.guests.remove(index)
        mac = self.children.pop(index, None)
        if mac and self.role.translate:
            self._former.note(self.link.index, mac, held)

    def let_meet(self, index: int, may: bool) -> None:
        """Have the host meet a child's guest, at its MAC, or not.

        Of several with one MAC the first does; the uplink's own MAC is no guest's.
        """
        if not may:
            self.meeting.discard(index)
            self._part(index)
            return
        self.meeting.add(index)
        mac = self.children.get(index)
        if mac and mac != self.link.mac and self.nat.host_access.lookup(mac) not in self.children:
            self.nat.host_access.add(mac, index)

    def _part_strangers(self) -> None:
        """Have the host meet nobody who is no child any more (of an earlier daemon)."""
        for mac, index in self.nat.host_access.all().items():
            if index not in self.meeting or self.children.get(index) != mac:
                self.nat.host_access.remove(mac)

    def _part(self, index: int) -> None:
        mac = self.children.get(index)
        if not mac or self.nat.host_access.lookup(mac) != index:
            return
        self.nat.host_access.remove(mac)
        for other in self.meeting - {index}:
            if self.children.get(other) == mac:
                self.nat.host_access.add(mac, other)

    def announce(self, link: Link, *, translate: bool) -> None:
        """Tell the LAN at which MAC every guest's address is now.

        translate: at that of link, the uplink; else at the guest's own.
        """
        entries = self.nat.addresses.all()
        frames = [
            gratuitous(entry.address, entry.vlan, link.mac if translate else entry.mac)
            for entry in entries
        ]
        send(link.name, frames)

    def locate(self, ssid: bytes, subnets: frozenset[Subnet]) -> bool:
        """Note where the uplink is; return whether that is another network.

        All that guests have used is forgotten then, and of the network that was left it stays so.
        """
        before = self._where
        self._where, moved = before.after(ssid, subnets)
        self._unsettled |= moved
        if not self._unsettled and self._where != before:
            self.settle()
        self._forget_left(everything=moved)
        if moved:
            self._former.clear(self.link.index)
            self.stranded = set(self.children)
        return moved

    def _forget_left(self, *, everything: bool = False) -> None:
        """Forget addresses of the network that was left, or all of them."""
        for entry in self.nat.addresses.all():
            if everything or self._where.has_left(entry.address):
                self.nat.addresses.forget(entry.address, entry.vlan)

    def settle(self) -> None:
        """All that another network asks for is done: the next airtapd shall not do it again."""
        self._unsettled = False
        self.nat.note.write(self._where.to_text())

    def _sweep(self) -> None:
        """Forget in a second what a guest uses of the left network too often to be told of it."""
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(1.0, self._swept)

    def _swept(self) -> None:
        self._sweeping = None
        self._forget_left()

    def _on_event(self, event: Event) -> None:
        log.debug("%s: %s", self.link.name, event)
        if event.what == "mac-learned":
            self._on_spoke(event.ifindex)
        if event.what == "suppressed" and self._where.left:
            self._sweep()
        if event.address and self._where.has_left(event.address):
            if event.what in ("learned", "moved"):
                self.nat.addresses.forget(event.address, event.vlan)
            return
        if event.what in ("learned", "moved") and isinstance(event.address, IPv4Address):
            self.stranded.discard(event.ifindex)
        if event.address and event.reason == "guest-address":
            self.inquiries.ask(event.address, event.vlan)
        if event.address and event.what == "probed":
            self.inquiries.ask_later(event.ifindex, event.address, event.vlan, event.mac)


def _is_there(index: int) -> bool:
    try:
        return bool(socket.if_indextoname(index))
    except OSError:
        return False

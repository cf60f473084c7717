"""MAC NAT and host access at work on one uplink: its programs, its guests, what they report."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from pyroute2 import AsyncIPRoute

from ..alias import Owner, guest_mac
from ..bpf.attach import Role, detach
from ..bpf.macnat import Macnat
from ..bpf.records import UNKNOWN_MAC, Dhcp, Event, GuestCounters, Learned
from ..config import MODES, Parent
from ..kernel.links import GROUP, IFF_ALLMULTI, IFF_RUNNING, Link, LinkNotFound, Links
from .address_probe import AddressProbes
from .arrivals import Arrivals, announce
from .binding_cache import BindingCache
from .host_access import HostAccess
from .host_tables import HostTables
from .host_view import HostView
from .lan_macs import LanMacs, gateway_with
from .mac_change import MacChanges
from .policy import is_child, owner_of, supports_host_access
from .roaming import Change, Roaming, network_name
from .router_probe import RouterProbe
from .waking import Waking
from .workqueue import Devices

log = logging.getLogger(__name__)


class UplinkState:
    """MAC NAT and host access at work on one uplink. Needs a running event loop.

    role is what is on. With translate, guests get the uplink's MAC; without, those of ipvtaps must
    use it, and those of macvtaps have their own on the wire.
    children maps the ifindexes of guests' devices to their MACs, None while one is to be learned.
    enqueue is called with the ifindex of a child that is to be looked at again.
    """

    def __init__(
        self,
        link: Link,
        role: Role,
        nat: Macnat,
        links: Links,
        ipr: AsyncIPRoute,
        host: HostView,
        bindings: BindingCache,
        enqueue: Callable[[int], None],
    ) -> None:
        self.link = link
        self.role = role
        self._nat = nat
        self._links = links
        self._ipr = ipr
        self._is_on = False
        self._host = HostTables(nat, host, link.name)
        self._way: tuple[int, int, bytes] | None = None
        self._children: dict[int, str | None] = {}
        self.children: Mapping[int, str | None] = self._children
        self.tracer = nat.tracer
        self._host_access = HostAccess(nat.host_access, self._children)
        self._bindings = bindings
        self._enqueue = enqueue
        self.lan_macs = LanMacs(nat.bearers, links, enqueue)
        self._probes = AddressProbes(nat, link.name)
        self.roaming = Roaming(nat, self._probes.probe_later)
        self._router_probe = RouterProbe(partial(enqueue, link.index))
        self._waking = Waking(partial(enqueue, link.index))
        self._arrivals = Arrivals(nat, self._probes, self._announce)
        self.mac_changes = MacChanges(nat.guests, links, self._probes, self._mac_user, enqueue)
        self._events = nat.events.open(self._on_event)
        asyncio.get_running_loop().add_reader(self._events, nat.events.consume)

    def close(self, *, remove: bool = False) -> None:
        """End this object; what is attached goes on. With remove, forget the pinned state too."""
        asyncio.get_running_loop().remove_reader(self._events)
        self._probes.close()
        self._router_probe.close()
        self._waking.close()
        self._arrivals.close()
        self.mac_changes.close()
        self.lan_macs.close()
        self.roaming.close()
        if remove:
            self._nat.remove()
        else:
            self._nat.close()

    @property
    def has_host_access(self) -> bool:
        """Whether the host reaches a guest."""
        return self.role.host_access and self._host_access.is_used()

    def host_meets(self, index: int) -> bool:
        """Tell whether the host may reach a child's guest."""
        return self._host_access.includes(index)

    def needs_renew(self, index: int) -> bool:
        """Tell whether a child's guest was not heard yet on the network where the uplink is now."""
        return self.roaming.needs_renew(index)

    def bearer(self, mac: str) -> str:
        """Return the name of the device whose guest has this MAC, or ""."""
        for index, known in self._children.items():
            if known == mac:
                with suppress(LinkNotFound):
                    return self._links.name_of(index)
        return ""

    async def _mac_user(self, mac: str) -> str:
        """Tell in words who has a MAC; "" for nobody known."""
        if name := self.link.name if mac == self.link.mac else self.bearer(mac):
            return f"{mac} is the MAC address of {name}"
        user, gateway = self.lan_macs.user(mac), self.lan_macs.gateway
        return user or await gateway_with(self.link.index, mac, gateway)

    def note_mac(self, index: int, mac: str) -> None:
        """Note a MAC that a device bears for the moment, if it is a child."""
        if index in self._children:
            self.lan_macs.note_mac(index, mac)

    def addresses(self) -> list[Learned]:
        """Return the addresses of all guests. Raises BpfError."""
        return self._nat.addresses.all()

    def counters(self) -> dict[int, GuestCounters]:
        """Return each guest's counters, by ifindex. Raises BpfError."""
        return self._nat.guests.counters()

    def dhcp(self) -> Dhcp:
        """Return how guests ask for leases, and what has come of it. Raises BpfError."""
        return self._nat.dhcp.state()

    async def set_up(self, link: Link, role: Role, mode: str, settings: Parent) -> None:
        """Put the programs for a role on the uplink, once they know all that they must know.

        mode is that of the children; "" leaves it as it is. settings are the configuration's of the
        uplink. Raises BpfError, LinkError.
        """
        nat = self._nat
        is_other = not self._is_on or self.role != role
        before = nat.config.parent_mac(), nat.config.translates()
        nat.config.set_role(role, mode)
        nat.dhcp.choose(settings.dhcp)
        await self._tell_of_host(link.index, settings)
        nat.config.set_parent(link.index, link.mac)
        await nat.programs.attach(self._ipr, link.index, role.on_parent)
        if is_other:
            await detach_all(self._links, self._ipr, link.index, keep=role)
        if before != (link.mac, role.translate):
            announce(link, self.addresses(), translate=role.translate)
            self.lan_macs.begin()
        if is_other:
            log.info("%s is on for %s (%s)", role, link.name, role.kind)
        self.link, self.role, self._is_on = link, role, True

    async def _tell_of_host(self, index: int, settings: Parent) -> None:
        """Let the programs know the host's addresses and routes. Raises BpfError, LinkError."""
        self.lan_macs.gateway = settings.gateway
        await self._host.update(index, settings)
        around = self._host.addresses
        self.lan_macs.gateways = around.gateways
        self._arrivals.own, self._arrivals.subnets = around.own, around.subnets

    async def take_down(self) -> None:
        """Take the programs off the uplink and its children. Raises LinkError."""
        await detach_all(self._links, self._ipr, self.link.index)
        for index in self._nat.bearers.indexes():
            await self.lan_macs.forget(index)
        if self.role.translate and self._children:
            announce(self.link, self.addresses(), translate=False)
        log.info("%s is off for %s", self.role, self.link.name)

    async def update_network(self) -> bool:
        """Find out where the uplink is; return whether guests are to ask for new leases.

        They are on another network, where all that they have used is forgotten; on the first, as
        many would ask again in minutes only; and when the host has slept for long. Call
        roaming.settle() once they have been seen to. Unless the network is another, guests are
        announced if the carrier was away, a bond sends by another port, or a station is at another
        access point, which may know none of them and ask no station.
        """
        has_carrier, name, bssid = self.link.flags & IFF_RUNNING, b"", b""
        if has_carrier:
            name, bssid = await asyncio.to_thread(network_name, self.link)
        way = self.link.carrier_ups, self.link.active_port, bssid
        before, self._way = self._way, way
        if not has_carrier:
            self.roaming.without_carrier()
            return False
        asked = () if name else self.lan_macs.gateways
        routers = self._router_probe.routers(self.link, asked, self.roaming.routers)
        change = self.roaming.update(name, self._host.addresses.subnets, routers, self._children)
        if change:
            log.info("%s is on %s now", self.link.name, change)
            self._nat.dhcp.restart()
        if change == Change.OTHER:
            self._bindings.clear(self.link.index)
            self._probes.forget()
            self.lan_macs.begin()
        elif before not in (None, way):
            self._announce(self.addresses())
        is_owed = bool(change) or self._waking.is_due(self.link)
        if is_owed:
            self._waking.tell()
        return is_owed

    async def sync_children(self, children: list[Link], devices: Devices) -> None:
        """Make the guests, among devices, those on the children that are there."""
        macs = self._nat.guests.macs()
        known = macs.keys() | self._children.keys() | self._nat.bearers.indexes()
        gone = known - {link.index for link in children}
        for index in gone if None in devices else gone & devices:
            await self.lan_macs.forget(index)
            self._forget(index)
        self.lan_macs.note_gateways(self.link, children)
        if None in devices:
            self._host_access.remove_strangers()
        for link in children:
            try:
                await self._sync_child(link, macs.get(link.index, UNKNOWN_MAC))
            except LinkNotFound:
                continue  # its own notification follows
            except OSError as exc:  # no fault of its siblings
                log.error("%s: its guest is not heard: %s", link.name, exc)

    async def add_child(self, index: int, mac: str | None) -> None:
        """Note a child, and attach the programs to it. Raises BpfError, LinkError.

        mac is None if it is not known; it may have been learned since the kernel was asked.
        """
        mac = mac or self._children.get(index)
        if index not in self._children or self._children[index] != mac:
            self.set_mac(index, mac)
        await self._nat.programs.attach(self._ipr, index, self.role.on_child)

    def set_mac(self, index: int, mac: str | None) -> None:
        """Note a child, or its MAC; a guest that was here before has its addresses again.

        Guests that use the uplink's MAC are not known by it. Raises BpfError.
        """
        if self._children.get(index) != mac:
            self._host_access.yield_mac(index)
        for other, known in list(self._children.items()):
            # Of a guest that is quicker back than the news of its end.
            if mac and known == mac and other not in {index, *dict(socket.if_nameindex())}:
                self._forget(other)
        self._nat.guests.add(index, mac)
        self._nat.probed.add_guest(index)
        self._children[index] = mac
        if mac and self.role.translate:
            if self.role.kind == "ipvtap":
                self._nat.bearers.add(index, mac)  # of macvtaps, lan_macs does
            bindings = self._bindings.take(self.link.index, mac)
            self._nat.addresses.restore_bindings(index, mac, bindings)

    async def _sync_child(self, link: Link, heard: str) -> None:
        """Make a guest the one on a child that is there.

        heard is the MAC that the programs know. One that has changed its MAC has what it had.
        """
        followed = await self.mac_changes.follow(link)
        mac = await self._guest_mac(followed, heard)
        if mac and followed is not link:
            self._bindings.note(self.link.index, mac, self._nat.guests.remove(link.index))
        link = followed
        await self.add_child(link.index, mac)
        self._nat.owners.note(link.index, owner_of(link))
        await self.lan_macs.enforce(self.link, link)
        if self.role.host_access and supports_host_access(link):
            self._host_access.add(link.index, self.link.mac)
        else:
            self._host_access.remove(link.index)
        if link.kind == "macvtap" and link.group != GROUP:  # what daemon/taps.py gives ours
            if not link.flags & IFF_ALLMULTI:
                await self._links.set_allmulti(link.index)
            self._links.keep_host_off(link.name)

    async def _guest_mac(self, link: Link, heard: str) -> str | None:
        """Return the MAC of a child's guest; None if it is a device of ours that still learns it.

        That of an ipvtap is written into the alias once heard, where status finds it.
        """
        is_ipvtap = self.role.kind == "ipvtap"
        if is_ipvtap and not self.role.translate:
            return link.mac
        owner = Owner.from_alias(link.alias) if link.group == GROUP else None
        if is_ipvtap and owner and owner.learning and heard != UNKNOWN_MAC:
            owner = replace(owner, learning=False, mac=heard, learned=True)
            await self._links.set_alias(link.index, owner.to_alias())
            log.info("%s: the guest is %s", link.name, heard)
        return guest_mac(link.mac, owner)

    def _forget(self, index: int) -> None:
        """Forget a child. It is no error that it is not known."""
        self._host_access.remove(index)
        self.roaming.forget(index)
        self.mac_changes.forget(index)
        self._nat.owners.forget(index)
        held = self._nat.guests.remove(index)
        self._nat.probed.remove_guest(index)
        mac = self._children.pop(index, None)
        if mac and self.role.translate:
            self._bindings.note(self.link.index, mac, held)

    def _announce(self, entries: list[Learned]) -> None:
        announce(self.link, entries, translate=self.role.translate)

    def _on_event(self, event: Event) -> None:
        log.debug("%s: %s", self.link.name, event)
        if event.what == "mac-seen":
            return self._enqueue(event.ifindex)
        if event.reason == "wrong-mac":
            return self.mac_changes.note(event)
        if event.what == "arrived":
            return self._arrivals.note(event)
        if event.what == "mac-learned":
            self._enqueue(event.ifindex)
        if self.roaming.reject(event) or event.address is None:
            return
        if event.reason == "guest-address":
            self._probes.probe(event.address, event.vlan, 0.0, newcomer=event.ifindex)
        if event.what == "probed":
            self._probes.probe_later(event.ifindex, event.address, event.vlan)


async def detach_all(links: Links, ipr: AsyncIPRoute, index: int, keep: Role | None = None) -> None:
    """Take the programs off an uplink and its children, of whichever daemon they are.

    With keep, those stay that have a place in this role. It is no error that something is not
    there, the uplink among it. Raises LinkError.
    """
    for child in await links.dump():
        if is_child(child, index):
            stay = keep.on_child if keep and (keep.translate or child.kind in MODES) else ()
            await detach(ipr, child.index, stay)
    await detach(ipr, index, keep.on_parent if keep else ())

"""What the programs of one uplink know: each map, or two that belong together, as a class.

User space writes the guests, and what it knows of the host; the addresses are the
programs' to learn and to evict. What is read or written is one element at a time: nothing is ever
half there. All methods raise BpfError.
"""

import logging
import time
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address

from ..kernel.addresses import Address, Prefix, Subnet
from ..names import octets
from .map import Map
from .records import (
    GATEWAY,
    IN_USE,
    IPV4_QUOTA,
    IPV6_QUOTA,
    PREFIXES,
    ROUTES,
    TAGGED,
    TENTATIVE,
    UNKNOWN_MAC,
    UNTAGGED,
    Entry,
    GuestCounters,
    Learned,
    pack_index,
    pack_key,
    pack_mac,
    pack_prefixes,
    pack_route,
    unpack_bits,
    unpack_counters,
    unpack_index,
    unpack_key,
    unpack_learned,
    unpack_mac,
)

log = logging.getLogger(__name__)

_NO_SLOT = IPV4_QUOTA + IPV6_QUOTA
# Of PREFIXES. IPv6 has room for the networks of all addresses that router advertisements may give
# the host (net.ipv6.conf.*.max_addresses: 16).
_IPV4_PLACES = 12


class AddressTable:
    """Who has which address, and which are broadcasts: "addresses". The programs write it too."""

    def __init__(self, table: Map, hosts: Map, routes: Map) -> None:
        self._table = table
        self._hosts = hosts
        self._routes = routes

    def all(self) -> list[Learned]:
        """Return all learned addresses."""
        entries = (unpack_learned(key, value) for key, value in self._table.items())
        return [entry for entry in entries if entry is not None]

    def find(self, address: Address, vlan: int) -> Learned | None:
        """Return who holds an address."""
        key = pack_key(address, vlan)
        value = self._table.lookup(key)
        return None if value is None else unpack_learned(key, value)

    def forget(self, address: Address, vlan: int) -> None:
        """Delete a learned address; whoever uses it next has it.

        It is no error that nobody has it.
        """
        self._table.delete(pack_key(address, vlan))

    def forget_guest(self, ifindex: int) -> list[Learned]:
        """Delete what a guest has learned, and return it."""
        return self._forget_all([entry for entry in self.all() if entry.ifindex == ifindex])

    def set_mac(self, ifindex: int, mac: str | None) -> None:
        """Have a guest's addresses at another MAC. They are deleted where mac is None: unknown."""
        for key, value in self._table.items():
            entry = Entry.unpack(value)
            if entry.ifindex != ifindex:
                continue
            if mac is None:
                self._table.delete(key)
            elif entry.mac != octets(mac):
                self._table.replace(key, entry._replace(mac=octets(mac)).pack())

    def restore_bindings(self, ifindex: int, mac: str, bindings: Collection[Learned]) -> None:
        """Have a guest hold what it has held on another device, as if seen in use just now.

        What is somebody's by now, or the host's, or routed elsewhere, is not. The entries are no
        part of the guest's quota: they have no slot.
        """
        entry = Entry(0, time.monotonic_ns(), ifindex, _NO_SLOT, octets(mac))
        for binding in bindings:
            address, vlan = binding.address, binding.vlan
            if not (self._hosts.lookup(pack_key(address)) or self._is_elsewhere(address, vlan)):
                self._table.insert(pack_key(address, vlan), entry.pack())

    def reserve(
        self,
        hosts: Mapping[Address, int],
        broadcasts: Collection[IPv4Address],
        gateway: int,
    ) -> list[Learned]:
        """Take the host's addresses from guests, and have these broadcast addresses only.

        hosts has what each is to the host. gateway is the ifindex of the guest that may have those
        of gateways. Returns what guests had learned of the host's.
        """

        def may_hold(entry: Learned) -> bool:
            usage = hosts.get(entry.address)
            return usage is None or (usage == GATEWAY and entry.ifindex == gateway)

        wanted = {pack_key(address) for address in broadcasts}
        taken = []
        for key, value in self._table.items():
            learned = unpack_learned(key, value)
            if learned is None and key not in wanted:
                self._table.delete(key)
            elif learned is not None and not may_hold(learned):
                taken.append(learned)
        self._forget_all(taken)
        for key in wanted:
            self._table.update(key, Entry(0, 0, 0, 0, b"\xff" * 6).pack())
        return taken

    def withdraw(self) -> list[Learned]:
        """Delete what guests have learned of what the host routes elsewhere, and return it."""
        return self._forget_all([e for e in self.all() if self._is_elsewhere(e.address, e.vlan)])

    def _is_elsewhere(self, address: Address, vlan: int) -> bool:
        host = Prefix(address.version, address.max_prefixlen, int(address))
        found = self._routes.lookup(pack_route(host))
        return bool(found and unpack_index(found) & (TAGGED if vlan else UNTAGGED))

    def _forget_all(self, entries: list[Learned]) -> list[Learned]:
        for entry in entries:
            self.forget(entry.address, entry.vlan)
        return entries


class HostTable:
    """The host's addresses ("hosts"), and what it reaches there ("on_links") or not ("routes")."""

    def __init__(self, hosts: Map, on_links: Map, routes: Map, addresses: AddressTable) -> None:
        self._hosts = hosts
        self._on_links = on_links
        self._routes = routes
        self._addresses = addresses

    def addresses(self) -> set[Address]:
        """Return the addresses that set_addresses() has set."""
        return {address for key, _ in self._hosts.items() if (address := unpack_key(key)[0])}

    def set_addresses(
        self,
        addresses: Collection[Address],
        broadcasts: Collection[IPv4Address],
        tentative: Collection[Address] = (),
        gateways: Collection[Address] = (),
        gateway: int = 0,
    ) -> list[Learned]:
        """Set the addresses of the host and its gateways, which no guest may use, in any VLAN.

        Only the guest with ifindex gateway may have those of gateways, if HostAccessTable has it.

        broadcasts are the directed broadcast addresses of the uplink's IPv4 networks; packets for
        one that come in with the uplink's MAC go to all, and no guest may use it either.
        tentative are those of addresses that the host is about to have: it hears no guest ask
        whether one of them is free. gateways are those of its next hops.
        Returns what guests had learned of the host's, now forgotten. No address that is in the set
        before and after is ever out of it.
        """
        own = {address: TENTATIVE if address in tentative else IN_USE for address in addresses}
        new = dict.fromkeys(gateways, GATEWAY) | own
        old = self.addresses()
        for address, usage in new.items():
            if self._hosts.lookup(pack_key(address)) != pack_index(usage):
                self._hosts.update(pack_key(address), pack_index(usage))
        # After that: from_guest looks again behind its back, see learn_address() in addresses.h.
        taken = self._addresses.reserve(new, broadcasts, gateway)
        for address in old - new.keys():
            self._hosts.delete(pack_key(address))
        return taken

    def set_on_link(self, prefixes: Collection[Subnet], own: Collection[Subnet] = ()) -> None:
        """Set what the host reaches on the uplink without a router, as far as there is room.

        Each family has places of its own, first for link-local ones and own, the networks of the
        host's addresses there, then for the longest. Of the rest the host's packets go to the wire,
        also those that are for guests.
        """
        chosen: list[Subnet] = []
        for version, places in (4, _IPV4_PLACES), (6, PREFIXES - _IPV4_PLACES):
            found = [prefix for prefix in prefixes if prefix.version == version]
            found.sort(key=lambda p: (not p.is_link_local, p not in own, -p.prefixlen, str(p)))
            if len(found) > places:
                what = "host access: %d routes of IPv%d are too many, the last: %s"
                log.warning(what, len(found), version, found[-1])
            chosen += found[:places]
        packed = pack_prefixes(chosen)
        self._on_links.update(pack_index(0), packed.ljust(self._on_links.value_size, b"\0"))

    def set_routes(self, routes: Mapping[Prefix, int]) -> list[Learned]:
        """Set for whose frames (UNTAGGED, TAGGED) prefixes are elsewhere: the ROUTES shortest.

        Longer ones are exceptions: they are there first, and go last. Returns what guests had
        learned of what is elsewhere, now forgotten.
        """
        shortest = sorted(routes, key=lambda prefix: prefix.length)[:ROUTES]
        new = {pack_route(prefix): pack_index(routes[prefix]) for prefix in shortest}
        old = dict(self._routes.items())
        for key in sorted(old.keys() - new.keys(), key=unpack_bits):
            self._routes.delete(key)
        for key in sorted(new, key=unpack_bits, reverse=True):
            if old.get(key) != new[key]:
                self._routes.update(key, new[key])
        return self._addresses.withdraw()


class GuestTable:
    """Guests' devices and MACs ("guests"), and their counters ("tables")."""

    def __init__(self, guests: Map, tables: Map, addresses: AddressTable) -> None:
        self._guests = guests
        self._tables = tables
        self._addresses = addresses

    def macs(self) -> dict[int, str]:
        """Return the devices added and not removed: ifindex to MAC."""
        return {unpack_index(k): unpack_mac(v) for k, v in self._guests.items()}

    def mac(self, ifindex: int) -> str | None:
        """Return the MAC of a device that was added; None for any other."""
        value = self._guests.lookup(pack_index(ifindex))
        return unpack_mac(value) if value else None

    def last_seen(self, ifindex: int) -> float:
        """Return when a guest was last seen to use an address, in s of time.monotonic(), or 0."""
        value = self._tables.lookup(pack_index(ifindex))
        return unpack_counters(value).last_seen if value else 0.0

    def add(self, ifindex: int, mac: str | None) -> None:
        """Announce a guest's device, or its new MAC. Call this before programs are attached to it.

        mac is None while it is not known: the guards hold, whatever the MAC, and nothing is
        learned. Raises BpfError (E2BIG: there are GUESTS already).
        """
        key = pack_index(ifindex)
        new = self._tables.insert(key, bytes(self._tables.value_size))
        self._guests.update(key, pack_mac(mac or UNKNOWN_MAC))
        if not new:
            self._addresses.set_mac(ifindex, mac)

    def remove(self, ifindex: int) -> list[Learned]:
        """Forget a guest and return the addresses it had. It is no error that it is not there.

        Where from_guest is still attached, everything that the guest sends is dropped from now on.
        """
        key = pack_index(ifindex)
        self._guests.delete(key)
        self._tables.delete(key)
        return self._addresses.forget_guest(ifindex)

    def counters(self) -> dict[int, GuestCounters]:
        """Return each guest's counters, by ifindex."""
        return {unpack_index(k): unpack_counters(v) for k, v in self._tables.items()}

"""The addresses that guests of one uplink have: the map "addresses"."""

import time
from collections.abc import Collection
from ipaddress import IPv4Address

from ..kernel.addresses import Address
from ..names import octets
from .map import Map
from .records import IPV4_QUOTA, IPV6_QUOTA, Entry, Learned, pack_key, unpack_learned

_NO_SLOT = IPV4_QUOTA + IPV6_QUOTA


class AddressTable:
    """Who has which address, and which addresses are broadcasts. Methods raise BpfError.

    The programs write this table too: they learn addresses and evict them.
    """

    def __init__(self, table: Map, hosts: Map) -> None:
        self._table = table
        self._hosts = hosts

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

        What is somebody's by now, the host's among it, stays so. The entries are no part of the
        guest's quota: they have no slot.
        """
        entry = Entry(0, time.monotonic_ns(), ifindex, _NO_SLOT, octets(mac))
        for binding in bindings:
            if self._hosts.lookup(pack_key(binding.address)) is None:
                self._table.insert(pack_key(binding.address, binding.vlan), entry.pack())

    def reserve(
        self, hosts: Collection[Address], broadcasts: Collection[IPv4Address]
    ) -> list[Learned]:
        """Take the host's addresses from guests, and have these broadcast addresses only.

        Returns what guests had learned of the host's.
        """
        wanted = {pack_key(address) for address in broadcasts}
        taken = []
        for key, value in self._table.items():
            learned = unpack_learned(key, value)
            if learned is None and key not in wanted:
                self._table.delete(key)
            elif learned is not None and learned.address in hosts:
                taken.append(learned)
        self._forget_all(taken)
        for key in wanted:
            self._table.update(key, Entry(0, 0, 0, 0, b"\xff" * 6).pack())
        return taken

    def _forget_all(self, entries: list[Learned]) -> list[Learned]:
        for entry in entries:
            self.forget(entry.address, entry.vlan)
        return entries

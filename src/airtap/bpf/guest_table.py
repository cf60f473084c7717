"""The guests behind one uplink: the maps "guests" and "tables"."""

from . import records
from .address_table import AddressTable
from .map import Map
from .records import UNKNOWN_MAC, GuestCounters, Learned


class GuestTable:
    """Guests' devices, their MACs and counters. Methods raise BpfError."""

    def __init__(self, guests: Map, tables: Map, addresses: AddressTable) -> None:
        self._guests = guests
        self._tables = tables
        self._addresses = addresses

    def macs(self) -> dict[int, str]:
        """Return the devices added and not removed: ifindex to MAC."""
        return {records.unpack_index(k): records.unpack_mac(v) for k, v in self._guests.items()}

    def add(self, ifindex: int, mac: str | None) -> None:
        """Announce a guest's device, or its new MAC. Call this before programs are attached to it.

        mac is None while it is not known: the guards hold, whatever the MAC, and nothing is
        learned. Raises BpfError (E2BIG: there are GUESTS already).
        """
        key = records.pack_index(ifindex)
        new = self._tables.insert(key, bytes(self._tables.value_size))
        self._guests.update(key, records.pack_mac(mac or UNKNOWN_MAC))
        if not new:
            self._addresses.set_mac(ifindex, mac)

    def remove(self, ifindex: int) -> list[Learned]:
        """Forget a guest and return the addresses it had. It is no error that it is not there.

        Where from_guest is still attached, everything that the guest sends is dropped from now on.
        """
        key = records.pack_index(ifindex)
        self._guests.delete(key)
        self._tables.delete(key)
        return self._addresses.forget_guest(ifindex)

    def counters(self) -> dict[int, GuestCounters]:
        """Return each guest's counters, by ifindex."""
        return {
            records.unpack_index(k): records.unpack_counters(v) for k, v in self._tables.items()
        }

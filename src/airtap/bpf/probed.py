"""Addresses that guests were about to take, as the programs keep them for user space to ask."""

from ..kernel.addresses import Address
from .map import Map
from .records import pack_index, unpack_index, unpack_probes, without_probe


class ProbeTable:
    """What each guest has asked about of late, to see whether an address is free: "probed".

    The programs write the latest of each guest; that outlives the daemon, and events that nobody
    got. Methods raise BpfError.
    """

    def __init__(self, table: Map) -> None:
        self._table = table

    def add_guest(self, ifindex: int) -> None:
        """Make room for a guest's. What is there stays."""
        self._table.insert(pack_index(ifindex), bytes(self._table.value_size))

    def remove_guest(self, ifindex: int) -> None:
        """Forget a guest's. It is no error that there are none."""
        self._table.delete(pack_index(ifindex))

    def guests(self) -> list[int]:
        """Return the guests there is room for, by ifindex."""
        return [unpack_index(key) for key, _ in self._table.items()]

    def of(self, ifindex: int) -> list[tuple[Address, int]]:
        """Return a guest's, with their VLANs."""
        value = self._table.lookup(pack_index(ifindex))
        return unpack_probes(value) if value else []

    def remove(self, ifindex: int, address: Address, vlan: int) -> None:
        """Forget one of a guest's. It is no error that it is not there."""
        value = self._table.lookup(pack_index(ifindex))
        if value and (address, vlan) in unpack_probes(value):
            self._table.replace(pack_index(ifindex), without_probe(value, address, vlan))

"""Which devices are cards of one guest: the map "owners"."""

from .map import Map
from .records import pack_index


class OwnerTable:
    """The devices of which an owner is known, and by number those of one that has several.

    Methods raise BpfError.
    """

    def __init__(self, table: Map) -> None:
        self._table = table
        self._owners: dict[int, str] = {}

    def note(self, ifindex: int, owner: str) -> None:
        """Note whose card a device is, in any words; "" for nobody known."""
        if self._owners.get(ifindex) != owner:
            self.forget(ifindex)
            self._owners[ifindex] = owner
            self._number(owner)

    def forget(self, ifindex: int) -> None:
        """Forget a device. It is no error that it is not known."""
        self._table.delete(pack_index(ifindex))
        self._number(self._owners.pop(ifindex, ""))

    def _number(self, owner: str) -> None:
        """Give the devices of an owner that has several one number, that of the first."""
        devices = [index for index, known in self._owners.items() if owner and known == owner]
        for index in devices:
            if len(devices) > 1:
                self._table.update(pack_index(index), pack_index(min(devices)))
            else:
                self._table.delete(pack_index(index))

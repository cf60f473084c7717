"""Host access at one uplink: which of its guests the host reaches."""

from collections.abc import Mapping

from ..bpf.host_access import HostAccessTable


class HostAccess:
    """The guests that the host may reach, of whom it reaches one at each MAC.

    Methods raise BpfError.

    children maps the uplink's children to their guests' MACs, as they are at the time of a call.
    """

    def __init__(self, table: HostAccessTable, children: Mapping[int, str | None]) -> None:
        self._table = table
        self._children = children
        self._allowed: set[int] = set()

    def includes(self, index: int) -> bool:
        """Tell whether the host may reach a child's guest."""
        return index in self._allowed

    def is_used(self) -> bool:
        """Tell whether the host may reach any guest."""
        return bool(self._allowed)

    def add(self, index: int, uplink_mac: str) -> None:
        """Have the host reach a child's guest, at its MAC.

        Of several with one MAC the first is reached; the uplink's own MAC is no guest's.
        """
        self._allowed.add(index)
        mac = self._children.get(index)
        if mac and mac != uplink_mac and self._table.lookup(mac) not in self._children:
            self._table.add(mac, index)

    def remove(self, index: int) -> None:
        """Have the host reach a child's guest no more. It is no error that it does not."""
        self._allowed.discard(index)
        self.yield_mac(index)

    def yield_mac(self, index: int) -> None:
        """Have the host reach another guest at the MAC of this one, if there is another."""
        mac = self._children.get(index)
        if not mac or self._table.lookup(mac) != index:
            return
        self._table.remove(mac)
        for other in self._allowed - {index}:
            if self._children.get(other) == mac:
                self._table.add(mac, other)

    def remove_strangers(self) -> None:
        """Have the host reach nobody who is no child any more (of an earlier daemon)."""
        for mac, index in self._table.all().items():
            if index not in self._allowed or self._children.get(index) != mac:
                self._table.remove(mac)

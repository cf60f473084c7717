"""A text that is kept beside what is learned at one uplink: the map "note"."""

from .map import Map
from .records import pack_index


class Note:
    """A text that outlives the daemon. Methods raise BpfError."""

    def __init__(self, table: Map) -> None:
        self._table = table

    def write(self, text: str) -> None:
        """Keep a text; one that is too long (2 KB) is not kept."""
        packed = text.encode()
        if len(packed) < self._table.value_size:
            self._table.update(pack_index(0), packed.ljust(self._table.value_size, b"\0"))

    def read(self) -> str:
        """Return what write() has kept, "" at first."""
        return (self._table.lookup(pack_index(0)) or b"").rstrip(b"\0").decode(errors="replace")

"""What one uplink's programs report as it happens: the ring buffer "events"."""

from collections.abc import Callable

from .map import Map, Ring
from .records import Event, unpack_event


class EventRing:
    """The reading end of the events. Methods raise BpfError."""

    def __init__(self, table: Map) -> None:
        self._table = table
        self._ring: Ring | None = None

    def open(self, on_event: Callable[[Event], None]) -> int:
        """Open the events. Returns a descriptor, to be given to loop.add_reader with consume().

        Events that no one has read, of an earlier daemon's time too, come first. The descriptor
        is ours and lasts until close().
        """
        self.close()
        self._ring = Ring(self._table, lambda sample: on_event(unpack_event(sample)))
        return self._ring.fd

    def consume(self) -> None:
        """Call on_event for what has come in."""
        if self._ring is not None:
            self._ring.consume()

    def close(self) -> None:
        """Close the events; take the descriptor out of the loop before."""
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()

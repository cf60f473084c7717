"""Tracing of guests on one uplink: trace.h tells what the programs make of their frames."""

import random
import struct
from collections.abc import Iterator

from ..names import octets
from .map import Ring
from .object import Object
from .records import pack_index
from .trace_record import trimmed

_STATE = struct.Struct("=II")
_WHO = struct.Struct("=I6s2x")
_FIRST = pack_index(0)
_NOBODYS_MAC = bytes(6)


class Tracer:
    """Tracing on one uplink. Nobody is traced before clear() and add(). Methods raise BpfError."""

    def __init__(self, loaded: Object) -> None:
        self._state = loaded.map(".bss")
        self._tracees = loaded.map("tracees")
        self._traces = Ring(loaded.map("traces"), trimmed)
        self._records: list[bytes] = []
        self._macs: dict[int, str | None] = {}

    def close(self) -> None:
        """Stop reading. Closing twice is fine."""
        self._traces.close()

    def clear(self) -> None:
        """Trace nobody any more, nor whom an earlier daemon has left."""
        self._macs.clear()
        if self._state.lookup(_FIRST) != bytes(self._state.value_size):
            self._state.update(_FIRST, bytes(self._state.value_size))
            for key in [key for key, _ in self._tracees.items()]:
                self._tracees.delete(key)

    def add(self, ifindex: int, mac: str | None) -> None:
        """Trace the guest of a device, also one that is traced already.

        ifindex: the device, or NOBODY, to be told also of frames that are nobody's.
        mac: the guest's own, if the device is a macvtap and the MAC is known.
        """
        if not self._traces.is_open:
            self._begin()
        if self._macs.get(ifindex, "") == mac:
            return
        self.remove(ifindex)
        for key in _who(ifindex, mac):
            self._tracees.update(key, pack_index(ifindex))
        self._macs[ifindex] = mac

    def remove(self, ifindex: int) -> None:
        """Trace a guest no more. Not there: success. After the last one stop() saves time."""
        for key in _who(ifindex, self._macs.pop(ifindex, None)):
            self._tracees.delete(key)

    def stop(self) -> None:
        """Trace nobody, and stop reading."""
        self.clear()
        self.close()

    def read(self, limit: int) -> list[bytes]:
        """Return what has come in, at most limit records, each as trimmed() leaves it."""
        self._traces.consume(limit)
        records, self._records = self._records, []
        return records

    def lost(self) -> int:
        """Return how many records found no room since the first add()."""
        return int(_STATE.unpack_from(self._state.lookup(_FIRST) or bytes(_STATE.size))[1])

    def _begin(self) -> None:
        self.clear()
        self._traces.open(lambda record: self._records.append(record))
        while self.read(1024):  # of an earlier tracing
            pass
        self._state.update(_FIRST, _STATE.pack(random.getrandbits(32) | 1, 0))


def _who(ifindex: int, mac: str | None) -> Iterator[bytes]:
    yield _WHO.pack(ifindex, _NOBODYS_MAC)
    if mac is not None:
        yield _WHO.pack(0, octets(mac))

"""The settings of one uplink's programs, and a note: both outlive the daemon, as what is learned.

All methods raise BpfError.
"""

import time

from ..kernel.ifinfo import IPVLAN_MODES
from ..names import octets
from .attach import KINDS, Role
from .map import Map
from .records import NS, Configuration, pack_index

ALIVE_S = 300.0
REFRESH_S = 1.0

_CLOCK_MONOTONIC_COARSE = 6  # include/uapi/linux/time.h


class UplinkConfig:
    """The settings of one uplink's programs ("config"); an earlier daemon's count."""

    def __init__(self, table: Map) -> None:
        self._table = table

    def set_timing(self, alive: float = ALIVE_S, refresh: float = REFRESH_S) -> None:
        """Set for how many seconds an unused address is still its guest's, and how often its use
        is noted."""
        # That clock's resolution is a jiffy (kernel/time/posix-timers.c: posix_get_coarse_res).
        jiffies = int(refresh / time.clock_getres(_CLOCK_MONOTONIC_COARSE))
        self._change(alive=int(alive * NS), refresh=jiffies)

    def set_role(self, role: Role, mode: str) -> None:
        """Set what the programs are for. Call this before attaching them.

        mode is how ipvtap children see each other, "bridge", "private" or "vepa"; any other leaves
        it as it is. Macvtaps' driver sees to theirs.
        """
        changes = {"kind": KINDS.index(role.kind), "observe": int(role.observes)}
        if mode in IPVLAN_MODES:
            changes["mode"] = IPVLAN_MODES.index(mode)
        self._change(**changes)

    def set_parent(self, ifindex: int, mac: str) -> None:
        """Set the uplink: the MAC that frames get on the way out, and where the host gets its own.

        Call this before attaching.
        """
        self._change(parent=octets(mac), ifindex=ifindex)

    def set_behind(self, count: int) -> None:
        """Set of how many prefixes BehindTable tells."""
        self._change(behind=count)

    def kind(self) -> str:
        """Return the kind of the children, as set_role() has set it."""
        return KINDS[self._read().kind]

    def parent_mac(self) -> str:
        """Return the MAC that all frames get; UNKNOWN_MAC before set_parent()."""
        return self._read().parent.hex(":")

    def translates(self) -> bool:
        """Tell whether MAC NAT is on, as set_role() has set it."""
        return not self._read().observe

    def _read(self) -> Configuration:
        value = self._table.lookup(pack_index(0))
        return Configuration.unpack(value) if value else Configuration()

    def _change(self, **changes: bytes | int) -> None:
        new = self._read()._replace(**changes)  # type: ignore[arg-type]
        self._table.update(pack_index(0), new.pack())


class Note:
    """A text that outlives the daemon, as what is learned does: "note"."""

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

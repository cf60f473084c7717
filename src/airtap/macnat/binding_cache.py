"""The bindings (addresses) of guests that have gone, for when they come back.

A guest that is started anew may have its former address for a while without speaking from it, and
a neighbour that remembers it sends to the uplink's MAC without asking first: MAC NAT has to know.
"""

import time
from collections.abc import Sequence

from ..bpf.records import IPV4_QUOTA, IPV6_QUOTA, Learned

# Neighbours ask again after a minute or so; the rest is for a slow update of a guest's system.
_KEPT_S = 900.0
_GUESTS = 1024


class BindingCache:
    """Keeps what gone guests had, by uplink and MAC: the latest _GUESTS of them, for _KEPT_S."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], tuple[float, list[Learned]]] = {}

    def note(self, uplink: int, mac: str, held: Sequence[Learned]) -> None:
        """Keep what a guest on an uplink (ifindex) had: as much as a guest may have."""
        self._held.pop((uplink, mac), None)
        if not held:
            return
        latest = sorted(held, key=lambda entry: entry.last_seen, reverse=True)
        ipv4 = [entry for entry in latest if entry.address.version == 4][:IPV4_QUOTA]
        ipv6 = [entry for entry in latest if entry.address.version == 6][:IPV6_QUOTA]
        self._held[uplink, mac] = time.monotonic(), ipv4 + ipv6
        if len(self._held) > _GUESTS:
            del self._held[next(iter(self._held))]

    def clear(self, uplink: int) -> None:
        """Forget what guests on an uplink had."""
        for key in [key for key in self._held if key[0] == uplink]:
            del self._held[key]

    def take(self, uplink: int, mac: str) -> list[Learned]:
        """Return what the guest with this MAC had, if that was not long ago, once."""
        noted, held = self._held.pop((uplink, mac), (0.0, []))
        return held if time.monotonic() - noted < _KEPT_S else []

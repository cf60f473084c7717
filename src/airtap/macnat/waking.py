"""What a long sleep of the host means for guests: their clocks stood still, and their leases may be
over, the addresses somebody else's.

They are made to ask once the carrier has been back for a while, in which it may turn out that this
is another network, where they are made to ask anyway.
"""

import asyncio
import logging
from collections.abc import Callable

from ..kernel.links import Link
from ..kernel.suspend import SleepEvents

log = logging.getLogger(__name__)

# A lease of less is rare, and guests ask again after half of its time.
LONG_S = 300.0
# The host needs that to have addresses, and macnat/router_probe.py to know a router.
_SETTLE_S = 10.0


class Waking:
    """Whether one uplink's guests are still to be told of a sleep. Needs a running event loop.

    enqueue is called when it is time to ask again.
    """

    def __init__(self, enqueue: Callable[[], None]) -> None:
        self._enqueue = enqueue
        self._is_owed = False
        self._carrier: tuple[int, float] | None = None
        self._events = SleepEvents(self._wake)

    def close(self) -> None:
        """Notice no more."""
        self._events.close()

    def _wake(self, slept: float) -> None:
        if slept >= LONG_S:
            log.info("the host has slept for %.0f s", slept)
            self._is_owed, self._carrier = True, None
            self._enqueue()

    def is_due(self, link: Link) -> bool:
        """Tell, of an uplink with carrier, whether its guests are to be told now."""
        if not self._is_owed:
            return False
        loop = asyncio.get_running_loop()
        if self._carrier is None or self._carrier[0] != link.carrier_ups:
            self._carrier = link.carrier_ups, loop.time() + _SETTLE_S
            loop.call_at(self._carrier[1], self._enqueue)
        return loop.time() >= self._carrier[1]

    def tell(self) -> None:
        """Note that guests are made to ask now, for whatever reason."""
        self._is_owed = False

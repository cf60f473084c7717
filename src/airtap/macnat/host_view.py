"""The host's addresses and routes, as every uplink is to know them."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ..kernel.addresses import MOST_ROUTES, HostNetwork, host_network

log = logging.getLogger(__name__)

T = TypeVar("T")


class HostView:
    """What the host's addresses and routes are, asked of the kernel once for all uplinks."""

    def __init__(self) -> None:
        self._network: HostNetwork | None = None
        self._devices: frozenset[int] = frozenset()
        self._has_too_many = False
        self._spent = 0.0

    async def work(self, function: Callable[..., T], *arguments: object) -> T:
        """Call function in a thread, on what may be a lot of routes: see spent()."""

        def run() -> T:
            began = time.monotonic()
            try:
                return function(*arguments)
            finally:
                self._spent += time.monotonic() - began

        return await asyncio.to_thread(run)

    def spent(self) -> float:
        """Return how many seconds all work() has taken since this was asked."""
        spent, self._spent = self._spent, 0.0
        return spent

    def outdate(self) -> None:
        """Have the kernel asked anew when somebody wants to know."""
        self._network = None

    def leads_to(self, index: int | None) -> bool:
        """Tell whether a route led to a device when the kernel was asked last."""
        return index in self._devices

    async def network(self) -> HostNetwork:
        """Return what there is, the same object until it is outdated. Raises LinkError."""
        if self._network is None:
            self._network = network = await self.work(host_network)
            has_too_many = len(network.routes) >= MOST_ROUTES
            if has_too_many and not self._has_too_many:
                log.warning(
                    "of %d routes and more of a family the rest does not count", MOST_ROUTES
                )
            self._has_too_many = has_too_many
            self._devices = frozenset(hop.device for route in network.routes for hop in route.hops)
            return network
        return self._network

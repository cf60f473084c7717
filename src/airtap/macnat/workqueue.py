"""A work queue of devices: each is reconciled soon after it was enqueued, and again on failure.

Notifications are gathered, as one change of somebody's causes a dozen. What fails is tried again
ever less often (exponential back-off). To look at all takes the longer the more routes there are,
so those are read in a tenth of the time at most: then all is left alone for nine times as long.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

log = logging.getLogger(__name__)

_GATHER_S = 0.02
_RETRY_S = 1.0
_RETRY_MOST_S = 300.0
_REST = 9


# Ifindexes; None among them stands for all devices.
Devices = frozenset[int | None]
EVERYTHING: Devices = frozenset({None})


@dataclass(frozen=True)
class _Failure:
    """What went wrong at a device, and when it is tried again: after wait seconds."""

    wait: float
    said: str
    again: asyncio.TimerHandle


class WorkQueue:
    """Calls reconcile with the devices that were enqueued, once it has ended for those before.

    It returns for how long it has read what concerns all, in seconds.
    Needs a running event loop.
    """

    def __init__(self, reconcile: Callable[[Devices], Awaitable[float]]) -> None:
        self._reconcile = reconcile
        self._enqueued: set[int | None] = set()
        self._failures: dict[int, _Failure] = {}
        self._wake = asyncio.Event()
        self._rest: asyncio.TimerHandle | None = None  # until all may be looked at again
        self._task = asyncio.create_task(self._run(), name="mac nat: work queue")

    async def close(self) -> None:
        """Reconcile no more."""
        if self._rest:
            self._rest.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def enqueue(self, index: int | None = None) -> None:
        """Have a device reconciled soon; None stands for all."""
        self._enqueued.add(index)
        self._wake.set()

    @property
    def failing(self) -> Collection[int]:
        """The devices that wait to be tried again."""
        return self._failures.keys()

    def back_off(self, index: int, said: str) -> bool:
        """Note a failure at a device, which is tried again. Returns whether this one is news."""
        former = self._failures.get(index)
        if former:
            former.again.cancel()
        wait = min(2 * former.wait, _RETRY_MOST_S) if former else _RETRY_S
        again = asyncio.get_running_loop().call_later(wait, self.enqueue, index)
        self._failures[index] = _Failure(wait, said, again)
        return former is None or former.said != said

    def forget(self, index: int) -> None:
        """Forget the failures of a device: all is well there."""
        if failure := self._failures.pop(index, None):
            failure.again.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            self._wake.clear()
            devices = frozenset(self._enqueued - ({None} if self._rest else set()))
            if not devices:
                continue
            self._enqueued -= devices
            spent = 0.0
            try:
                spent = await self._reconcile(devices)
            except Exception:
                log.exception("cannot reconcile devices; they will be tried again")
                self._enqueued |= devices
                await asyncio.sleep(_RETRY_S)
                self._wake.set()
            if None in devices:
                self._rest = loop.call_later(_REST * spent, self._rested)

    def _rested(self) -> None:
        self._rest = None
        self._wake.set()

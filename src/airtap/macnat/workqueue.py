"""When devices are looked at: soon after something was said of them, and again where that failed.

Notifications are gathered, as one change of somebody's causes a dozen. What fails is tried again
ever less often.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

log = logging.getLogger(__name__)

_GATHER_S = 0.02
_RETRY_S = 1.0
_RETRY_MOST_S = 300.0


@dataclass(frozen=True)
class _Failure:
    """What went wrong at a device, and when it is tried again: after wait, in s."""

    wait: float
    said: str
    again: asyncio.TimerHandle


class WorkQueue:
    """Calls look with the ifindexes of devices to look at, None among them for all of them.

    It is not called while it runs. Needs a running event loop.
    """

    def __init__(self, look: Callable[[set[int | None]], Awaitable[None]]) -> None:
        self._look = look
        self._suspects: set[int | None] = set()
        self._failures: dict[int, _Failure] = {}
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._look_forever(), name="lookout")

    async def close(self) -> None:
        """Look no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def enqueue(self, index: int | None = None) -> None:
        """Have a look at a device soon; None: at all."""
        self._suspects.add(index)
        self._wake.set()

    @property
    def failing(self) -> Collection[int]:
        """Where the last look failed."""
        return self._failures.keys()

    def failed(self, index: int, said: str) -> bool:
        """Note a failure at a device, which is tried again. Tells whether this one is news."""
        former = self._failures.get(index)
        if former:
            former.again.cancel()
        wait = min(2 * former.wait, _RETRY_MOST_S) if former else _RETRY_S
        again = asyncio.get_running_loop().call_later(wait, self.enqueue, index)
        self._failures[index] = _Failure(wait, said, again)
        return former is None or former.said != said

    def succeeded(self, index: int) -> None:
        """Note that all is well at a device."""
        if failure := self._failures.pop(index, None):
            failure.again.cancel()

    async def _look_forever(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            self._wake.clear()
            suspects, self._suspects = self._suspects, set()
            try:
                await self._look(suspects)
            except Exception:
                log.exception("cannot look at devices; they will be looked at again")
                self._suspects |= suspects
                await asyncio.sleep(_RETRY_S)
                self._wake.set()

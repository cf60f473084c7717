"""Users' shares of airtapd: whose request is next.

Requests begin one after another, of each user who waits in turn, so what one has sent costs another
a request at most, however many it is. One that takes long, as it waits for a file or for whoever
does not read its answer, lets others begin meanwhile, but for those of the same user.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# How long a request is alone. An attach takes some 20 ms.
_ALONE_S = 0.05


class Shares:
    """Lets requests begin. Several of root's are at work: libvirtd asks as root for all domains."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[asyncio.Event]] = {}  # by user, the next one first
        self._at_work: set[int] = set()
        self._alone: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def turn(self, uid: int) -> AsyncIterator[None]:
        """Wait until a request of a user may begin, and have it at work until the end of this."""
        request = asyncio.Event()
        self._waiting.setdefault(uid, deque()).append(request)
        self._begin_soon()
        try:
            await request.wait()
            yield
        finally:
            self._end(uid, request)

    def _begin_next(self) -> None:
        """Let a request begin, unless one is alone."""
        if self._alone is not None:
            return
        uid = next((uid for uid in self._waiting if uid not in self._at_work), None)
        if uid is None:
            return
        self._alone = self._waiting[uid].popleft()
        self._move_back(uid)
        if uid:
            self._at_work.add(uid)
        self._timer = asyncio.get_running_loop().call_later(_ALONE_S, self._let_others)
        self._alone.set()

    def _let_others(self) -> None:
        self._alone = None
        self._begin_next()

    def _end(self, uid: int, request: asyncio.Event) -> None:
        if request.is_set():
            self._at_work.discard(uid)
        else:  # who asked has given up
            self._waiting[uid].remove(request)
        self._move_back(uid)  # also behind those who have come meanwhile
        if request is self._alone:
            assert self._timer is not None
            self._timer.cancel()
            self._alone = None
        self._begin_soon()

    def _move_back(self, uid: int) -> None:
        """Have a user wait behind all others, or not any more."""
        if requests := self._waiting.pop(uid, None):
            self._waiting[uid] = requests

    def _begin_soon(self) -> None:
        """Not at once, so that the event loop sees to all else between two requests."""
        asyncio.get_running_loop().call_soon(self._begin_next)

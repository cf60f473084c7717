"""Users' shares of airtapd: whose request is next, and how many of a user's are at work.

Requests begin one after another, of each user who waits in turn, so what one has sent costs another
a request at most, however many it is. One that takes long, as it waits for a file or for whoever
does not read its answer, lets others begin meanwhile: a user can have few of those.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# How long a request is alone. An attach takes some 20 ms.
_ALONE_S = 0.03
# Not one: it may wait for an include of bridge.conf, which is the user's own.
_AT_WORK = 2


class Shares:
    """Lets requests begin. Root's at work have no limit: libvirtd asks as root for every domain."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[asyncio.Event]] = {}  # by user, the next one first
        self._at_work: Counter[int] = Counter()
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
        may = (uid for uid in self._waiting if uid == 0 or self._at_work[uid] < _AT_WORK)
        uid = next(may, None)
        if uid is None:
            return
        requests = self._waiting.pop(uid)
        self._alone = requests.popleft()
        if requests:  # behind all others
            self._waiting[uid] = requests
        self._at_work[uid] += 1
        self._timer = asyncio.get_running_loop().call_later(_ALONE_S, self._let_others)
        self._alone.set()

    def _let_others(self) -> None:
        self._alone = None
        self._begin_next()

    def _end(self, uid: int, request: asyncio.Event) -> None:
        if not request.is_set():  # who asked has given up
            self._waiting[uid].remove(request)
            if not self._waiting[uid]:
                del self._waiting[uid]
            return
        self._at_work -= Counter([uid])  # nothing stays of one that is at 0
        if request is self._alone:
            assert self._timer is not None
            self._timer.cancel()
            self._alone = None
        self._begin_soon()

    def _begin_soon(self) -> None:
        """Not at once, so that the event loop sees to all else between two requests."""
        asyncio.get_running_loop().call_soon(self._begin_next)

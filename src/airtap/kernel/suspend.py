"""When the machine was asleep, and for how long.

CLOCK_MONOTONIC stands still then, CLOCK_BOOTTIME goes on (clock_gettime(2)). A timer that is
cancelled where the clock of the day jumps (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET) also tells
of each end of a sleep (fs/timerfd.c: timerfd_resume).
"""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from .libc import last_error, libc

_ABSTIME, _CANCEL_ON_SET = 1, 2  # include/linux/timerfd.h
_NEVER = (ctypes.c_long * 4)(0, 0, sys.maxsize, 0)  # struct itimerspec, as late as can be


def asleep() -> float:
    """Return for how many seconds the machine has slept since it was booted."""
    awake = time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - awake


class SleepEvents:
    """Calls back after each sleep, with its seconds. Needs a running event loop.

    So it does where somebody has set the clock: with about 0 then.
    """

    def __init__(self, on_wake: Callable[[float], None]) -> None:
        """Raises OSError."""
        self._on_wake = on_wake
        self._asleep = asleep()
        self._timer = libc.timerfd_create(time.CLOCK_REALTIME, os.O_CLOEXEC | os.O_NONBLOCK)
        if self._timer < 0:
            raise last_error("timerfd_create")
        if libc.timerfd_settime(self._timer, _ABSTIME | _CANCEL_ON_SET, ctypes.byref(_NEVER), None):
            error = last_error("timerfd_settime")
            os.close(self._timer)
            raise error
        asyncio.get_running_loop().add_reader(self._timer, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._timer)
        os.close(self._timer)

    def _read(self) -> None:
        with suppress(OSError):  # ECANCELED, which is the news
            os.read(self._timer, 8)
        before, self._asleep = self._asleep, asleep()
        self._on_wake(self._asleep - before)

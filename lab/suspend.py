"""Sleeps of the host, as airtapd hears of them.

The kernel tells of a clock that was set as of a sleep; how long that was says a file. Only in a
machine may the clock be set.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from lab.airtap import Function


class Suspend:
    """What a host has slept, which an airtapd with these constants believes."""

    def __init__(self, directory: Path) -> None:
        self._asleep = directory / "asleep"
        self._asleep.write_text("7")

    @property
    def constants(self) -> Mapping[str, object]:
        """Of Airtapd."""
        read = f"lambda: float(open({str(self._asleep)!r}).read())"
        return {"kernel.suspend.asleep": Function(read)}

    def sleep(self, seconds: int) -> None:
        """Be awake again, after so many seconds."""
        fresh = self._asleep.with_suffix(".fresh")
        fresh.write_text(str(float(self._asleep.read_text()) + seconds))
        fresh.replace(self._asleep)  # whole, whenever airtapd reads it
        time.clock_settime(time.CLOCK_REALTIME, time.time() + 0.01)

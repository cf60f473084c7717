"""Finds daemons that bear on guests' networks, by their names in /proc."""

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process.

    uid: the real one.
    started: when, in s since 1970.
    """

    pid: int
    name: str
    uid: int
    started: float


def named(*names: str) -> list[Process]:
    """Return processes of these names in our network namespace: a container's are none of ours.

    Which namespace that is, the kernel tells of a user's own processes, and root. It keeps 15
    characters of a name (proc(5)).
    """
    ours = os.readlink("/proc/self/ns/net")
    wanted = {name[:15] for name in names}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            name = (entry / "comm").read_text(errors="replace").rstrip("\n")
            if name in wanted and os.readlink(entry / "ns/net") == ours:
                found.append(Process(int(entry.name), name, _uid(entry), _started(entry)))
        except (OSError, ValueError, IndexError):  # it has ended, or is another user's
            continue
    return sorted(found, key=lambda process: process.pid)


def _uid(entry: Path) -> int:
    status = (entry / "status").read_text(errors="replace")
    return int(status.partition("\nUid:")[2].split()[0])


def _started(entry: Path) -> float:
    # comm may hold anything, a ")" too; field 22 of proc(5) is the 20th after it.
    ticks = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")

"""What a process has taken of the machine."""

from __future__ import annotations

import re
from pathlib import Path

MOST_KIB = 100 << 10


def peak_kib(pid: int) -> int:
    """The most memory that a process ever had (proc(5), VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def is_bounded(pid: int) -> bool:
    """Whether that is what airtapd may have at most."""
    return peak_kib(pid) < MOST_KIB

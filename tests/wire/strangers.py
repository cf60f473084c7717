"""Users whom nothing allows anything, and how airtapd fares meanwhile."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from lab.airtap import Airtapd
from lab.sandbox import dying_with_us

STRANGER = 12345


@contextlib.contextmanager
def stranger(program: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program of a stranger's."""
    process = subprocess.Popen(
        dying_with_us(["/usr/bin/python3", "-c", program, *argv]),
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def says(process: subprocess.Popen[str]) -> str:
    """The next line that a program prints."""
    assert process.stdout
    return process.stdout.readline().rstrip()


def seconds_for_status(airtapd: Airtapd) -> float:
    start = time.monotonic()
    airtapd.status()
    return time.monotonic() - start


def peak_mib(pid: int) -> float:
    """The most memory that a process has had."""
    [line] = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) / 1024

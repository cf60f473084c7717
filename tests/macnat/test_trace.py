"""airtap trace: real frames, each as the programs saw it, and in words."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lab import sandbox
from lab.airtap import BIN, Airtapd
from lab.lan import FAR_MAC, HOST4, NEAR_MAC, ROUTER4, Lan, wait_for
from tests.macnat.traffic import GUEST4, GUEST_MAC, pump


class Trace:
    """A running airtap trace, and what it has printed. process: to signal it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def text(self) -> str:
        return "\n".join(self.lines)

    def told(self, pattern: str) -> str:
        """Wait for a line that a pattern matches from its direction on, and return that part."""

        def find() -> str | None:
            for line in list(self.lines):
                if found := re.fullmatch(rf"\d\d:\d\d:\d\d\.\d\d\d  ({pattern})", line):
                    return found[1]
            return None

        try:
            return wait_for(find, 10, pattern) or ""
        except TimeoutError as exc:
            raise AssertionError(f"no line {pattern} in:\n{self.text()}") from exc


@contextmanager
def tracing(airtapd: Airtapd, guest: str, *options: str, uid: int = 0) -> Iterator[Trace]:
    """A trace that has begun."""
    program = BIN / "airtap" if uid == 0 else sandbox.TREE / "helper/airtap"
    process = subprocess.Popen(
        sandbox.dying_with_us([str(program), "trace", guest, *options]),
        env={"PATH": "/usr/bin:/bin", **airtapd.env},
        user=uid,
        group=uid,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    trace = Trace(process)
    try:
        wait_for(lambda: trace.lines, 20, "the trace to begin")
        yield trace
    finally:
        process.terminate()
        process.wait()
        trace.thread.join()
        assert process.stdout
        process.stdout.close()


def test_x(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4) as guest:
        with tracing(airtapd, GUEST_MAC) as trace:
            guest.ping(ROUTER4)
            guest.ping(HOST4)
            lan.ping(GUEST4)
            guest.dhcp()
            guest.ping("2001:db8::1")
            import time; time.sleep(2)
            print(trace.text())
            print(airtapd.log())
            assert 0

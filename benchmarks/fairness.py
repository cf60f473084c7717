"""What one user's flood costs another: 128 connections without any right, and somebody else's
status and attach, beside the same without a flood, in the same run; on a host with few devices and
on one with many. "busy" is no flood: as many processes as there are processors, which never sleep
and do not ask airtapd, so what is slower beside them waits for a processor.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from airtap.errors import Problem
from lab import sandbox
from lab.adversary.crowd import STRANGER, Crowd
from lab.adversary.flood import KINDS
from lab.adversary.memory import peak_kib
from lab.lan import wait_for
from lab.sandbox import command, dying_with_us

CONNECTIONS = 128
DEVICES = (4, 150)
ROUNDS, PATIENCE_S = {"status": 101, "attach": 11}, 20.0
# An aim of the project; nothing depends on it.
AIM = 5.0
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1));"
_PROGRAM += "from lab.adversary.flood import main; main()"


def main() -> int:
    sandbox.enter()
    for devices in DEVICES:
        with Crowd("macvtap") as crowd, _devices(devices):
            compare(crowd, devices)
    return 0


def compare(crowd: Crowd, devices: int) -> None:
    """Print another user's median and worst, without a flood and beside each kind of it."""
    rounds = " or ".join(map(str, ROUNDS.values()))
    print(f"{devices} devices; another user waits, ms: median, worst of {rounds}, ratio of medians")
    idle = measured(crowd)
    print(f"{'':10}{_row('status', idle['status'])}{_row('attach', idle['attach'])}")
    for kind in ("busy", *KINDS):
        with _busy() if kind == "busy" else _flood(crowd.airtapd.socket, kind):
            took = measured(crowd)
        rows = [
            f"{_row(what, took[what])}{_median(took[what]) / _median(idle[what]):7.1f}"
            for what in took
        ]
        print(f"{kind:10}{''.join(rows)}", flush=True)
    peak = peak_kib(crowd.airtapd.pid) >> 10
    print(f"aim: a ratio of {AIM:.0f} at most; airtapd has had {peak} MiB at most\n")


def measured(crowd: Crowd) -> dict[str, list[float]]:
    ways: dict[str, Callable[[], float]] = {"status": crowd.status, "attach": crowd.attach}
    return {what: _times(ask, ROUNDS[what]) for what, ask in ways.items()}


def _times(ask: Callable[[], float], rounds: int) -> list[float]:
    """ms, of so many rounds, or as many as PATIENCE_S allows. No answer took as long as it was
    waited for."""
    times: list[float] = []
    while len(times) < rounds and sum(times) < PATIENCE_S * 1000:
        began = time.perf_counter()
        with contextlib.suppress(Problem):
            ask()
        times.append((time.perf_counter() - began) * 1000)
    return times


def _row(what: str, times: list[float]) -> str:
    return f"  {what} {_median(times):8.1f} {max(times):8.1f}"


_median = statistics.median


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in os.sched_getaffinity(0):
            argv = dying_with_us(["/usr/bin/python3", "-I", "-S", "-c", "while True: pass"])
            process = subprocess.Popen(
                argv, user=STRANGER, group=STRANGER, extra_groups=[], cwd="/"
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


@contextlib.contextmanager
def _flood(path: str, kind: str) -> Iterator[None]:
    argv = ["/usr/bin/python3", "-I", "-S", "-c", _PROGRAM, str(sandbox.TREE), path]
    process = subprocess.Popen(
        dying_with_us([*argv, str(CONNECTIONS), kind]),
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        stdout=subprocess.PIPE,
        cwd="/",
    )
    with process:
        try:
            assert process.stdout and process.stdout.readline()
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def _devices(number: int) -> Iterator[None]:
    """The host has so many devices in all."""
    before = len(sandbox.host_links())
    pairs = [f"more{n}" for n in range(max(0, number - before) // 2)]
    for name in pairs:
        command("ip", "link", "add", name, "type", "veth", "peer", f"{name}p")
    try:
        yield
    finally:
        for name in pairs:
            command("ip", "link", "delete", name)
        wait_for(lambda: len(sandbox.host_links()) <= before, 20, "the devices to go")


if __name__ == "__main__":
    sys.exit(main())

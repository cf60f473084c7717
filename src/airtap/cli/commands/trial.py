"""airtap try: whether guests work on a device, found out with a throw-away one."""

import argparse
import asyncio
import json
import signal
import sys
import time
from typing import TextIO

from ...names import device_name
from ...trial import trial
from ...trial.steps import Report, Step, Trial
from ..columns import printable
from ..common import echo

_TITLES = {
    "uplink": "uplink",
    "device": "device for a guest",
    "macnat": "MAC NAT",
    "lease": "DHCP lease",
    "gateway4": "gateway by ARP",
    "ping4": "gateway pinged, IPv4",
    "address6": "IPv6 address (SLAAC)",
    "gateway6": "gateway by ND",
    "ping6": "gateway pinged, IPv6",
    "guest_to_host4": "guest to host, IPv4",
    "host_to_guest4": "host to guest, IPv4",
    "guest_to_host6": "guest to host, IPv6",
    "host_to_guest6": "host to guest, IPv6",
}
_RESULTS = {"passed": "ok", "failed": "FAILED", "skipped": "-"}
_TITLE_WIDTH = max(map(len, _TITLES.values()))
_RESULT_WIDTH = max(map(len, _RESULTS.values()))
_TICK_S = 0.2
_LONG_S = 1.0
_COLUMNS = 79


def run(arguments: argparse.Namespace) -> None:
    """Raises SystemExit unless all passed, Problem if nothing could be tried."""
    name = device_name(arguments.device)
    out = sys.stderr if arguments.json else sys.stdout
    progress = Progress(out, quiet=arguments.json)
    report = asyncio.run(_run(name, arguments.kind, arguments.timeout, progress))
    echo(json.dumps(report.to_json(), indent=2) if arguments.json else _verdict(report))
    if not report.passed:
        raise SystemExit(1)


async def _run(name: str, kind: str | None, step_s: float, progress: "Progress") -> Report:
    """Return the report of a trial, which SIGINT, SIGTERM and SIGHUP end orderly."""
    task = asyncio.current_task()
    assert task
    got: list[int] = []

    def end(number: int) -> None:
        got.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        return await trial.run(name, kind, step_s, progress)
    except asyncio.CancelledError:
        progress.note("interrupted; what was made is undone")
        raise SystemExit(128 + got[0] if got else 1) from None
    finally:
        progress.stop()


class Progress:
    """Tells of each step as it ends, and what is waited for while it lasts.

    On a terminal that is a line that changes; else one line for each wait that lasts. quiet: only
    the former.
    """

    def __init__(self, out: TextIO, quiet: bool) -> None:
        self._out = out
        self._live = out.isatty()
        self._quiet = quiet
        self._title = self._what = self._said = ""
        self._began = 0.0
        self._ticker: asyncio.Task[None] | None = None

    def trial(self, trial: Trial) -> None:
        """A trial begins, or is left out."""
        rest = f"not tried: {trial.not_tried}" if trial.not_tried else f"guest {trial.mac}"
        self.note(f"{trial.kind}: {printable(rest)}")

    def begin(self, name: str) -> None:
        """A step begins."""
        self._title, self._what, self._said = _TITLES[name], "", ""
        self._began = time.monotonic()
        self._ticker = self._ticker or asyncio.create_task(self._tick())
        self._show()

    def waits(self, what: str) -> None:
        """What the step waits for now."""
        self._what = what
        self._show()

    def end(self, step: Step) -> None:
        """A step has ended."""
        self._what = self._title = ""
        result = _RESULTS[step.result].ljust(_RESULT_WIDTH)
        title = _TITLES[step.name].ljust(_TITLE_WIDTH)
        self.note(f"  {result}  {title}  {_time(step.seconds):>7}  {printable(step.detail)}")
        if step.hint:
            self.note(f"  {'':{_RESULT_WIDTH}}  {printable(step.hint)}")

    def stop(self) -> None:
        if self._ticker:
            self._ticker.cancel()
        self._title = ""
        self._show()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._show()

    def _show(self) -> None:
        passed = time.monotonic() - self._began
        what = f"waiting for {self._what}" if self._what else ""
        if self._live:
            line = f"  ...  {self._title}  {passed:.0f} s  {what}" if self._title else ""
            self._out.write(f"\r\x1b[K{printable(line)[:_COLUMNS]}")
            self._out.flush()
        elif not self._quiet and what != self._said and passed > _LONG_S:
            self._said = what
            self.note(f"  ...  {self._title}: {printable(what)}")

    def note(self, text: str) -> None:
        """Print a line."""
        if self._quiet:
            return
        self._out.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        self._out.flush()


def _verdict(report: Report) -> str:
    if report.passed:
        tried = [trial.kind for trial in report.trials if trial.device]
        return f"{report.device}: guests work ({' and '.join(tried)})"
    failed = report.failures()
    if not failed:
        return f"{report.device}: nothing could be tried"
    many = "1 step" if failed == 1 else f"{failed} steps"
    return f"{report.device}: {many} failed; airtap doctor {report.device} says more"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"

"""pytest's plugin outside the machines: boots one per kernel, and reports what it reports.

A test that is marked `machine(VERSION)` runs in the machine of that kernel (lab/machine.py), as if
written for this system; nothing of it runs here. A machine boots when the first of its tests has
its turn, and runs all that are selected for it; each test then waits for its own reports from
there. Whatever keeps a test from being run in the machine is a failure of that test.

The user-mode kernel, which boots in a second, has a machine for each module.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence

import pytest

from lab.inside import REPORTS, limit
from lab.kernels import REPOSITORY
from lab.machine import Machine
from lab.workers import machine_of

# Seconds. Booting takes 20 on an idle machine with two processors.
_BOOT_S = 240.0
_MORE_SILENCE_S = 120.0  # than any test may take
_WHOLE_S = 80 * 60.0
_TAIL = 6000  # characters


class Outside:
    """Answers for the tests of machines with what their machine says of them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._runs: dict[tuple[str, str], Run] = {}
        config.add_cleanup(self.close)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> object:
        machine = machine_of(item)
        if machine is None or os.geteuid() != 0:
            return None
        run = self._run(machine, item.session)
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in run.reports(item):
            hook.pytest_runtest_logreport(report=report)
        _end_fixtures(item, nextitem)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if not run.waiting:
            run.close()
        return True

    def close(self) -> None:
        """End the machines, also when the session is interrupted."""
        for run in self._runs.values():
            run.close()

    def _run(self, machine: tuple[str, str], session: pytest.Session) -> Run:
        if machine not in self._runs:
            items = [item for item in session.items if machine_of(item) == machine]
            self._runs[machine] = Run(machine[0], items, self._config)
            self._runs[machine].start()
        return self._runs[machine]


def _for_adversaries() -> dict[str, str]:
    """How long they are to try, and from which seed on: lab/adversary/bout.py reads it."""
    return {k: v for k, v in os.environ.items() if k.startswith("AIRTAP_ADVERSARY_")}


def _end_fixtures(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End what the test before has left for this one, of whose module it may have been."""
    state = item.session._setupstate
    call = pytest.CallInfo.from_call(lambda: state.teardown_exact(nextitem), "teardown")
    if call.excinfo:
        report = item.ihook.pytest_runtest_makereport(item=item, call=call)
        item.ihook.pytest_runtest_logreport(report=report)


class Run:
    """One machine with the tests of its kernel."""

    def __init__(self, version: str, items: Sequence[pytest.Item], config: pytest.Config) -> None:
        self._nodeids = [item.nodeid for item in items]
        self._silence = max(map(limit, items)) + _MORE_SILENCE_S
        self.waiting = set(self._nodeids)
        self._config = config
        self._version = version
        self._machine: Machine | None = None
        self._trouble = ""
        self._heard: dict[str, list[pytest.TestReport]] = {}
        self._read = 0

    def start(self) -> None:
        """Boot the machine; that there is no such kernel is trouble like any other."""
        options = [
            "-q",
            "-m",
            "",
            "-p",
            "no:cacheprovider",
            f"--tb={self._config.getoption('tbstyle')}",
        ]
        python = str(REPOSITORY / ".venv/bin/python")
        try:
            self._machine = Machine(
                self._version,
                [python, "-m", "pytest", *options, *self._nodeids],
                env={"AIRTAP_MACHINE": self._version, **_for_adversaries()},
            )
            self._machine.start()
        except (OSError, RuntimeError) as exc:
            self._trouble = f"the machine does not start: {exc}"
        self._began = self._last = time.monotonic()

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """The reports of one test, as they come in; made up if the machine fails to run it."""
        seen: list[pytest.TestReport] = []
        while not seen or seen[-1].when != "teardown":
            heard = self._heard.get(item.nodeid, [])
            if len(heard) > len(seen):
                seen.append(heard[len(seen)])
                yield seen[-1]
            elif self._trouble:
                if not seen:
                    yield _report(item, "setup")
                if [report.when for report in seen] != ["setup", "call"]:
                    yield _report(item, "call", self._trouble + self._said())
                yield _report(item, "teardown")
                break
            else:
                self._listen()
        self.waiting.discard(item.nodeid)

    def close(self) -> None:
        """End the machine, whatever it is at; closing twice is fine."""
        if self._machine:
            self._machine.close()
        self._trouble = self._trouble or "the machine has been ended"

    def _listen(self) -> None:
        assert self._machine
        running = self._machine.running
        if self._take_reports():
            self._last = time.monotonic()
        elif not running:
            status = self._machine.status
            end = "died" if status is None else f"ended, exit status {status} of pytest there,"
            self._trouble = f"the machine {end} without a word on this test"
        elif (late := self._late()) is not None:
            self._trouble = late
            self._machine.close()
        else:
            time.sleep(0.2)

    def _late(self) -> str | None:
        assert self._machine
        now = time.monotonic()
        most = self._silence if self._machine.booted else _BOOT_S
        doing = "without a report" if self._machine.booted else "and the machine has not booted"
        if now - self._last > most:
            return f"{now - self._last:.0f} s {doing}"
        if now - self._began > _WHOLE_S:
            return f"the machine is not done after {_WHOLE_S:.0f} s"
        return None

    def _take_reports(self) -> bool:
        assert self._machine
        text = self._machine.read(REPORTS.name)
        complete = text[self._read : text.rfind("\n") + 1]
        self._read += len(complete)
        for line in complete.splitlines():
            report = self._parsed(line)
            self._heard.setdefault(report.nodeid, []).append(report)
        return bool(complete)

    def _parsed(self, line: str) -> pytest.TestReport:
        data = json.loads(line)
        hook = self._config.hook.pytest_report_from_serializable
        report: pytest.TestReport = hook(config=self._config, data=data)
        if report.skipped and isinstance(report.longrepr, list):
            report.longrepr = tuple(report.longrepr)  # as the terminal wants it; JSON has no tuples
        return report

    def _said(self) -> str:
        if self._machine is None:
            return ""
        console, log = self._machine.console()[-_TAIL:], self._machine.log()[-_TAIL:]
        return f"\n---- console ----\n{console}\n---- pytest in the machine ----\n{log}"


def _report(item: pytest.Item, when: str, trouble: str | None = None) -> pytest.TestReport:
    return pytest.TestReport(
        item.nodeid,
        item.location,
        dict.fromkeys(item.keywords, 1),
        "failed" if trouble else "passed",
        trouble,
        when,  # type: ignore[arg-type]
    )

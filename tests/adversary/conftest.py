"""What the bouts came to, told at the end of a run also when nothing failed."""

from collections.abc import Iterator

import pytest

_reports: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _reports.extend(str(value) for name, value in report.user_properties if name == "bout")


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    if _reports:
        terminalreporter.section("adversaries")
        for line in _reports:
            terminalreporter.write_line(line)
    yield

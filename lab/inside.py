"""pytest's plugin inside the machine: tells outside what becomes of each test, as it happens."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.machine import SHARED

# Set by outside.py. Absent, this is no machine.
VERSION = os.environ.get("AIRTAP_MACHINE")

REPORTS = SHARED / "reports"
_SO_TIMESTAMP = 29  # asm-generic/socket.h
_AGAIN_S = 60  # a fixture's end may hang as well


def limit(item: pytest.Item) -> int:
    """Seconds for a test with its fixtures; outside gives the machine up a little later.

    A module whose tests take longer has a TEST_S.
    """
    assert isinstance(item, pytest.Function)
    return getattr(item.module, "TEST_S", 300)


class TooLong(Exception):
    """The test has had its time."""


class Inside:
    """Writes every report to REPORTS, and ends a test that hangs."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        # While somebody wants timestamps, the kernel does not patch its receive path each time that
        # a ping starts or ends: an emulated processor ran into the breakpoint of such a patch once.
        self._stamped = socket.socket(type=socket.SOCK_DGRAM)
        self._stamped.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
        signal.signal(signal.SIGALRM, _too_long)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook = self._config.hook.pytest_report_to_serializable
        with Path(REPORTS).open("a") as file:
            line = json.dumps(hook(config=self._config, report=report), default=str)
            file.write(line + "\n")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_REAL, limit(item), _AGAIN_S)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(*_: object) -> None:
    raise TooLong("still not done")

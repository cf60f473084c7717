"""Tests side by side: pytest-xdist's workers, each in a sandbox of its own.

A module's tests stay together in one worker, and so do all those of a machine (lab/outside.py).
What takes longest comes first, so that no worker is left with it at the end.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from lab.machine import VERSIONS

# Of this process: "gw0" and so on; empty without workers.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
# xdist's own thread reads what is to run next.
THREADS = 2 if WORKER else 1
# How many links the sandboxes of two workers are apart: see lab.sandbox.enter().
_APART = 5_000

# Machines, and directories of modules: the longest first.
_ORDER = ("6.12", "6.1", "libvirt", "install", "macnat", "bpf", "doctor", "wifi", "trial", "docs")
_MACHINE = re.compile(rf"[\[-]({'|'.join(map(re.escape, VERSIONS))})[]-]")


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out modules and machines whole, in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        return " ".join(_scope(nodeid))


def machine_of(item: pytest.Item) -> tuple[str, str] | None:
    """The machine that a test runs in: its version, and for which module; None for this system."""
    if item.get_closest_marker("machine") is None:
        return None
    version, module = _scope(item.nodeid)
    assert version, f"{item.nodeid} does not name its machine"
    return version, module


def first_link() -> int:
    """How many links a worker's sandbox leaves out."""
    return int(WORKER.removeprefix("gw") or "0") * _APART


def longest_first(item: pytest.Item) -> int:
    """The key to sort tests by; those of a module stay as they are."""
    version, module = _scope(item.nodeid)
    name = Path(module).parent.name if module else version
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _scope(nodeid: str) -> tuple[str, str]:
    """What a test stays together with, by its id: version and module of its machine, or its module.

    A stock kernel boots once for all modules, which then is "".
    """
    found = _MACHINE.search(nodeid)
    version = found[1] if found else ""
    return version, nodeid.split("::")[0] if version in ("", "um") else ""

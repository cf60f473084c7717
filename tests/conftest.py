"""Where the tests run, and what every one of them must leave behind: nothing.

tests/unit needs no root. Everything else runs in namespaces that this process makes for itself
when the first such test is collected (lab/sandbox.py), or in a machine (lab/outside.py).
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from lab import sandbox
from lab.airtap import Airtapd
from lab.inside import VERSION, Inside
from lab.lan import Lan, wait_for
from lab.outside import Outside
from lab.workers import THREADS, Scheduler, first_link, longest_first

UNIT = Path(__file__).parent / "unit"

# Their assertions are to say what differs, as those of tests do.
pytest.register_assert_rewrite("lab.doctor", "lab.trial")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Inside(config) if VERSION else Outside(config), "machines")
    # A shell's `make test &` has it ignored, also in the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Two emulated processors keep ours busy meanwhile: that an example takes long is no failure.
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    return Scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=longest_first)
    outside = [item for item in items if not item.path.is_relative_to(UNIT)]
    if not outside:
        return
    if os.geteuid() != 0 and "CI" not in os.environ:
        for item in outside:
            item.add_marker(pytest.mark.skip(reason="needs root: it makes namespaces"))
        return
    sandbox.enter(links=first_link(), threads=THREADS)


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: the links, namespaces, processes and descriptors of before."""
    if request.node.path.is_relative_to(UNIT):
        yield
        return
    before = _inventory()
    yield
    try:
        wait_for(lambda: _inventory() == before, 5, "the test to leave nothing behind")
    except TimeoutError:
        after = _inventory()
        leaks = {k: after[k] ^ before[k] for k in before if after[k] != before[k]}
        pytest.fail(f"changed by the test: {leaks}")


def _inventory() -> dict[str, set[str]]:
    namespaces = Path("/run/netns")
    return {
        "links": sandbox.host_links(),
        "namespaces": {p.name for p in namespaces.iterdir()} if namespaces.is_dir() else set(),
        "processes": {str(pid) for pid in sandbox.children()},
        "descriptors": {p.name for p in Path("/proc/self/fd").iterdir()},
    }


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A wired LAN behind up0."""
    with Lan() as lan:
        yield lan


@pytest.fixture
def airtapd(lan: Lan) -> Iterator[Airtapd]:
    """An airtapd on that LAN whose ACL allows everything."""
    with Airtapd() as daemon:
        yield daemon

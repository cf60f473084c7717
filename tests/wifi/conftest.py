"""Tests on Wi-Fi: written as if run in the machine, started and reported from outside it.

In the machine: an access point, the host as its station on wlan1, and airtapd there. Each is
started once per module. How tests get into the machine: lab/outside.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from airtap.ipc import protocol
from lab.airtap import Airtapd
from lab.kernels import SUITES
from lab.sandbox import command
from lab.traffic import undisturbed
from lab.wifi import VARIANTS, AccessPoint, Radios, Station

KINDS = ("macvtap", "ipvtap")


# First, so that ids are the same wherever this file is met: as an initial conftest or later.
@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module may name its KERNELS, of lab.machine.VERSIONS, and the KINDS.

    On stock kernels all the others are slow.
    """
    own = getattr(metafunc.module, "KERNELS", ("um",))
    marked = [pytest.param(version, marks=pytest.mark.machine(version)) for version in own]
    slow = [
        pytest.param(version, marks=[pytest.mark.machine(version), pytest.mark.slow])
        for version in SUITES
        if version not in own
    ]
    metafunc.parametrize("kernel", [*marked, *slow], scope="session")
    if "kind" in metafunc.fixturenames:
        kinds = getattr(metafunc.module, "KINDS", KINDS)
        metafunc.parametrize("kind", kinds, scope="module", indirect=True)


@pytest.fixture(scope="session", autouse=True)
def kernel() -> str:
    """The version of the machine's kernel, by parametrisation."""
    raise NotImplementedError


@pytest.fixture(scope="session")
def radios() -> Radios:
    return Radios(3)


@pytest.fixture(scope="module")
def variant() -> str:
    """Which of VARIANTS the access point is."""
    return "wpa2"


@pytest.fixture(scope="module")
def lan(radios: Radios, variant: str) -> Iterator[AccessPoint]:
    """The LAN behind the access point."""
    with AccessPoint(**VARIANTS[variant]) as lan:
        yield lan


@pytest.fixture(scope="module")
def station(lan: AccessPoint) -> Iterator[Station]:
    """The host on that LAN."""
    with Station([lan]) as station:
        yield station


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    """Of the guests' devices."""
    return str(request.param)


@pytest.fixture(scope="module")
def more_config() -> str:
    """More of airtap.toml's table for wlan1."""
    return ""


@pytest.fixture(scope="module")
def constants() -> Mapping[str, object]:
    """Of Airtapd."""
    return {}


@pytest.fixture(scope="module")
def daemon(
    radios: Radios, kind: str, more_config: str, constants: Mapping[str, object]
) -> Iterator[Airtapd]:
    """An airtapd whose ACL allows everything; access points and stations come and go under it."""
    config = f'[parents.wlan1]\nkind = "{kind}"\n{more_config}'
    with Airtapd(config=config, socket=protocol.DEFAULT_SOCKET, constants=constants) as daemon:
        yield daemon


@pytest.fixture
def airtapd(daemon: Airtapd, station: Station, lan: AccessPoint) -> Iterator[Airtapd]:
    """That airtapd, on a host that is on the LAN. Host and router know of no earlier guest."""
    # They would not ask again for an address of theirs for half a minute.
    lan.run("ip", "neigh", "flush", "all")
    command("ip", "neigh", "flush", "all")
    before = len(daemon.log())
    yield daemon
    print(daemon.log()[before:])  # shown with a test that fails


@pytest.fixture
def undisturbed_host(station: Station) -> Iterator[None]:
    """The host's own traffic goes on: see undisturbed()."""
    with undisturbed(0.2):
        yield

"""Fixtures: the one-MAC wire, on which no test may let a foreign MAC through."""

from collections.abc import Iterator

import pytest

from lab.airtap import Airtapd
from lab.lan import Lan
from lab.traffic import undisturbed

MACNAT_ON = '[parents.up0]\nmacnat = "on"\n'


@pytest.fixture
def device_kind(request: pytest.FixtureRequest) -> str:
    """What guests get: see lab.kinds."""
    return str(getattr(request, "param", "macvtap"))


@pytest.fixture
def counting_lan() -> Iterator[Lan]:
    """A LAN behind up0 that takes one MAC, for tests that expect it to drop frames."""
    with Lan(one_mac=True) as lan:
        yield lan


@pytest.fixture
def lan(counting_lan: Lan) -> Iterator[Lan]:
    """A LAN behind up0 that takes one MAC, and never sees another."""
    yield counting_lan
    assert counting_lan.foreign_frames() == 0


@pytest.fixture
def airtapd(counting_lan: Lan, device_kind: str) -> Iterator[Airtapd]:
    """An airtapd whose ACL allows everything, with MAC NAT on up0."""
    with Airtapd(config=f'{MACNAT_ON}kind = "{device_kind}"\n') as daemon:
        yield daemon
        print(daemon.log())  # shown with a test that fails


@pytest.fixture
def undisturbed_host(lan: Lan, airtapd: Airtapd) -> Iterator[None]:
    """The host's own traffic goes on: see undisturbed()."""
    with undisturbed(0.05):
        yield

"""A host on a LAN that takes one MAC, and airtap doctor there."""

from collections.abc import Iterator

import pytest

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.lan import Lan

MACNAT_ON = '[parents.up0]\nmacnat = "on"\n'


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A LAN behind up0 that takes one MAC."""
    with Lan(one_mac=True) as lan:
        yield lan


@pytest.fixture
def config() -> str:
    """More of airtap.toml."""
    return MACNAT_ON


@pytest.fixture
def airtapd(lan: Lan, config: str) -> Iterator[Airtapd]:
    """An airtapd whose ACL allows everything."""
    with Airtapd(config=config) as daemon:
        yield daemon
        print(daemon.log())  # shown with a test that fails


@pytest.fixture
def doctor(airtapd: Airtapd) -> Doctor:
    """On that host."""
    return Doctor.of(airtapd)

"""A real libvirtd beside a real airtapd, both in the sandbox."""

from collections.abc import Iterator

import pytest

from airtap.ipc import protocol
from lab.airtap import Airtapd
from lab.lan import Lan
from lab.libvirt import Libvirtd

CONFIG = '[parents.up0]\nmacnat = "on"\n'


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A LAN behind up0 that takes one MAC, and never sees another."""
    with Lan(one_mac=True) as lan:
        yield lan
        assert lan.foreign_frames() == 0


@pytest.fixture
def airtapd(lan: Lan) -> Iterator[Airtapd]:
    """An airtapd whose ACL allows everything, with MAC NAT on up0."""
    with Airtapd(config=CONFIG, socket=protocol.DEFAULT_SOCKET) as daemon:
        yield daemon
        print(daemon.log())  # shown with a test that fails


@pytest.fixture
def libvirtd(lan: Lan) -> Iterator[Libvirtd]:
    """qemu:///system, without networks."""
    with Libvirtd() as daemon:
        yield daemon
        print(daemon.log())

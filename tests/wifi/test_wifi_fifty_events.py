# ruff: noqa: F811
"""Fifty things that happen to a laptop, in five parts, for a test in the machine has its limits."""

from collections.abc import Iterator, Mapping

import pytest

from lab.airtap import Airtapd
from lab.lan import Lan, wait_for
from lab.laptop import Laptop
from lab.sandbox import command
from lab.suspend import Suspend
from lab.wifi import AccessPoint, Station
from tests.wifi.roaming import roam, settle
from tests.wifi.test_wifi_roaming import nothing_leaks, other, station  # noqa: F401
from tests.wifi.wireless import UPLINK

pytestmark = pytest.mark.slow
TEST_S = 1800
KINDS = ("ipvtap",)  # macvtap's are those of tests/libvirt/test_fifty_events.py


@pytest.fixture(scope="module")
def suspend(tmp_path_factory: pytest.TempPathFactory) -> Suspend:
    return Suspend(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def constants(suspend: Suspend) -> Mapping[str, object]:
    return suspend.constants


@pytest.fixture(scope="module")
def laptop(
    lan: AccessPoint,
    other: AccessPoint,
    station: Station,
    daemon: Airtapd,
    suspend: Suspend,
) -> Iterator[Laptop]:
    networks = [lan, other]

    def joins_another() -> Lan:
        networks.reverse()
        roam(station, networks[0])
        return networks[0]

    def change_mac(mac: str) -> None:
        """As NetworkManager does: the device is down for it, and loses what it had."""
        command("ip", "link", "set", UPLINK, "down")
        command("ip", "link", "set", UPLINK, "address", mac, "up")
        station.wait_associated()
        settle(networks[0])

    laptop = Laptop(daemon, UPLINK, lan, joins_another, change_mac, suspend.sleep)
    try:
        yield laptop
    finally:
        laptop.stop_all()


@pytest.mark.parametrize("part", range(1, 6))
def test_events(laptop: Laptop, part: int) -> None:
    laptop.happen(10)


def test_afterwards(laptop: Laptop) -> None:
    wait_for(lambda: laptop.lan.ping(f"{laptop.lan.subnet.ipv4}10"), 20, "the host to be back")
    laptop.all_is_well()
    laptop.end()

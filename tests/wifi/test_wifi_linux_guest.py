# ruff: noqa: F811
"""As test_wifi_roaming.py, with a guest that runs Linux: it notices its link and releases its card.

It is emulated, on a stock kernel twice, and takes minutes to boot there.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lab.airtap import Airtapd
from lab.domains import GUEST_MAC, connected, direct_card, network_card
from lab.lan import wait_for
from lab.libvirt import Libvirtd, domain_xml
from lab.linux import leases
from lab.traffic import known, of_a, status_of
from lab.wifi import AccessPoint, Radios, Station
from tests.wifi.roaming import PROMPTLY, roam
from tests.wifi.test_wifi_roaming import libvirtd, nothing_leaks, other, station  # noqa: F401
from tests.wifi.wireless import UPLINK

pytestmark = pytest.mark.slow
TEST_S = 1800
_BOOT_S = 300


@dataclass
class Guest:
    """A guest of libvirt's that runs Linux."""

    domain: Any
    libvirtd: Libvirtd

    def leases(self) -> list[str]:
        return leases(self.libvirtd.serial("guest"), GUEST_MAC)

    def next_lease(self, before: int, lan: AccessPoint) -> str:
        """The address that it gets there within 15 s; it had so many leases before."""
        began = time.monotonic()
        wait_for(lambda: len(self.leases()) > before, PROMPTLY, "the guest's new lease")
        print(f"a lease after {time.monotonic() - began:.1f} s")
        address = self.leases()[-1]
        assert address.startswith(lan.subnet.ipv4)
        return address


@pytest.fixture(scope="module")
def guest(
    lan: AccessPoint, station: Station, daemon: Airtapd, libvirtd: Libvirtd, kind: str
) -> Iterator[Guest]:
    card = direct_card(UPLINK) if kind == "macvtap" else network_card("default")
    xml = domain_xml("guest", GUEST_MAC, libvirtd.serial_file("guest"), card, linux=True)
    with connected(libvirtd) as connection:
        domain = connection.defineXML(xml)
        try:
            if kind == "ipvtap":
                words = ("domain", "connect", "guest", "--parent", UPLINK, "--kind", kind)
                done = libvirtd.airtap(*words)
                assert done.returncode == 0, done.stderr
            domain.create()
            guest = Guest(domain, libvirtd)
            wait_for(guest.leases, _BOOT_S, "the guest to boot and tell its lease")
            yield guest
        finally:
            print(libvirtd.serial("guest"))
            domain.destroy()
            domain.undefine()


def test_another_network(
    lan: AccessPoint, other: AccessPoint, station: Station, airtapd: Airtapd, guest: Guest
) -> None:
    assert wait_for(lambda: of_a(airtapd, GUEST_MAC), 20, "its addresses to be known")
    before = len(guest.leases())
    roam(station, other)
    address = guest.next_lease(before, other)
    wait_for(lambda: other.ping(address), 10, "the guest to answer")
    assert of_a(airtapd, GUEST_MAC) == []
    assert address in known(airtapd, GUEST_MAC)
    roam(station, lan)
    address = guest.next_lease(before + 1, lan)
    wait_for(lambda: lan.ping(address), 10, "the guest to answer")


def test_the_adapter_is_pulled_out_and_put_back(
    lan: AccessPoint, station: Station, airtapd: Airtapd, guest: Guest
) -> None:
    before = len(guest.leases())
    card = guest.domain.XMLDesc().split("<interface")[1].split("<address")[1].split("/>")[0]
    station.close()
    mac = Radios.remove(UPLINK)
    wait_for(lambda: not airtapd.guests(), 10, "all that stood on it to be gone")
    Radios.add(UPLINK, mac)
    station.start()
    address = guest.next_lease(before, lan)
    wait_for(lambda: lan.ping(address), 10, "the guest to answer")
    assert card in guest.domain.XMLDesc()
    assert status_of(airtapd, GUEST_MAC)["owner"]["domain"] == "guest"


def test_out_of_reach_for_a_minute(
    lan: AccessPoint, station: Station, airtapd: Airtapd, guest: Guest
) -> None:
    """As in sleep: nobody asks anew, and nothing is forgotten."""
    count, asked = len(guest.leases()), lan.log().count("DHCPDISCOVER")
    before = known(airtapd, GUEST_MAC)
    station.cli("disconnect")
    time.sleep(60)
    station.cli("reconnect")
    station.wait_associated()
    wait_for(lambda: lan.ping(guest.leases()[-1]), 10, "the guest to answer")
    assert known(airtapd, GUEST_MAC) >= before  # it may have come by its IPv6 address meanwhile
    assert (len(guest.leases()), lan.log().count("DHCPDISCOVER")) == (count, asked)

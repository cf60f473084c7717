"""Guests follow a laptop to another network, and an adapter is pulled out.

libvirt's guest is iPXE, which asks for a lease again and again, does not notice its link, and
releases no card: that the link went down and up says airtapd. test_wifi_linux_guest.py has a guest
that runs Linux.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lab.airtap import Airtapd
from lab.domains import GUEST_MAC, booted, connected, direct_card
from lab.lan import BOOT_FILE, wait_for
from lab.libvirt import Libvirtd, domain_xml
from lab.traffic import GUEST_MAC as PUMP_MAC
from lab.traffic import known, of_a, status_of
from lab.wifi import AccessPoint, Radios, Station
from tests.wifi.roaming import PROMPTLY, other_network, roam
from tests.wifi.wireless import UPLINK, lease, pump

KINDS = ("macvtap",)

SCRIPT = """#!ipxe
echo AIRTAP-GUEST ${net0/mac} ${net0/ip} booted
:stay
sleep 4
dhcp net0 ||
goto stay
"""


@pytest.fixture(scope="module")
def other(radios: Radios) -> Iterator[AccessPoint]:
    """Another network within reach."""
    with other_network() as other:
        yield other


@pytest.fixture(scope="module")
def station(lan: AccessPoint, other: AccessPoint) -> Iterator[Station]:
    with Station([lan, other]) as station:
        yield station


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    with Libvirtd() as daemon:
        yield daemon
        print(daemon.log())


@dataclass
class Guest:
    """A guest of libvirt's. address: its first lease, of the first network."""

    domain: Any
    address: str


@pytest.fixture(scope="module")
def guest(
    lan: AccessPoint, station: Station, daemon: Airtapd, libvirtd: Libvirtd
) -> Iterator[Guest]:
    (lan.tftp_root / BOOT_FILE).write_text(SCRIPT)
    serial = libvirtd.serial_file("guest")
    xml = domain_xml("guest", GUEST_MAC, serial, direct_card(UPLINK), model="e1000")
    with connected(libvirtd) as connection:
        domain = connection.createXML(xml)
        try:
            yield Guest(domain, booted(lan, libvirtd))
        finally:
            print(libvirtd.serial("guest"))
            domain.destroy()


@pytest.fixture(autouse=True)
def nothing_leaks() -> None:
    """The guest stays from one test to the next."""


def test_out_of_reach_for_a_minute(
    lan: AccessPoint, station: Station, airtapd: Airtapd, guest: Guest
) -> None:
    """As in sleep: nobody is told anything, and nothing is forgotten."""
    wait_for(lambda: lan.ping(guest.address), 20, "the guest to answer")
    before, leases = known(airtapd, GUEST_MAC), lan.leases()
    station.cli("disconnect")
    time.sleep(60)
    station.cli("reconnect")
    station.wait_associated()
    wait_for(lambda: lan.ping(guest.address), 20, "the guest to answer")
    assert before <= known(airtapd, GUEST_MAC)
    assert lan.leases() == leases
    assert "another network" not in airtapd.log()


def test_another_network(
    lan: AccessPoint, other: AccessPoint, station: Station, airtapd: Airtapd, guest: Guest
) -> None:
    assert wait_for(lambda: of_a(airtapd, GUEST_MAC), 20, "its addresses to be known")
    said = len(airtapd.log())
    roam(station, other)
    began = time.monotonic()
    address = other.wait_lease(GUEST_MAC, PROMPTLY)
    print(f"a lease after {time.monotonic() - began:.1f} s")
    wait_for(lambda: other.ping(address), 20, "the guest to answer")
    assert of_a(airtapd, GUEST_MAC) == []
    assert address in known(airtapd, GUEST_MAC)
    told = f"network card {GUEST_MAC}: link down and up"
    wait_for(lambda: told in airtapd.log()[said:], 20, "airtapd to have told the guest")
    roam(station, lan)
    wait_for(lambda: lan.ping(guest.address), 30, "the guest to be back")


def test_a_guest_that_nobody_can_tell(
    lan: AccessPoint, other: AccessPoint, station: Station, airtapd: Airtapd
) -> None:
    with pump(airtapd) as guest:
        lease(airtapd, guest)
        roam(station, other)
        wait_for(lambda: status_of(airtapd, PUMP_MAC)["stranded"], 10, "it to be named")
        assert of_a(airtapd, PUMP_MAC) == []
        guest.run("ip", "address", "flush", "dev", "eth0", "scope", "global")
        assert other.ping(guest.dhcp(), timeout=5)
        wait_for(lambda: not status_of(airtapd, PUMP_MAC)["stranded"], 5, "it to be in place")
        roam(station, lan)


def test_the_adapter_is_pulled_out_and_put_back(
    lan: AccessPoint, station: Station, airtapd: Airtapd
) -> None:
    """A guest that nobody can give a new card is named; one that is started anew works."""
    with pump(airtapd) as guest:
        lease(airtapd, guest)
        device = status_of(airtapd, PUMP_MAC)["device"]
        station.close()
        mac = Radios.remove(UPLINK)
        [lost] = wait_for(lambda: airtapd.status().get("lost"), 10, "the loss") or []
        assert (lost["device"], lost["parent"]) == (device, UPLINK)
    Radios.add(UPLINK, mac)
    station.start()
    with pump(airtapd) as guest:
        assert lan.ping(lease(airtapd, guest), timeout=5)

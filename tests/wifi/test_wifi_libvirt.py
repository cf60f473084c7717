"""libvirt's guests behind the host's station: networks, and domains that airtap has connected."""

from collections.abc import Iterator

import pytest

from lab.airtap import Airtapd
from lab.domains import GUEST_MAC, booted, connected, direct_card, guest_on, network_card
from lab.guest import GUEST_UID
from lab.lan import slaac_address, wait_for
from lab.libvirt import Libvirtd, domain_xml
from lab.sandbox import host_links
from lab.wifi import AccessPoint, Station
from tests.wifi.wireless import UPLINK


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """qemu:///system, started once: that takes half a minute here."""
    with Libvirtd() as daemon:
        yield daemon
        print(daemon.log())


CARDS = {
    "macvtap": (network_card("wifi"), direct_card(UPLINK)),
    "ipvtap": (network_card("default"),),
}


def test_a_guests_life(
    lan: AccessPoint,
    airtapd: Airtapd,
    station: Station,
    libvirtd: Libvirtd,
    kind: str,
    undisturbed_host: None,
) -> None:
    """First boot, libvirtd started anew, saved, resumed and destroyed.

    On an airtap network and as "Macvtap device..." (createXML, then defineXML, as virt-manager has
    it), and after `airtap domain connect --kind ipvtap`.
    """
    links = host_links()
    run(libvirtd, "network", "define", "wifi", "--parent", UPLINK)
    for card in CARDS[kind]:
        xml = domain_xml("guest", GUEST_MAC, libvirtd.serial_file("guest"), card)
        with connected(libvirtd) as connection:
            if kind == "macvtap":
                connection.defineXML(connection.createXML(xml).XMLDesc())
            else:
                domain = connection.defineXML(xml)
                before = domain.XMLDesc()
                run(libvirtd, *("domain", "connect", "guest", "--parent", UPLINK, "--kind", kind))
                domain.create()
        address = booted(lan, libvirtd)
        assert lan.fetched(address)
        reached(lan, address)
        libvirtd.restart()
        reached(lan, address)
        [shown] = airtapd.guests()
        assert (shown["mac"], shown["owner"]["domain"]) == (GUEST_MAC, "guest")
        assert lan.stations() == {station.mac}
        with connected(libvirtd) as connection:
            domain = connection.lookupByName("guest")
            domain.managedSave()
            gone(links)
            domain.create()
            resumed(lan, address)
            domain.destroy()
            gone(links)
            if kind == "ipvtap":
                run(libvirtd, "domain", "disconnect", "guest")
                assert domain.XMLDesc() == before
            domain.undefine()


def run(libvirtd: Libvirtd, *argv: str) -> None:
    done = libvirtd.airtap(*argv)
    assert done.returncode == 0, done.stderr


def gone(links: set[str]) -> None:
    wait_for(lambda: host_links() == links, 5, "the guest's device to go")


def resumed(lan: AccessPoint, address: str) -> None:
    wait_for(lambda: lan.ping(address), 10, "the resumed guest to answer")


def reached(lan: AccessPoint, address: str) -> None:
    assert lan.ping(address)
    assert lan.ping(slaac_address(GUEST_MAC))


def test_an_ordinary_users_guest(
    lan: AccessPoint, airtapd: Airtapd, station: Station, libvirtd: Libvirtd
) -> None:
    """qemu:///session, by way of the bridge helper."""
    links = host_links()
    with Libvirtd(uid=GUEST_UID, env=airtapd.env) as session:
        define = ("network", "define", "mine", "--parent", UPLINK, "--kind", "session")
        run(session, *define, "--write-config", "--connect", session.uri)
        session.stop()
        session.start()
        with guest_on(session, "mine"):
            address = booted(lan, session)
            reached(lan, address)
            [shown] = airtapd.guests()
            assert (shown["mac"], shown["owner"]["uid"]) == (GUEST_MAC, GUEST_UID)
        gone(links)

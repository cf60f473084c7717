"""libvirt's guests behind the host's station: networks, and domains that airtap has connected."""

from collections.abc import Iterator

import pytest

from lab.airtap import Airtapd
from lab.guest import GUEST_UID
from lab.lan import slaac_address, wait_for
from lab.libvirt import Libvirtd
from lab.sandbox import host_links
from lab.wifi import AccessPoint, Station
from tests.libvirt.conftest import GUEST_MAC, booted, defined, guest_on, network_card
from tests.wifi.wireless import UPLINK


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """qemu:///system, started once: that takes half a minute here."""
    with Libvirtd() as daemon:
        yield daemon
        print(daemon.log())


def test_a_guests_first_boots(
    lan: AccessPoint,
    airtapd: Airtapd,
    station: Station,
    libvirtd: Libvirtd,
    kind: str,
    undisturbed_host: None,
) -> None:
    """On an airtap network (macvtap), and after `airtap domain connect --kind ipvtap`."""
    links = host_links()
    card = network_card("wifi" if kind == "macvtap" else "default")
    if kind == "macvtap":
        done = libvirtd.airtap("network", "define", "wifi", "--parent", UPLINK)
        assert done.returncode == 0, done.stderr
    with defined(libvirtd, card) as domain:
        before = domain.XMLDesc()
        if kind == "ipvtap":
            done = libvirtd.airtap(
                *("domain", "connect", "guest", "--parent", UPLINK, "--kind", "ipvtap")
            )
            assert done.returncode == 0, done.stderr
        domain.create()
        address = booted(lan, libvirtd)
        assert lan.fetched(address)
        assert lan.ping(address)
        assert lan.ping(slaac_address(GUEST_MAC))
        [shown] = airtapd.guests()
        assert (shown["mac"], shown["owner"]["domain"]) == (GUEST_MAC, "guest")
        assert lan.stations() == {station.mac}
        domain.destroy()
        wait_for(lambda: host_links() == links, 5, "the guest's device to go")
        if kind == "ipvtap":
            done = libvirtd.airtap("domain", "disconnect", "guest")
            assert done.returncode == 0, done.stderr
            assert domain.XMLDesc() == before


def test_an_ordinary_users_guest(
    lan: AccessPoint, airtapd: Airtapd, station: Station, libvirtd: Libvirtd
) -> None:
    """qemu:///session, by way of the bridge helper."""
    links = host_links()
    with Libvirtd(uid=GUEST_UID, env=airtapd.env) as session:
        define = ("network", "define", "mine", "--parent", UPLINK, "--kind", "session")
        done = session.airtap(*define, "--write-config", "--connect", session.uri)
        assert done.returncode == 0, done.stderr
        session.stop()
        session.start()
        with guest_on(session, "mine"):
            address = booted(lan, session)
            assert lan.ping(address)
            assert lan.ping(slaac_address(GUEST_MAC))
            [shown] = airtapd.guests()
            assert (shown["mac"], shown["owner"]["uid"]) == (GUEST_MAC, GUEST_UID)
        wait_for(lambda: host_links() == links, 10, "the guest's device to go")

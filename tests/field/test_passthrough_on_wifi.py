"""A guest in mode passthrough on Wi-Fi does not start, though `airtap domain list` said it would.

virt-manager/virt-manager#888 (people set modes by XML). The mode gives the uplink the guest's MAC,
and Wi-Fi that is on a network takes none.
"""

import json
from collections.abc import Iterator

import libvirt
import pytest

from airtap.ipc import protocol
from lab.airtap import Airtapd, run_helper
from lab.doctor import Doctor
from lab.domains import GUEST_MAC, connected
from lab.lan import wait_for
from lab.libvirt import Libvirtd, domain_xml
from lab.traffic import pump
from lab.wifi import AccessPoint, Radios, Station

IN_MACHINE = pytest.mark.parametrize("where", [pytest.param("um", marks=pytest.mark.machine("um"))])


@pytest.fixture(scope="module")
def lan() -> Iterator[AccessPoint]:
    Radios(3)
    with AccessPoint() as lan:
        yield lan


@pytest.fixture(scope="module")
def station(lan: AccessPoint) -> Iterator[Station]:
    with Station([lan]) as station:
        yield station


@pytest.fixture
def airtapd(station: Station) -> Iterator[Airtapd]:
    config = '[parents.wlan1]\nmode = "passthru"\n'
    with Airtapd(config=config, socket=protocol.DEFAULT_SOCKET) as daemon:
        yield daemon
        print(daemon.log())  # shown with a test that fails


@IN_MACHINE
def test_the_helper_says_which_mac_would_do(
    lan: AccessPoint, airtapd: Airtapd, station: Station, where: str
) -> None:
    refused = run_helper([f"--mac={GUEST_MAC}", "--br=wlan1"], env=airtapd.env)
    assert "does not take" in refused.stderr and "MAC of wlan1" in refused.stderr
    assert airtapd.guests() == []
    with pump(airtapd, GUEST_MAC, "192.0.2.21", told=False, uplink="wlan1") as guest:
        guest.ping("192.0.2.1")
        wait_for(lambda: airtapd.guests()[0]["mac_in_use"], 5, "the reason why it is mute")
        assert "does not take" in airtapd.guests()[0]["mac_in_use"]
    wait_for(lambda: not airtapd.guests(), 5, "the guest to be gone")
    with pump(airtapd, station.mac, uplink="wlan1") as guest:
        second = run_helper(["--br=wlan1"], env=airtapd.env)
        assert "in mode passthru is alone" in second.stderr
        assert guest.ping("192.0.2.1") or guest.dhcp()
    found = Doctor.of(airtapd).bad("wlan1")
    assert 'mode = "bridge"' in found["passthru-on-wifi"]["remedy"]


@IN_MACHINE
def test_libvirts_guest_is_said_not_to_work(
    lan: AccessPoint, airtapd: Airtapd, station: Station, where: str
) -> None:
    card = '<interface type="direct"><source dev="wlan1" mode="passthrough"/></interface>'
    with Libvirtd() as libvirtd, connected(libvirtd) as connection:
        for mac, works in ((GUEST_MAC, False), (station.mac, True)):
            xml = domain_xml("guest", mac, libvirtd.serial_file("guest"), card)
            domain = connection.defineXML(xml)
            done = libvirtd.airtap("domain", "list", "--json")
            [listed] = json.loads(done.stdout)["domains"]
            [nic] = listed["nics"]
            assert nic["works"] is works
            if works:
                domain.create()
                domain.destroy()
            else:
                with pytest.raises(libvirt.libvirtError, match="Cannot set interface MAC"):
                    domain.create()
            domain.undefine()
        refused = libvirtd.airtap(
            *("network", "define", "wifi", "--parent", "wlan1", "--mode", "passthrough")
        )
        assert "cannot take the MAC of a guest" in refused.stderr

"""Guests behind access points that meddle."""

import pytest

from lab.airtap import Airtapd
from lab.traffic import GUEST_MAC, SIBLING4, SIBLING6, SIBLING_MAC, reach_each_other
from lab.wifi import AccessPoint, Station
from tests.wifi.wireless import lease, pump


@pytest.fixture(
    scope="module", params=["open", "client-isolation", "multicast-to-unicast", "proxy-arp"]
)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_guests_reach_lan_and_each_other(
    lan: AccessPoint, airtapd: Airtapd, station: Station, undisturbed_host: None
) -> None:
    """By DHCP and SLAAC, and with addresses that nobody gave them."""
    with (
        pump(airtapd, GUEST_MAC) as guest,
        pump(airtapd, SIBLING_MAC, SIBLING4, SIBLING6, name="sibling") as sibling,
    ):
        address = lease(airtapd, guest)
        assert lan.leases()[guest.mac] == address
        reach_each_other(lan, (guest, sibling), airtapd)
        for each, own in ((guest, address), (sibling, SIBLING4)):
            # Known by now to an access point that answers ARP: the guest hears no echo of itself.
            probe = each.run("arping", "-D", "-c", "2", "-w", "3", "-I", "eth0", own, check=False)
            assert probe.returncode == 0, probe.stdout

"""Guests behind access points that meddle."""

from collections.abc import Iterator

import pytest

from lab.airtap import Airtapd
from lab.traffic import GUEST_MAC, SIBLING4, SIBLING6, SIBLING_MAC, reach_each_other
from lab.wifi import VARIANTS, AccessPoint, Radios, Station
from tests.wifi.wireless import lease, pump


@pytest.fixture(
    scope="module", params=["open", "client-isolation", "multicast-to-unicast", "proxy-arp"]
)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lan(radios: Radios, variant: str, daemon: Airtapd) -> Iterator[AccessPoint]:
    """An access point that is new with each airtapd.

    One that answers for its stations keeps what it has heard of them, of an earlier airtapd's
    guests too, and never asks for it again. A guest that is at such an address and has not spoken
    from it is not to be found: see docs/limits.md.
    """
    with AccessPoint(**VARIANTS[variant]) as lan:
        yield lan


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

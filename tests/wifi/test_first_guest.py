"""The smallest test on 802.11: HACKING.md shows it."""

from lab.airtap import Airtapd
from lab.wifi import AccessPoint
from tests.wifi.wireless import pump


def test_a_guest_is_on_the_lan(lan: AccessPoint, airtapd: Airtapd) -> None:
    with pump(airtapd) as guest:
        assert lan.ping(guest.dhcp())

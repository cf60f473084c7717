"""ipvtap without MAC NAT: guests that use the station's MAC, as they then must."""

import pytest

from lab.airtap import Airtapd
from lab.wifi import AccessPoint, Station
from tests.wifi.wireless import lease, pump

KINDS = ("ipvtap",)


@pytest.fixture(scope="module")
def more_config() -> str:
    return 'macnat = "off"\n'


def test_ipvtap_guest_with_the_parents_mac(
    lan: AccessPoint, airtapd: Airtapd, station: Station
) -> None:
    with pump(airtapd, station.mac, told=False) as guest:
        address = lease(airtapd, guest)
        for reached in (address, *guest.addresses(6)):
            assert lan.ping(reached)
        assert guest.ping("192.0.2.1")
        assert guest.ping("2001:db8::1")

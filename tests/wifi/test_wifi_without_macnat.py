"""Wi-Fi without MAC NAT: these tests could tell whether it is at work."""

import pytest

from lab.airtap import Airtapd
from lab.traffic import GUEST4, GUEST6, GUEST_MAC
from lab.wifi import AccessPoint, Station
from tests.wifi.wireless import pump


@pytest.fixture(scope="module")
def more_config() -> str:
    return 'macnat = "off"\n'


def test_guests_with_a_mac_of_their_own_are_deaf_and_mute(
    lan: AccessPoint, airtapd: Airtapd, station: Station
) -> None:
    with pump(airtapd, ipv6=GUEST6, told=False) as guest:
        with pytest.raises(TimeoutError, match="no lease"):
            guest.dhcp(3)
        guest.run("ip", "address", "add", f"{GUEST4}/24", "dev", "eth0")
        assert not guest.ping("192.0.2.1")
        assert not guest.ping("2001:db8::1")
        assert not lan.ping(GUEST4)
        assert not lan.ping(GUEST6)
        assert GUEST_MAC not in lan.leases()
        assert not airtapd.status()["uplinks"][0]["macnat"]

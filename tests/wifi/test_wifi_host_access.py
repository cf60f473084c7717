"""The host and its guests meet on Wi-Fi, and the access point takes no notice."""

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.host_access import meet, reaches, rp_filter
from lab.lan import HOST4, HOST6, ROUTER4, ROUTER6
from lab.traffic import (
    GUEST4,
    GUEST6,
    GUEST_MAC,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    known,
    reach_each_other,
)
from lab.wifi import AccessPoint, Station
from tests.wifi.wireless import UPLINK, configured, lease, pump


def test_host_and_guests_meet(
    lan: AccessPoint, airtapd: Airtapd, station: Station, undisturbed_host: None
) -> None:
    with (
        rp_filter(1, UPLINK),
        pump(airtapd, GUEST_MAC) as guest,
        pump(airtapd, SIBLING_MAC, SIBLING4, SIBLING6, name="sibling") as sibling,
    ):
        lease(airtapd, guest)
        for each in (guest, sibling):
            meet(each, UPLINK)
        reach_each_other(lan, (guest, sibling))
        assert lan.stations() == {station.mac}
        assert airtapd.status()["uplinks"][0]["host_access"]


def test_the_lan_still_finds_the_host(lan: AccessPoint, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        meet(guest, UPLINK)
        lan.run("ip", "neigh", "flush", "all")
        for address in (HOST4, HOST6, GUEST4, GUEST6):
            assert lan.ping(address)
        assert not {HOST4, HOST6} & known(airtapd, guest.mac)
        for address in (ROUTER4, ROUTER6):
            assert reaches(address)


def test_the_doctor(airtapd: Airtapd, kind: str) -> None:
    """Content with a station and its guest; and not with an airtap.toml that leaves them mute.

    Guests of ipvtaps may use the station's own MAC then.
    """
    with pump(airtapd, ipv4=GUEST4) as guest:
        meet(guest, UPLINK)
        doctor = Doctor.of(airtapd)
        findings = doctor.findings(UPLINK)
        assert {f["level"] for f in findings} == {"ok"}, findings
        assert "wifi-station: takes one MAC only" in str(findings)
    with configured(airtapd, 'macnat = "off"'):
        bad = Doctor.of(airtapd).bad(UPLINK)
    assert set(bad) == ({"macnat-off-station"} if kind == "macvtap" else set())
    assert all('macnat = "auto"' in found["remedy"] for found in bad.values())

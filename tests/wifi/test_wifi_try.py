"""airtap try on a station, with both kinds: where guests work, and broken in several ways."""

from __future__ import annotations

from pathlib import Path

from lab.airtap import Airtapd
from lab.lan import wait_for
from lab.sandbox import command
from lab.trial import STEPS, deaf, drop_at_lan, firewall, run_try
from lab.wifi import AccessPoint, Station
from tests.wifi.wireless import UPLINK, configured

KINDS = ("macvtap",)  # of airtap.toml; a trial is of both
# On a machine of usual speed: for a step that waits in vain.
SHORT_S = 3


def test_guests_work(lan: AccessPoint, airtapd: Airtapd, station: Station) -> None:
    tried = run_try(airtapd, UPLINK, seconds=10)
    assert tried.status == 0
    assert tried.report["type"] == "wifi-station"
    for kind in ("macvtap", "ipvtap"):
        assert list(tried.steps(kind)) == STEPS
        assert tried.but_passed(kind) == {}
        assert tried.steps(kind)["macnat"]["detail"].startswith("on")
    assert lan.leases() == {}
    assert lan.stations() == {station.mac}


def test_no_dhcp_server(lan: AccessPoint, airtapd: Airtapd) -> None:
    """On an ipvtap, whose guest nothing has been heard of when the gateway is asked."""
    drop_at_lan(lan, "udp dport 67")
    try:
        tried = run_try(airtapd, UPLINK, "--kind=ipvtap", seconds=SHORT_S)
    finally:
        lan.run("nft", "delete table netdev deaf")
    assert tried.status == 1
    assert "no DHCP server answered" in tried.steps("ipvtap")["lease"]["detail"]
    assert "frames do pass" in tried.steps("ipvtap")["gateway4"]["detail"]
    assert tried.results("ipvtap")["ping6"] == "passed"


def test_without_mac_nat(airtapd: Airtapd, station: Station) -> None:
    with configured(airtapd, 'macnat = "off"'):
        tried = run_try(airtapd, UPLINK, seconds=SHORT_S)
    assert tried.status == 1
    for kind, what in (("macvtap", "takes one MAC only"), ("ipvtap", "the lease, of the host")):
        assert tried.but_passed(kind) == {"macnat": "failed"}
        step = tried.steps(kind)["macnat"]
        assert what in step["detail"]
        assert 'macnat = "auto"' in step["hint"]


def test_gateway_that_is_not_to_be_found(lan: AccessPoint, airtapd: Airtapd) -> None:
    deaf(lan, "arp operation request", family="arp")
    try:
        tried = run_try(airtapd, UPLINK, "--kind=macvtap", seconds=SHORT_S)
    finally:
        lan.run("nft", "delete table arp deaf")
    assert tried.status == 1
    assert tried.but_passed() == {"gateway4": "failed", "ping4": "skipped"}
    step = tried.steps()["gateway4"]
    assert "192.0.2.1 does not answer ARP" in step["detail"]
    assert f"does the host itself get through on {UPLINK}?" in step["hint"]


def test_firewall_of_the_host(airtapd: Airtapd) -> None:
    with firewall("input", "icmp type echo-request"):
        tried = run_try(airtapd, UPLINK, "--kind=ipvtap", seconds=SHORT_S)
    assert tried.status == 1
    assert tried.but_passed("ipvtap") == {"guest_to_host4": "failed"}
    step = tried.steps("ipvtap")["guest_to_host4"]
    assert "the host answers ARP for 192.0.2.10, but no ping" in step["detail"]
    assert "nft list ruleset" in step["hint"]


def test_off_the_air(airtapd: Airtapd, station: Station) -> None:
    state = Path(f"/sys/class/net/{UPLINK}/operstate")
    station.cli("disconnect")
    try:
        wait_for(lambda: state.read_text() == "down\n", 10, "the station to leave")
        tried = run_try(airtapd, UPLINK)
    finally:
        station.cli("reconnect")
        station.wait_associated()
    assert tried.status == 1
    step = tried.steps()["uplink"]
    assert step["detail"] == f"{UPLINK} has no carrier"
    assert "join a network" in step["hint"]
    assert "192.0.2.10" in command("ip", "address", "show", UPLINK)

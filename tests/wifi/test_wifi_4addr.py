"""4-address mode: on where the access point takes it, refused where not, and off again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.lan import make_host, no_router_advertisements, wait_for
from lab.pump import PumpGuest
from lab.sandbox import command
from lab.traffic import GUEST4, GUEST6, GUEST_MAC, neighbour, reach_each_other
from lab.wifi import AccessPoint, Station
from tests.wifi.wireless import UPLINK, pump

KINDS = ("macvtap",)
BRIDGE = "br0"


@pytest.fixture(scope="module")
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


willing = pytest.mark.parametrize("variant", ["4-addresses"], indirect=True, scope="module")
unwilling = pytest.mark.parametrize("variant", ["wpa2"], indirect=True, scope="module")


def is_on() -> bool:
    return "4addr: on" in command("iw", "dev", UPLINK, "info")


def uplink(airtapd: Airtapd) -> tuple[str, bool]:
    """The station's type, and whether MAC NAT is on for it."""
    [found] = [entry for entry in airtapd.status()["uplinks"] if entry["name"] == UPLINK]
    return found["type"], found["macnat"]


def host_pings() -> bool:
    """Whether the host reaches the router, over both families."""
    pings = ("ping", "-n", "-q", "-i", "0.2", "-c", "2", "-w", "10")
    return all(
        subprocess.run([*pings, address], capture_output=True).returncode == 0
        for address in ("192.0.2.1", "2001:db8::1")
    )


def switch(airtapd: Airtapd, mode: str, status: int = 0) -> tuple[str, str]:
    """Run the command, which is to end with this status; return its output and complaints."""
    done = airtapd.airtap("parent", "4addr", UPLINK, mode, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def leave_lan() -> None:
    """Take the host's addresses and routes away from the station."""
    command("ip", "address", "flush", "dev", UPLINK)
    command("ip", "-6", "route", "flush", "dev", UPLINK)


@contextmanager
def on_already(station: Station) -> Iterator[None]:
    """The mode is on without our command; at the end it is off, on a new association."""
    command("iw", "dev", UPLINK, "set", "4addr", "on")
    try:
        yield
    finally:
        command("iw", "dev", UPLINK, "set", "4addr", "off")
        for word in ("disconnect", "reconnect"):  # the access point is to forget the mode
            station.cli(word)
        station.wait_associated()


@willing
def test_on_under_a_guest(lan: AccessPoint, airtapd: Airtapd, station: Station) -> None:
    """Its own MAC is on the LAN then, and MAC NAT goes off by itself."""
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        reach_each_other(lan, [guest])
        assert neighbour(lan.namespace, GUEST4) == station.mac
        said, _ = switch(airtapd, "on")
        assert said == f"{UPLINK}: 4-address mode is on, and frames of other MACs pass\n"
        with on_already(station):
            wait_for(lambda: uplink(airtapd) == ("wifi-4addr", False), 5, "MAC NAT to go off")
            lan.run("ip", "neigh", "flush", "all")
            reach_each_other(lan, [guest])
            assert neighbour(lan.namespace, GUEST4) == GUEST_MAC
            assert neighbour(lan.namespace, GUEST6) == GUEST_MAC
            assert host_pings()


@willing
def test_off_under_a_guest(lan: AccessPoint, airtapd: Airtapd, station: Station) -> None:
    """MAC NAT is back, and all that was on the LAN still is."""
    with on_already(station), pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        reach_each_other(lan, [guest])
        said, _ = switch(airtapd, "off")
        assert said == f"{UPLINK}: 4-address mode is off\n"
        assert not is_on()
        assert host_pings()
        wait_for(lambda: uplink(airtapd) == ("wifi-station", True), 5, "MAC NAT to go on")
        lan.run("ip", "neigh", "flush", "all")
        wait_for(lambda: guest.ping("192.0.2.1") and guest.ping("2001:db8::1"), 5, "an answer")
        reach_each_other(lan, [guest])
        assert neighbour(lan.namespace, GUEST4) == station.mac


@willing
def test_on_already(airtapd: Airtapd, station: Station) -> None:
    with on_already(station):
        said, _ = switch(airtapd, "on")
        assert said == f"{UPLINK}: 4-address mode is on already\n"
        assert is_on()


@contextmanager
def in_a_bridge(lan: AccessPoint) -> Iterator[None]:
    """The station is a bridge's port, and the bridge has the host's addresses."""
    command("ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    try:
        no_router_advertisements(BRIDGE)
        leave_lan()
        command("ip", "link", "set", UPLINK, "master", BRIDGE)
        command("ip", "link", "set", BRIDGE, "up")
        make_host(BRIDGE, lan.subnet)
        yield
    finally:
        command("ip", "link", "delete", BRIDGE)
        leave_lan()
        make_host(UPLINK, lan.subnet)


@willing
def test_station_in_a_bridge(lan: AccessPoint, airtapd: Airtapd, station: Station) -> None:
    """The helper's classic way: a tap that is the bridge's port."""
    with on_already(station), in_a_bridge(lan):
        tap = airtapd.attach(BRIDGE)
        assert Path(f"/sys/class/net/{BRIDGE}/brif/{tap.device}").exists()
        with PumpGuest(tap.take(), GUEST_MAC, name="guest") as guest:
            address = guest.dhcp()
            assert lan.leases()[GUEST_MAC] == address
            wait_for(lambda: guest.addresses(6), 15, "an IPv6 address by SLAAC")
            reach_each_other(lan, [guest])
            assert guest.ping("192.0.2.10")
        _, complaint = switch(airtapd, "off", 1)
        assert f"take it out of {BRIDGE} first" in complaint
        assert is_on()


@willing
def test_nothing_to_ask(lan: AccessPoint, airtapd: Airtapd, station: Station) -> None:
    """Nothing is tried that could not be found out; off is always possible."""
    leave_lan()
    no_ipv6 = Path(f"/proc/sys/net/ipv6/conf/{UPLINK}/disable_ipv6")
    try:
        no_ipv6.write_text("1")  # or the access point is heard of again at any time
        command("ip", "neigh", "flush", "dev", UPLINK)
        _, complaint = switch(airtapd, "on", 1)
        assert "has no gateway and knows no neighbour" in complaint
        assert not is_on()
        command("iw", "dev", UPLINK, "set", "4addr", "on")
        said, _ = switch(airtapd, "off")
        assert "nobody was known to answer" in said
        assert not is_on()
        station.wait_associated()
    finally:
        command("iw", "dev", UPLINK, "set", "4addr", "off")
        no_ipv6.write_text("0")
        leave_lan()
        make_host(UPLINK, lan.subnet)
    wait_for(host_pings, 20, "the host to reach the router")


@unwilling
def test_refused_under_a_guest(lan: AccessPoint, airtapd: Airtapd, station: Station) -> None:
    """Without the access point's consent all is as before, and the command says why."""
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        reach_each_other(lan, [guest])
        bssid = station.bssid
        said, complaint = switch(airtapd, "on", 1)
        assert said == ""
        assert f"the access point of {UPLINK} takes no 4-address frames" in complaint
        assert "off again, and frames pass as before" in complaint
        assert "wds_sta=1" in complaint
        assert not is_on()
        assert host_pings()
        assert station.bssid == bssid
        wait_for(lambda: uplink(airtapd) == ("wifi-station", True), 5, "MAC NAT to be on")
        wait_for(lambda: guest.ping("192.0.2.1") and guest.ping("2001:db8::1"), 5, "an answer")
        reach_each_other(lan, [guest])

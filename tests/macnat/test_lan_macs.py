"""No guest bears a MAC that the LAN uses: a sibling's traffic for it would reach that guest."""

import fcntl
import json
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from lab.airtap import Airtapd, run_helper
from lab.kinds import BOTH_IN_MACHINE
from lab.lan import FAR_MAC, Lan, wait_for
from lab.one_mac import MACNAT_ON
from lab.pump import PumpGuest
from lab.sandbox import command
from lab.traffic import (
    BROADCAST,
    GUEST4,
    GUEST6,
    GUEST_MAC,
    ROGUE_MAC,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    Ping,
    RawGuest,
    claim,
    pump,
    raw_guest,
)

NAS_MAC, NAS4, NAS6 = "02:00:5e:00:53:77", "192.0.2.77", "2001:db8::77"
_SIOCSIFHWADDR = 0x8924


@pytest.fixture
def alice(lan: Lan, airtapd: Airtapd) -> Iterator[PumpGuest]:
    """A guest that speaks with the router, as the host does."""
    command("ping", "-c1", "-w5", "192.0.2.1")
    with pump(airtapd, SIBLING_MAC, SIBLING4, SIBLING6, name="alice") as guest:
        assert guest.ping("192.0.2.1")
        yield guest


@contextmanager
def nas(lan: Lan) -> Iterator[None]:
    """Another station of the LAN."""
    lan.run(
        "ip",
        "link",
        "add",
        "link",
        lan.far,
        "name",
        "nas",
        "address",
        NAS_MAC,
        *("type", "macvlan"),
    )
    try:
        lan.run("ip", "link", "set", "nas", "up")
        lan.run("ip", "address", "add", f"{NAS4}/32", "dev", "nas")
        lan.run("ip", "address", "add", f"{NAS6}/128", "dev", "nas", "nodad")
        yield
    finally:
        lan.run("ip", "link", "delete", "nas")


def set_mac(tap: RawGuest, mac: str) -> None:
    """Change a macvtap's MAC as whoever holds it may."""
    octets = bytes.fromhex(mac.replace(":", ""))
    fcntl.ioctl(tap.fd, _SIOCSIFHWADDR, struct.pack("16sH6s16x", b"", 1, octets))


def is_up(device: str) -> bool:
    return bool(int(Path(f"/sys/class/net/{device}/flags").read_text(), 16) & 1)


def kept_off(airtapd: Airtapd, device: str) -> str | None:
    [guest] = [guest for guest in airtapd.guests() if guest["device"] == device]
    why: str | None = guest["mac_in_use"]
    return why


def wait_down(device: str) -> None:
    wait_for(lambda: not is_up(device), 5, f"{device} to be down")


def wait_up(device: str) -> None:
    wait_for(lambda: is_up(device), 15, f"{device} to be up")


@pytest.mark.parametrize("config", [MACNAT_ON, "", "[parents.up0]\nhost_access = false\n"])
def test_a_gateways_mac_is_refused(counting_lan: Lan, config: str) -> None:
    command("ping", "-c1", "-w5", "192.0.2.1")
    with Airtapd(config=config) as airtapd:
        with run_helper([f"--mac={FAR_MAC}", "--br=up0"], env=airtapd.env) as refused:
            assert refused.status == 1
            assert f"{FAR_MAC} is the MAC address of gateway 192.0.2.1" in refused.stderr
        with raw_guest(airtapd) as other:
            assert is_up(other.device), "any other is not"


def test_a_gateways_mac_is_refused_where_it_is_one_over_ipv6_alone(counting_lan: Lan) -> None:
    command("ip", "route", "delete", "default")
    command("ip", "neighbour", "flush", "dev", "up0")
    command("ping", "-c1", "-w5", "2001:db8::1")
    with (
        Airtapd(config=MACNAT_ON) as airtapd,
        run_helper([f"--mac={FAR_MAC}", "--br=up0"], env=airtapd.env) as refused,
    ):
        assert refused.status == 1
        assert f"{FAR_MAC} is the MAC address of gateway 2001:db8::1" in refused.stderr


@pytest.mark.parametrize("first", [FAR_MAC, ROGUE_MAC], ids=["asked-for", "taken-later"])
def test_a_sibling_keeps_its_way_to_the_router(
    lan: Lan, airtapd: Airtapd, alice: PumpGuest, first: str
) -> None:
    """A macvlan would give bob, whose MAC is the router's, what alice has for that."""
    with run_helper([f"--mac={first}", "--br=up0"], env=airtapd.env) as tap:
        if tap.fd >= 0:
            set_mac(RawGuest(tap), FAR_MAC)
        assert alice.ping("192.0.2.1", timeout=5)


def test_a_gateways_mac_is_not_learned(lan: Lan, airtapd: Airtapd, alice: PumpGuest) -> None:
    with airtapd.attach("up0") as tap, Ping("192.0.2.1", namespace=alice.namespace) as pings:
        bob = RawGuest(tap, FAR_MAC)
        said = f"speaks as {FAR_MAC} and may not: {FAR_MAC} is the MAC address of gateway"
        bob.mark()
        wait_for(lambda: said in airtapd.log(), 5, "it to be refused")
        bob.mac = ROGUE_MAC
        bob.mark()
        wait_for(lambda: guest_mac(airtapd, tap.device) == ROGUE_MAC, 5, "another to be learned")
    assert pings.lost == 0


def guest_mac(airtapd: Airtapd, device: str) -> str:
    [guest] = [guest for guest in airtapd.guests() if guest["device"] == device]
    return str(guest["mac"])


@pytest.mark.parametrize("learning", [False, True])
def test_a_gateways_mac_that_is_taken_later(
    lan: Lan, airtapd: Airtapd, alice: PumpGuest, learning: bool
) -> None:
    with airtapd.attach("up0", None if learning else ROGUE_MAC) as tap:
        bob = RawGuest(tap)
        set_mac(bob, FAR_MAC)
        wait_down(tap.device)
        assert "gateway 192.0.2.1" in (kept_off(airtapd, tap.device) or "")
        with Ping("192.0.2.1", namespace=alice.namespace) as pings:
            command("ip", "link", "set", tap.device, "up")
            wait_down(tap.device)
        assert pings.lost <= 1
        airtapd.kill()
        airtapd.start()
        assert not is_up(tap.device)
        set_mac(bob, ROGUE_MAC)
        wait_up(tap.device)
        assert kept_off(airtapd, tap.device) is None


def test_a_gateways_mac_that_is_taken_later_without_macnat(counting_lan: Lan) -> None:
    """Seen where host access has airtapd look at the uplink's guests."""
    command("ping", "-c1", "-w5", "192.0.2.1")
    with Airtapd() as airtapd, raw_guest(airtapd) as bob:
        wait_for(lambda: airtapd.guests()[0]["refused"], 5, "the guest to be looked at")
        set_mac(bob, FAR_MAC)
        wait_down(bob.device)
        set_mac(bob, ROGUE_MAC)
        wait_up(bob.device)


def test_echoes_of_what_guests_said_before(counting_lan: Lan) -> None:
    """MAC NAT has just come on; the LAN had the guest's own MAC until then."""
    with (
        Airtapd(config=MACNAT_ON, constants={"macnat.lan_macs._ECHOES_S": 3600.0}) as airtapd,
        raw_guest(airtapd, NAS_MAC) as bob,
        nas(counting_lan),
    ):
        hear_arp(counting_lan)
        time.sleep(2)
        assert is_up(bob.device)


def hear_arp(lan: Lan) -> None:
    """The NAS answers a question, at the uplink's MAC alone."""
    command("ip", "neighbour", "flush", "to", NAS4)
    command("ping", "-c1", "-w5", NAS4)


def hear_nd(lan: Lan) -> None:
    command("ip", "neighbour", "flush", "to", NAS6)
    command("ping", "-c1", "-w5", NAS6)


def hear_broadcast(lan: Lan) -> None:
    with lan.frames() as frames:
        packet = IP(src=NAS4, dst="192.0.2.255") / UDP()
        frames.send(bytes(Ether(src=NAS_MAC, dst=BROADCAST) / packet))


def hear_tagged(lan: Lan) -> None:
    with lan.frames() as frames:
        for vlan in (0, 5):
            frames.send(bytes(claim(NAS4, NAS_MAC, vlan=vlan)))


@pytest.mark.parametrize("heard", [hear_arp, hear_nd, hear_broadcast, hear_tagged])
def test_a_stations_mac(
    lan: Lan, airtapd: Airtapd, alice: PumpGuest, heard: Callable[[Lan], None]
) -> None:
    with nas(lan), raw_guest(airtapd, NAS_MAC) as bob:
        assert is_up(bob.device), "nobody here has heard of the NAS"
        heard(lan)
        wait_down(bob.device)
        assert "a station of the LAN" in (kept_off(airtapd, bob.device) or "")
        with Ping(NAS4, namespace=alice.namespace) as pings:
            pass
        assert pings.lost == 0
        if heard is hear_arp:  # it answers as long as it is there
            time.sleep(6)
            assert not is_up(bob.device)
    with raw_guest(airtapd) as other:
        assert is_up(other.device)


def test_a_stations_mac_that_is_taken_later(lan: Lan, airtapd: Airtapd, alice: PumpGuest) -> None:
    with nas(lan), raw_guest(airtapd) as bob:
        set_mac(bob, NAS_MAC)
        hear_arp(lan)
        wait_down(bob.device)
        with Ping(NAS4, namespace=alice.namespace) as pings:
            command("ip", "link", "set", bob.device, "up")
            wait_down(bob.device)
        assert pings.lost <= 1
        set_mac(bob, ROGUE_MAC)
        wait_up(bob.device)


def test_a_station_that_goes(lan: Lan, airtapd: Airtapd, alice: PumpGuest) -> None:
    """As a guest that comes from another host of the LAN, where it had its MAC on the wire."""
    with raw_guest(airtapd, NAS_MAC) as bob:
        with nas(lan):
            hear_arp(lan)
            wait_down(bob.device)
        wait_up(bob.device)
        assert f"nobody else has {NAS_MAC}" in airtapd.log()
        bob.claim(NAS4)
        assert is_up(bob.device)


def test_a_station_is_known_when_its_mac_is_asked_for_again(
    lan: Lan, airtapd: Airtapd, alice: PumpGuest
) -> None:
    with nas(lan):
        with raw_guest(airtapd, NAS_MAC) as bob:
            hear_arp(lan)
            wait_down(bob.device)
        with run_helper([f"--mac={NAS_MAC}", "--br=up0"], env=airtapd.env) as refused:
            assert f"{NAS_MAC} is the MAC address of a station of the LAN" in refused.stderr


@BOTH_IN_MACHINE
def test_nobodys_mac_is_a_stations_soon_after_boot(lan: Lan, airtapd: Airtapd) -> None:
    """The clock by which stations are seen began a moment ago."""
    assert time.monotonic() < 60
    with pump(airtapd, ipv4=GUEST4) as guest:
        assert guest.ping("192.0.2.1", timeout=5)
        airtapd.kill()
        airtapd.start()
        with pump(airtapd, SIBLING_MAC, SIBLING4, name="sibling") as sibling:
            assert guest.ping("192.0.2.1", timeout=5)
            assert sibling.ping("192.0.2.1", timeout=5)


def test_a_mac_that_is_taken_for_moments_only(lan: Lan, airtapd: Airtapd, alice: PumpGuest) -> None:
    with raw_guest(airtapd) as bob, Ping("192.0.2.1", namespace=alice.namespace) as pings:
        for _ in range(10):
            set_mac(bob, FAR_MAC)
            set_mac(bob, ROGUE_MAC)
        wait_down(bob.device)
        assert "MAC address has changed 6 times" in (kept_off(airtapd, bob.device) or "")
    assert pings.lost <= 1


def test_a_guest_is_its_siblings_router(lan: Lan, airtapd: Airtapd, alice: PumpGuest) -> None:
    with pump(airtapd, GUEST_MAC, GUEST4, GUEST6, name="router") as router:
        router.run("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
        alice.run("ip", "route", "add", "198.51.100.0/24", "via", GUEST4)
        lan.run("ip", "neighbour", "flush", "all")
        assert lan.ping(GUEST4) and lan.ping(SIBLING4)
        with Ping("198.51.100.1", namespace=alice.namespace) as pings:
            time.sleep(2)
        assert pings.lost == 0
        assert not any(guest["mac_in_use"] for guest in airtapd.guests())


def test_kept_off_no_more_without_macnat(counting_lan: Lan, airtapd: Airtapd) -> None:
    with nas(counting_lan), raw_guest(airtapd, NAS_MAC) as bob:
        hear_arp(counting_lan)
        wait_down(bob.device)
        acl = airtapd.config.read_text().splitlines()[0]
        off = f'{acl}\n[parents.up0]\nmacnat = "off"\nhost_access = false\n'
        airtapd.config.write_text(off)
        subprocess.run(["kill", "-HUP", str(airtapd.pid)], check=True)
        wait_up(bob.device)


def test_a_device_that_somebody_else_took_down_stays_down(lan: Lan, airtapd: Airtapd) -> None:
    with raw_guest(airtapd) as bob, pump(airtapd, GUEST_MAC, GUEST4):
        command("ip", "link", "set", bob.device, "down")
        [shown] = json.loads(command("ip", "-json", "link", "show", bob.device))
        assert "UP" not in shown["flags"]
        with pump(airtapd, SIBLING_MAC, name="sibling"):
            time.sleep(1)
        assert not is_up(bob.device)

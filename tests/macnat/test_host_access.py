"""The host and its guests meet, with MAC NAT and without, and the LAN takes no notice."""

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, IPv6, _ICMPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from lab.airtap import Airtapd
from lab.host_access import meet, reaches, rp_filter
from lab.kinds import BOTH_KINDS
from lab.lan import HOST4, HOST6, ROUTER4, ROUTER6, Lan, wait_for
from lab.pump import PumpGuest
from lab.sandbox import command, host_links, packet_socket
from lab.traffic import (
    GUEST4,
    GUEST6,
    GUEST_MAC,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    announcing,
    claim,
    collect,
    known,
    mark,
    neighbour,
    pump,
    raw_guest,
    two_guests,
)

LENGTH = 8 << 20
# Of hosts behind the router.
BEYOND = "203.0.113.9", "2001:db8:f::9"
STRANGER = "02:00:5e:00:53:09"


@pytest.fixture
def wire() -> Iterator[Lan]:
    """A wire that takes any MAC."""
    with Lan() as wire:
        yield wire


@pytest.fixture
def plain(wire: Lan) -> Iterator[Airtapd]:
    """An airtapd without MAC NAT."""
    with Airtapd() as daemon:
        yield daemon
        print(daemon.log())


def _knows(airtapd: Airtapd, mac: str, addresses: set[str]) -> bool:
    return addresses <= known(airtapd, mac)


def host_state() -> list[str]:
    """The host's addresses and the routes of all tables, once its addresses are in use."""
    tentative = ("ip", "address", "show", "dev", "up0", "tentative")
    wait_for(lambda: not command(*tentative), 5, "the host's own addresses")
    return [
        re.sub(r"(expires|valid_lft|preferred_lft) \S+", "", command("ip", *words))
        for words in (
            ("-4", "route", "show", "table", "all"),
            ("-6", "route", "show", "table", "all"),
            ("address", "show", "dev", "up0"),
        )
    ]


def is_bare() -> bool:
    return "clsact" not in command("tc", "qdisc", "show", "dev", "up0")


@pytest.mark.parametrize("value", [0, 1, 2])
def test_host_and_guests_meet(
    lan: Lan, airtapd: Airtapd, undisturbed_host: None, value: int
) -> None:
    with rp_filter(value), two_guests(airtapd) as guests:
        for guest in guests:
            meet(guest)
        assert guests[0].ping(SIBLING4)
        assert guests[1].ping(GUEST6)
        for guest in guests:
            assert neighbour(None, guest.addresses(4)[0]) == guest.mac
        [uplink] = airtapd.status()["uplinks"]
        assert uplink["macnat"]
        assert uplink["host_access"]


@BOTH_KINDS
def test_the_lan_takes_no_notice(lan: Lan, airtapd: Airtapd) -> None:
    """The trap of a device for the host among its guests: MAC NAT takes it for a guest."""
    before, links = host_state(), host_links()
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest, lan.frames() as frames:
        meet(guest)
        with guest.frames() as own:
            own.send(bytes(mark(guest.mac)))
        for frame in map(Ether, collect(frames)):
            inside = frame.payload
            if isinstance(inside, IP) and ICMP in inside:
                assert {inside.src, inside.dst} != {HOST4, GUEST4}
            if isinstance(inside, IPv6) and isinstance(inside.payload, _ICMPv6):
                echo = inside.payload.type in (128, 129)
                assert not echo or {inside.src, inside.dst} != {HOST6, GUEST6}
        assert not {HOST4, HOST6} & known(airtapd, guest.mac)
        lan.run("ip", "neigh", "flush", "all")
        for address in (HOST4, HOST6, GUEST4, GUEST6):
            assert lan.ping(address)
            assert neighbour(lan.namespace, address) == lan.near_mac
        assert reaches(ROUTER4)
        assert reaches(ROUTER6)
        assert host_state() == before
        assert len(host_links()) == len(links) + 1
    wait_for(lambda: host_links() == links, 5, "the guest's device to go")
    assert host_state() == before
    wait_for(is_bare, 5, "clsact to go")


@BOTH_KINDS
def test_bytes_both_ways(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        for family, host, address in ((4, HOST4, GUEST4), (6, HOST6, GUEST6)):
            assert reaches(address)
            carries(guest, f"TCP{family}", host)


def carries(guest: PumpGuest, family: str, host: str) -> None:
    """A stream goes from the guest to the host and back, whole."""
    kind = socket.AF_INET if family == "TCP4" else socket.AF_INET6
    with socket.create_server((host, 0), family=kind) as server:
        server.settimeout(20)
        echo = threading.Thread(target=_echo, args=(server,))
        echo.start()
        port = server.getsockname()[1]
        script = (
            "import socket, sys, threading\n"
            f"s = socket.create_connection(({host!r}, {port}), 10)\n"
            f"data = bytes(range(256)) * ({LENGTH} // 256)\n"
            "threading.Thread(target=lambda: (s.sendall(data), s.shutdown(1))).start()\n"
            "got = bytearray()\n"
            "while more := s.recv(1 << 16): got += more\n"
            "sys.exit(got != data)\n"
        )
        done = guest.run("python3", "-c", script, check=False)
        echo.join(20)
    assert done.returncode == 0, done.stderr


def _echo(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while more := connection.recv(1 << 16):
            connection.sendall(more)
        connection.shutdown(socket.SHUT_WR)


@BOTH_KINDS
def test_broadcasts_and_groups(lan: Lan, airtapd: Airtapd) -> None:
    with two_guests(airtapd) as guests, socket.socket(type=socket.SOCK_DGRAM) as host:
        host.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        host.bind(("", 0))
        host.settimeout(5)
        port = host.getsockname()[1]
        for guest in guests:
            guest.run("python3", "-c", _BROADCAST.format(port=port))
            assert host.recv(100) == b"hello"
        with guests[0].frames() as one, guests[1].frames() as two:
            for words in (b"to all", b"the last"):
                host.sendto(words, ("192.0.2.255", 4242))
            for frames in (one, two):
                before = collect(frames, lambda frame: b"the last" in frame)
                arrived = [frame for frame in before if b"to all" in frame]
                assert len(arrived) == 1, arrived


_BROADCAST = """
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.sendto(b"hello", ("192.0.2.255", {port}))
"""


def test_switched_off(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        meet(guest)
        former = airtapd.config.read_text()
        airtapd.config.write_text(f"{former}host_access = false\n")
        os.kill(airtapd.pid, signal.SIGHUP)
        wait_for(lambda: not airtapd.status()["uplinks"][0]["host_access"], 5, "it to be off")
        assert not reaches(GUEST4, seconds=1)
        assert not guest.ping(HOST6)
        assert lan.ping(GUEST4)
        airtapd.config.write_text(former)
        os.kill(airtapd.pid, signal.SIGHUP)
        wait_for(lambda: airtapd.status()["uplinks"][0]["host_access"], 5, "it to be on")
        meet(guest)


def test_daemon_killed_and_back(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        meet(guest)
        airtapd.kill()
        meet(guest)
        airtapd.start()
        meet(guest)


_IMPATIENCE = """
for neighbours in /proc/sys/net/ipv?/neigh/eth0; do
    echo 1000 >$neighbours/base_reachable_time_ms
    echo 1 >$neighbours/delay_first_probe_time
done
"""


def test_the_hosts_mac_changes(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        # Each asks whether the other is still there after a second, and not after half a minute.
        guest.run("sh", "-c", _IMPATIENCE)
        meet(guest)
        lan.change_near_mac("02:00:5e:00:53:77")
        command("ip", "-6", "route", "replace", "default", "via", ROUTER6, "dev", "up0")
        wait_for(lambda: guest.ping(HOST4) and guest.ping(HOST6), 10, "the guest to notice")
        meet(guest)
        with pump(airtapd, SIBLING_MAC, SIBLING4, SIBLING6, name="sibling") as sibling:
            assert sibling.ping(GUEST4) and guest.ping(SIBLING6)
            with lan.frames() as frames:
                lan.change_near_mac("02:00:5e:00:53:78")
                everybody = (GUEST4, GUEST6, SIBLING4, SIBLING6)
                collect(frames, announcing("02:00:5e:00:53:78", *everybody))
            for one, other, address in ((guest, sibling, SIBLING4), (sibling, guest, GUEST4)):
                assert one.ping(address)
                assert neighbour(one.namespace, address) == other.mac


@BOTH_KINDS
def test_guest_with_the_routers_mac(lan: Lan, airtapd: Airtapd) -> None:
    """The host's packets through its router are not that guest's."""
    with raw_guest(airtapd, lan.far_mac) as thief:
        wait_for(lambda: thief.mac in {g["mac"] for g in airtapd.guests()}, 5, "the guest")
        for address in BEYOND:
            lan.run("ip", "address", "add", address, "dev", "lo")
            thief.claim(address)
        wait_for(lambda: set(BEYOND) <= known(airtapd, thief.mac), 5, "its addresses")
        with lan.frames() as frames:
            frames.send(bytes(mark(STRANGER)))
            thief.received()
            for address in (ROUTER4, ROUTER6, *BEYOND):
                assert reaches(address)
            frames.send(bytes(mark(STRANGER)))
            assert not [frame for frame in thief.received() if IP in Ether(frame)]


@BOTH_KINDS
def test_nobody_speaks_for_the_router(lan: Lan, airtapd: Airtapd) -> None:
    with raw_guest(airtapd) as liar:
        deceive(liar.send, lan)


def deceive(send: Callable[[Packet], None], lan: Lan) -> None:
    assert reaches(ROUTER4)
    assert reaches(ROUTER6)
    for address in (ROUTER4, ROUTER6):
        for to in ("ff:ff:ff:ff:ff:ff", lan.near_mac):
            send(claim(address, "52:54:00:00:00:03", to))
    for address in (ROUTER4, ROUTER6):
        assert neighbour(None, address) == lan.far_mac
        assert reaches(address)


def heard(send: Callable[[Packet], None], *packets: Packet) -> list[Packet]:
    """Which of a guest's packets, the first of which does, come in at the host's uplink."""
    last = packets[0] / b", and that was all"
    with packet_socket(None, "up0") as frames:
        for packet in (*packets, last):
            send(packet)
        before = collect(frames, lambda frame: frame[12:] == raw(last)[12:])
        arrived = [frame[12:] for frame in before]
    return [packet for packet in packets if raw(packet)[12:] in arrived]


def test_what_is_not_for_the_host(lan: Lan, airtapd: Airtapd) -> None:
    """VLANs, and what would configure it."""
    with raw_guest(airtapd, SIBLING_MAC) as guest:
        wait_for(lambda: airtapd.status()["uplinks"][0]["host_access"], 5, "host access")
        everybody = Ether(src=guest.mac, dst="33:33:00:00:00:01")
        link_local = IPv6(src="fe80::5054:ff:fe00:2", dst="ff02::1", hlim=255)
        plain = everybody / link_local / UDP(sport=5353, dport=5353) / b"hello"
        to_host = Ether(src=guest.mac, dst=lan.near_mac)
        offer = IP(src=SIBLING4, dst="255.255.255.255") / UDP(sport=67, dport=68) / bytes(300)
        withheld = (
            everybody / Dot1Q(vlan=5) / plain.payload,
            to_host / Dot1Q(vlan=5) / IP(src=SIBLING4, dst=HOST4) / UDP() / b"tagged",
            everybody / link_local / ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::"),
            to_host / link_local / ICMPv6ND_RA(routerlifetime=9000),
            everybody / link_local / UDP(sport=547, dport=546) / b"reply",
            Ether(src=guest.mac, dst="ff:ff:ff:ff:ff:ff") / offer,
            to_host / offer,
        )
        assert heard(guest.send, plain, *withheld) == [plain]


def test_a_wire_without_mac_nat(wire: Lan, plain: Airtapd) -> None:
    before = host_state()
    with two_guests(plain) as guests:
        wait_for(lambda: plain.status()["uplinks"][0]["host_access"], 5, "host access")
        for guest, own in zip(guests, ({GUEST4, GUEST6}, {SIBLING4, SIBLING6}), strict=True):
            meet(guest)
            carries(guest, "TCP4", HOST4)
            wait_for(partial(_knows, plain, guest.mac, own), 10, "its addresses")
            assert wire.ping(guest.addresses(4)[0])
            assert neighbour(wire.namespace, guest.addresses(4)[0]) == guest.mac
        assert guests[0].ping(SIBLING6)
        assert not plain.status()["uplinks"][0]["macnat"]
        assert host_state() == before
    wait_for(is_bare, 5, "clsact to go")


def test_a_wire_carries_what_the_guards_hide_from_the_host(wire: Lan, plain: Airtapd) -> None:
    with raw_guest(plain) as liar, wire.frames() as frames:
        wait_for(lambda: plain.status()["uplinks"][0]["host_access"], 5, "host access")
        deceive(liar.send, wire)
        liar.mark()
        told = [frame for frame in collect(frames) if frame[6:12] == b"\x52\x54\0\0\0\3"]
        assert len(told) >= 4


def test_modes_that_keep_apart(wire: Lan) -> None:
    config = '[parents.up0]\nmode = "private"\n'
    with Airtapd(config=config) as daemon, pump(daemon, GUEST_MAC, GUEST4) as guest:
        assert guest.ping(ROUTER4)
        assert not guest.ping(HOST4)
        assert not daemon.status()["uplinks"][0]["host_access"]

"""Guests that lie: nothing foreign on the wire, and neither sibling nor host suffers."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import FAR_MAC, HOST4, HOST6, NEAR_MAC, ROUTER4, ROUTER6, Lan
from lab.pump import PumpGuest
from lab.sandbox import command
from lab.traffic import (
    BROADCAST,
    ROGUE4,
    ROGUE6,
    ROGUE_MAC,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    Ping,
    RawGuest,
    claim,
    collect,
    known,
    mark,
    neighbour,
    pump,
    raw_guest,
    refused,
)

HOSTS = (HOST4, HOST6, ROUTER4, ROUTER6)
SIBLINGS = (SIBLING4, SIBLING6)
FLOOD = 10_000
IPV4_QUOTA, IPV6_QUOTA = 16, 32


@dataclass
class Scene:
    """A guest that lies, an honest sibling that is pinged all the while, and who watches."""

    lan: Lan
    airtapd: Airtapd
    rogue: RawGuest
    sibling: PumpGuest
    frames: socket.socket

    def refused(self) -> dict[str, int]:
        """What the guards have counted, as far as it is not zero."""
        return {guard: count for guard, count in refused(self.airtapd).items() if count}


@pytest.fixture
def scene(lan: Lan, airtapd: Airtapd, undisturbed_host: None) -> Iterator[Scene]:
    """At the end the sibling has lost no ping, has its addresses, and all know the right MACs."""
    with (
        pump(airtapd, SIBLING_MAC, SIBLING4, SIBLING6, name="sibling") as sibling,
        raw_guest(airtapd) as rogue,
        lan.frames() as frames,
    ):
        assert all(lan.ping(address) for address in SIBLINGS)
        with (
            Ping(SIBLING4, namespace=lan.namespace, interval=0.05) as inward,
            Ping(ROUTER6, namespace=sibling.namespace, interval=0.05) as outward,
        ):
            yield Scene(lan, airtapd, rogue, sibling, frames)
        assert (inward.lost, outward.lost) == (0, 0)
        assert set(SIBLINGS) <= known(airtapd, SIBLING_MAC)
        for address in (ROUTER4, ROUTER6):
            assert neighbour(None, address) == FAR_MAC
            assert neighbour(sibling.namespace, address) in (FAR_MAC, None)


def random_mac() -> str:
    octets = random.Random().randbytes(6)
    return bytes([octets[0] & 0xFE | 0x02, *octets[1:]]).hex(":")


@BOTH_KINDS
def test_random_source_macs(scene: Scene) -> None:
    for _ in range(500):
        scene.rogue.send(claim(ROGUE4, random_mac()))
    for mac in (NEAR_MAC, FAR_MAC, SIBLING_MAC):
        scene.rogue.send(claim(ROGUE4, mac))
    assert scene.refused() == {"wrong_mac": 503}
    assert known(scene.airtapd, ROGUE_MAC) == set()


@pytest.mark.parametrize(
    ("addresses", "guard"),
    [(HOSTS, "host_address"), (SIBLINGS, "guest_address")],
    ids=["host-and-gateway", "sibling"],
)
@BOTH_KINDS
def test_anothers_address(scene: Scene, addresses: tuple[str, ...], guard: str) -> None:
    """Announced to all, told to each, and as the source of packets."""
    for address in addresses:
        for to in (BROADCAST, FAR_MAC, SIBLING_MAC, NEAR_MAC):
            scene.rogue.send(claim(address, ROGUE_MAC, to), times=10)
            scene.rogue.send(packet_from(address, to), times=10)
    assert scene.refused() == {guard: 80 * len(addresses)}
    assert known(scene.airtapd, ROGUE_MAC) == set()


@pytest.mark.parametrize("explicit", [True, False], ids=["configured", "implied"])
def test_broadcast_address_of_the_lan(lan: Lan, airtapd: Airtapd, explicit: bool) -> None:
    """The kernel has a broadcast route for it, told by IFA_BROADCAST or not."""
    if explicit:
        command("ip", "address", "add", "192.0.2.11/24", "brd", "+", "dev", "up0")
    with raw_guest(airtapd) as rogue:
        rogue.claim("192.0.2.255")
        assert refused(airtapd)["host_address"] == 1
        assert known(airtapd, ROGUE_MAC) == set()


def test_advertisement_from_an_address_of_its_own(scene: Scene) -> None:
    """The source is the guest's, the target of the neighbour advertisement is not."""
    advert = claim(ROUTER6, ROGUE_MAC)
    advert[IPv6].src = ROGUE6
    scene.rogue.send(advert, times=10)
    advert = claim(SIBLING6, ROGUE_MAC)
    advert[IPv6].src = ROGUE6
    scene.rogue.send(advert, times=10)
    assert scene.refused() == {"host_address": 10, "guest_address": 10}


def packet_from(address: str, to: str) -> Packet:
    ether = Ether(src=ROGUE_MAC, dst=to)
    if ":" in address:
        return ether / IPv6(src=address, dst="2001:db8::99") / ICMPv6EchoRequest()
    return ether / IP(src=address, dst="192.0.2.99") / ICMP()


def test_frames_that_speak_for_the_station(lan: Lan, airtapd: Airtapd) -> None:
    """EAPOL, BPDU and TDLS with the uplink's MAC would be the host's own."""
    with raw_guest(airtapd) as rogue, lan.frames() as frames:
        for kind in (0x888E, 0x88C7, 0x88B4, 0x890D):
            rogue.send(ether(FAR_MAC, kind))
        rogue.send(ether("01:80:c2:00:00:00", 38))
        assert refused(airtapd)["link_control"] == 5
        rogue.mark()
        assert not [frame for frame in collect(frames) if frame[14:] == bytes(46)]


def ether(to: str, kind: int) -> bytes:
    return bytes(Ether(src=ROGUE_MAC, dst=to, type=kind) / Raw(bytes(46)))


def test_ten_thousand_addresses(scene: Scene) -> None:
    """Of each family: the newest stay, as many as the quota has, all others are evicted."""
    # Not to all: that would fill the queue of a sibling that a busy machine does not let read.
    packed = claim("10.0.0.0", ROGUE_MAC, FAR_MAC).build()
    assert packed.count(bytes([10, 0, 0, 0])) == 2
    for number in range(FLOOD):
        scene.rogue.send(packed.replace(bytes([10, 0, 0, 0]), flood4(number).packed))
        scene.rogue.send(udp6(flood6(number)))
    newest4 = {str(flood4(number)) for number in range(FLOOD - IPV4_QUOTA, FLOOD)}
    newest6 = {str(flood6(number)) for number in range(FLOOD - IPV6_QUOTA, FLOOD)}
    assert known(scene.airtapd, ROGUE_MAC) == newest4 | newest6
    assert scene.refused() == {"evicted": 2 * FLOOD - IPV4_QUOTA - IPV6_QUOTA}
    assert scene.lan.ping(SIBLING6)


def flood4(number: int) -> IPv4Address:
    return IPv4Address("198.18.0.1") + number


def flood6(number: int) -> IPv6Address:
    return IPv6Address("2001:db8::1:0:0") + number


def udp6(source: IPv6Address) -> bytes:
    """A UDP packet over IPv6 to the router; scapy would take 1 ms for each."""
    ether = bytes.fromhex((FAR_MAC + ROGUE_MAC).replace(":", "")) + b"\x86\xdd"
    head = struct.pack("!IHBB", 6 << 28, 8, 17, 64)
    return ether + head + source.packed + IPv6Address(ROUTER6).packed + bytes(6) + b"\x12\x34"


def option(*octets: int) -> Raw:
    return Raw(bytes(octets))


def to_router(mac: str = ROGUE_MAC) -> Ether:
    return Ether(src=mac, dst=FAR_MAC)


def solicitation() -> Packet:
    return IPv6(src=ROGUE6, dst=ROUTER6, hlim=255) / ICMPv6ND_NS(tgt=ROUTER6)


def source_option() -> Packet:
    return ICMPv6NDOptSrcLLAddr(lladdr=ROGUE_MAC)


def discover(ihl: int | None = None) -> Packet:
    bootp = BOOTP(chaddr=bytes.fromhex(ROGUE_MAC.replace(":", "")))
    return (
        Ether(src=ROGUE_MAC, dst=BROADCAST)
        / IP(src="0.0.0.0", dst="255.255.255.255", ihl=ihl)
        / UDP(sport=68, dport=67)
        / bootp
    )


def cut(frame: Packet) -> list[bytes]:
    """A frame cut after every byte behind its Ethernet header."""
    octets = bytes(frame)
    return [octets[:length] for length in range(14, len(octets) + 1)]


BENT: dict[str, list[bytes]] = {
    "arp": cut(claim(ROGUE4, ROGUE_MAC)),
    "ipv4": cut(to_router() / IP(src=ROGUE4, dst=ROUTER4) / UDP()),
    "dhcp": cut(discover()),
    "dhcp-ihl": [bytes(discover(ihl=ihl)) for ihl in range(16)],
    "nd": cut(to_router() / solicitation() / source_option()),
    "nd-option-length": [
        bytes(to_router() / solicitation() / option(kind, length) / source_option())
        for kind in (1, 2, 14)
        for length in (0, 2, 32, 255)
    ],
    "nd-extension-headers": [
        bytes(
            to_router()
            / IPv6(src=ROGUE6, dst=ROUTER6, hlim=255)
            / IPv6ExtHdrHopByHop()
            / IPv6ExtHdrDestOpt()
            / ICMPv6ND_RS()
            / source_option()
        ),
        bytes(
            to_router()
            / IPv6(src=ROGUE6, dst=ROUTER6, hlim=255)
            / IPv6ExtHdrFragment()
            / ICMPv6ND_RS()
            / source_option()
        ),
    ],
    "fragments": [
        bytes(to_router() / IP(src=ROGUE4, dst=ROUTER4, id=7, flags="MF") / ICMP() / bytes(592)),
        bytes(to_router() / IP(src=ROGUE4, dst=ROUTER4, id=7, frag=75, proto=1) / bytes(592)),
        bytes(to_router() / IP(src=ROGUE4, dst=ROUTER4, id=8, frag=1, proto=17) / bytes(64)),
    ],
    "vlan": [
        bytes(to_router() / Dot1Q(vlan=5) / ARP(op=2, hwsrc=ROGUE_MAC, psrc=ROGUE4)),
        bytes(to_router() / Dot1Q(vlan=0) / ARP(op=2, hwsrc=ROGUE_MAC, psrc=ROGUE4)),
        bytes(to_router() / Dot1Q(vlan=5) / solicitation() / source_option()),
        bytes(to_router() / Dot1Q(vlan=0) / Dot1Q(vlan=0) / ARP(op=2, psrc=ROUTER4)),
        bytes(to_router() / Dot1Q(vlan=5) / Dot1Q(vlan=6) / ARP(op=2, psrc=ROUTER4)),
    ],
    "unknown": [bytes(to_router() / Raw(bytes([n]) * n)) for n in range(0, 200, 20)],
}


@pytest.mark.parametrize("kind", BENT)
def test_bent_frames(lan: Lan, airtapd: Airtapd, kind: str) -> None:
    """What passes has the uplink's MAC wherever one stands, and every checksum is right."""
    rogue = bytes.fromhex(ROGUE_MAC.replace(":", ""))
    with raw_guest(airtapd) as guest, lan.frames() as frames:
        for frame in BENT[kind]:
            guest.send(frame)
        guest.mark()
        seen = [f for f in collect(frames) if f[6:12].hex(":") == NEAR_MAC and f[12] != 0xC0]
        assert airtapd.guests()
    for frame in seen:
        if kind.startswith("dhcp"):
            frame = frame[:70] + frame[76:]  # the client's hardware address stays
        assert rogue not in frame
        if kind.startswith("nd"):
            checksums_are_right(Ether(frame))
    assert seen or kind == "nd-option-length"


def checksums_are_right(frame: Packet) -> None:
    """Of a frame of neighbour discovery."""
    built = frame.copy()
    for layer in built.iterpayloads():
        if "cksum" in layer.fields:
            was = layer.cksum
            del layer.cksum
            assert Ether(bytes(built))[type(layer)].cksum == was


@BOTH_KINDS
def test_one_address_in_two_vlans(lan: Lan, airtapd: Airtapd) -> None:
    """It is two addresses, of two guests here, each reached in its own VLAN."""
    with raw_guest(airtapd) as guest, raw_guest(airtapd, SIBLING_MAC) as other:
        with lan.frames() as frames:
            guest.send(claim(ROGUE4, ROGUE_MAC, vlan=5))
            other.send(claim(ROGUE4, SIBLING_MAC, vlan=6))
            other.mark()
            guest.received()
            seen = [Ether(f) for f in collect(frames) if f[12:14] == b"\x81\x00"]
            question = Ether(src=FAR_MAC, dst=NEAR_MAC) / Dot1Q(vlan=5)
            frames.send(bytes(question / ARP(psrc="192.0.2.9", hwdst=NEAR_MAC, pdst=ROGUE4)))
            frames.send(bytes(mark(FAR_MAC)))
        assert [(frame.src, frame[Dot1Q].vlan) for frame in seen] == [(NEAR_MAC, 5), (NEAR_MAC, 6)]
        assert known(airtapd, ROGUE_MAC) == known(airtapd, SIBLING_MAC) == {ROGUE4}
        assert refused(airtapd, SIBLING_MAC)["guest_address"] == 0
        [asked] = [f for f in map(Ether, guest.received()) if ARP in f and f.op == 1]
        assert (asked.dst, asked[ARP].hwdst, asked[Dot1Q].vlan) == (ROGUE_MAC, ROGUE_MAC, 5)
        assert not [f for f in map(Ether, other.received()) if ARP in f and f.op == 1]

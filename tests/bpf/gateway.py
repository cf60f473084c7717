"""A guest that may be the host's gateway, by the configuration, and one that may not."""

from ipaddress import IPv4Address

from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
from scapy.layers.l2 import ARP
from scapy.packet import Packet

from airtap.trace.correlate import CONFIGURES, COPIED
from tests.bpf.meeting import (
    ALL,
    HOST,
    LAN,
    MAC_A,
    MAC_B,
    MARK_PASSED,
    PARENT,
    ROUTER,
    UPLINK,
    A,
    B,
    begin,
    ether,
    ipv4,
    said,
    sent,
)
from tests.bpf.rig import Rig

GATEWAY, OUTSIDE, CLIENT = "192.0.2.254", "203.0.113.9", "02:00:00:00:0d:01"


def begin_with(rig: Rig, kind: str, translate: bool = True) -> tuple[int, int]:
    """The first guest may be the gateway, and has its address."""
    a, b = begin(rig, kind, translate)
    hosts = rig.macnat.hosts
    assert rig.macnat.host_access.set_gateway(MAC_A) == a
    own = hosts.addresses()
    hosts.set_addresses(own, set(), (), {IPv4Address(GATEWAY)}, a)
    for mac, index in ((MAC_B, b), (MAC_A, a)):
        passed = rig.run("from_guest", arp(mac, GATEWAY), index).mark == MARK_PASSED
        assert passed == (index == a)
    hosts.set_addresses(own, set(), (), {IPv4Address(GATEWAY)}, a)  # and it keeps that
    rig.macnat.tracer.read(10_000)
    return a, b


def arp(mac: str, address: str) -> bytes:
    return ether(mac, ALL, ARP(op=2, hwsrc=mac, psrc=address, pdst=address))


def lease(client: str, op: int = 2) -> Packet:
    message = BOOTP(op=op, chaddr=bytes.fromhex(client.replace(":", "")), yiaddr="192.0.2.33")
    return IP(src=GATEWAY, dst="192.0.2.33") / UDP(sport=67, dport=68) / message


ADVERTISEMENT = IPv6(src="fe80::a", dst="ff02::1", hlim=255) / ICMPv6ND_RA()


def by_macvtap(rig: Rig) -> None:
    """What it says configures the host, and what the host has for others goes by it."""
    for translate in (True, False):
        a, _ = begin_with(rig, "macvtap", translate)
        for mac, why in ((MAC_A, 0), (MAC_B, CONFIGURES)):
            for packet in (lease(UPLINK), ADVERTISEMENT):
                outcome = sent(rig, ether(mac, UPLINK, packet))
                assert (outcome.passed, outcome.to) == (not why, 0 if why else PARENT)
            outcome = sent(rig, ether(mac, ALL, ADVERTISEMENT))
            assert (outcome.passed, said(rig)) == (True, why or COPIED)
        outcome = sent(rig, ether(MAC_A, ALL, lease(UPLINK)))
        assert (outcome.passed, said(rig)) == (True, COPIED)
        unguarded = rig.run("uplink_egress", ether(MAC_A, ALL, lease(UPLINK)), PARENT)
        assert unguarded.passed == translate  # to_uplink sees to that
        for packet in (
            ipv4(HOST, OUTSIDE),
            ipv4(HOST, GATEWAY),
            ARP(op=1, hwsrc=UPLINK, psrc=HOST, pdst=GATEWAY),
        ):
            for mac, to in ((MAC_A, a), (MAC_B, 0)):
                assert rig.run("uplink_egress", ether(UPLINK, mac, packet), PARENT).to == to
        rig.macnat.host_access.set_gateway("")
        assert not rig.run("uplink_egress", ether(UPLINK, MAC_A, ipv4(HOST, OUTSIDE)), PARENT).to


def by_ipvtap(rig: Rig) -> None:
    """Its siblings reach it at its address; what it says for the host reaches that."""
    a, b = begin_with(rig, "ipvtap")
    for mac, index, to in ((MAC_A, a, PARENT), (MAC_B, b, 0)):
        frame = ether(mac, UPLINK, ADVERTISEMENT)
        outcome = rig.run("to_host", frame, index, mark=MARK_PASSED)
        assert (outcome.passed, outcome.to) == (bool(to), to)
    frame = ether(MAC_B, UPLINK, ipv4(B, GATEWAY))
    assert rig.run("to_host", frame, b, mark=MARK_PASSED).to == 0
    assert rig.run("to_sibling", ether(UPLINK, UPLINK, ipv4(B, GATEWAY)), b).to == a
    assert rig.run("from_uplink", ether(ROUTER, UPLINK, ipv4(LAN, GATEWAY)), PARENT).to == a


def claims(rig: Rig) -> None:
    """It may have a gateway's address, and none of the host's; nobody else speaks by its MAC."""
    for translate in (True, False):
        a, b = begin_with(rig, "macvtap", translate)

        def passes(mac: str, index: int, packet: Packet, to: str = ROUTER) -> bool:
            mark = rig.run("from_guest", ether(mac, to, packet), index).mark
            assert mark in (0, MARK_PASSED)
            return mark == MARK_PASSED

        assert passes(MAC_A, a, ipv4(GATEWAY, LAN))
        assert not passes(MAC_A, a, ipv4(HOST, LAN))
        renewal = BOOTP(op=1, chaddr=bytes.fromhex(MAC_A.replace(":", "")), ciaddr=GATEWAY)
        assert passes(MAC_A, a, IP(src=A, dst=LAN) / UDP(sport=68, dport=67) / renewal)
        assert passes(MAC_A, a, lease(UPLINK)) and not passes(MAC_B, b, lease(UPLINK))
        assert not passes(MAC_A, a, lease(UPLINK, op=1))
        rig.macnat.guests.add(b, None)
        assert passes(CLIENT, b, ipv4("192.0.2.60", LAN))
        assert not passes(MAC_A, b, ipv4("192.0.2.60", LAN))

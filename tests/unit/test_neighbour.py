"""Frames of our own, read by scapy."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from airtap.packet.neighbour import gratuitous, probe

MAC = "52:54:00:00:00:01"
HOLDER = "52:54:00:00:00:02"
IPV4 = IPv4Address("192.0.2.77")
IPV6 = IPv6Address("2001:db8::abcd:1234")


def read(frame: bytes) -> Packet:
    """Dissect a frame, its checksum verified by building it anew."""
    packet = Ether(frame)
    if IPv6 in packet:
        fresh = packet.copy()
        del fresh[IPv6].payload.cksum
        sent = packet[IPv6].payload.cksum
        assert Ether(bytes(fresh))[IPv6].payload.cksum == sent
    return packet


@pytest.mark.parametrize("vlan", [0, 5])
def test_gratuitous_ipv4(vlan: int) -> None:
    packet = read(gratuitous(IPV4, vlan, MAC))
    arp = packet[ARP]
    assert (packet.src, packet.dst) == (MAC, "ff:ff:ff:ff:ff:ff")
    assert (arp.op, arp.hwsrc, arp.psrc, arp.pdst) == (1, MAC, str(IPV4), str(IPV4))
    assert (packet[Dot1Q].vlan if vlan else Dot1Q in packet) == vlan


@pytest.mark.parametrize("vlan", [0, 5])
def test_gratuitous_ipv6(vlan: int) -> None:
    packet = read(gratuitous(IPV6, vlan, MAC))
    advert = packet[ICMPv6ND_NA]
    assert (packet.src, packet.dst) == (MAC, "33:33:00:00:00:01")
    assert (packet[IPv6].src, packet[IPv6].dst, packet[IPv6].hlim) == (str(IPV6), "ff02::1", 255)
    assert (advert.tgt, advert.O, advert.S, advert.R) == (str(IPV6), 1, 0, 0)
    assert packet[ICMPv6NDOptDstLLAddr].lladdr == MAC


def test_probe_of_ipv4() -> None:
    packet = read(probe(IPV4, 0, MAC, HOLDER))
    assert (packet.src, packet.dst) == (MAC, HOLDER)
    assert (packet[ARP].op, packet[ARP].psrc, packet[ARP].pdst) == (1, "0.0.0.0", str(IPV4))
    assert len(packet) == 60


def test_probe_of_ipv6() -> None:
    packet = read(probe(IPV6, 0, MAC, HOLDER))
    assert (packet.src, packet.dst) == (MAC, HOLDER)
    own = "fe80::5054:ff:fe00:1"
    assert (packet[IPv6].src, packet[IPv6].dst) == (own, "ff02::1:ffcd:1234")
    assert packet[ICMPv6ND_NS].tgt == str(IPV6)
    assert packet[ICMPv6NDOptSrcLLAddr].lladdr == MAC

"""What a guest has the kernel write over what the guards have read, as a checksum.

A virtio header says where. On an uplink that computes no checksums, and for a sibling that takes
none, the kernel writes it late; what was some protocol or some address before is another then.
"""

import fcntl
import os

import pytest
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from lab.adversary.virtio import hidden
from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import FAR_MAC, HOST4, HOST6, NEAR_MAC, ROUTER4, ROUTER6, Lan
from lab.links import without_offload
from lab.traffic import (
    BROADCAST,
    ROGUE4,
    ROGUE6,
    ROGUE_MAC,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    collect,
    neighbour,
    raw_guest,
    refused,
)

EVERYBODY = BROADCAST, NEAR_MAC, FAR_MAC, SIBLING_MAC
TAGS = {"untagged": (), "priority": (Dot1Q(vlan=0),)}
_TUNSETOFFLOAD = 0x400454D0  # linux/if_tun.h
# Of an IPv6 header: the next header and the hop limit, which ND needs. Of an IPv4 header: the
# second half of the source.
_PROTOCOL6, _SOURCE4 = 14 + 6, 14 + 14


def advertisement(address: str, to: str) -> Packet:
    """An address of another's is at the guest, which says so from one of its own."""
    says = ICMPv6ND_NA(tgt=address, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=ROGUE_MAC)
    return Ether(src=ROGUE_MAC, dst=to) / IPv6(src=ROGUE6, dst="ff02::1", hlim=255) / says


def redirect(to: str) -> Packet:
    """The gateway's word that a way leads by the guest."""
    about = IP(src=SIBLING4, dst="198.51.100.9") / UDP()
    says = IP(src=ROUTER4, dst=SIBLING4) / ICMP(type=5, code=1, gw=ROGUE4) / about
    return Ether(src=ROGUE_MAC, dst=to) / says


def smuggled(frame: Packet, at: int, tags: tuple[Packet, ...]) -> bytes:
    """A frame of which two bytes say something else yet, and its virtio header."""
    whole: Packet = Ether(src=frame.src, dst=frame.dst)
    for layer in (*tags, frame.payload):
        whole = whole / layer
    written = hidden(raw(whole), at + 4 * len(tags), b"\xc5\xff")
    assert written
    return written


@BOTH_KINDS
@pytest.mark.parametrize("tags", TAGS)
def test_nothing_is_written_over_what_was_read(lan: Lan, airtapd: Airtapd, tags: str) -> None:
    """No advertisement of the host's, the gateway's or a sibling's address; no redirect."""
    without_offload(lan.near)
    assert lan.ping(HOST6) and lan.ping(HOST4)
    forged = [
        smuggled(frame, at, TAGS[tags])
        for to in EVERYBODY
        for frame, at in (
            *((advertisement(address, to), _PROTOCOL6) for address in (HOST6, ROUTER6, SIBLING6)),
            (redirect(to), _SOURCE4),
        )
    ]
    with (
        raw_guest(airtapd, SIBLING_MAC) as sibling,
        raw_guest(airtapd) as rogue,
        lan.frames() as frames,
    ):
        fcntl.ioctl(sibling.fd, _TUNSETOFFLOAD, 0)
        for written in forged:
            os.write(rogue.fd, written)
        rogue.mark()
        collect(frames)
        assert neighbour(lan.namespace, HOST6) == NEAR_MAC
        assert [frame for frame in sibling.received() if misleads(Ether(frame))] == []
        assert refused(airtapd)["malformed"] == len(forged)


def misleads(frame: Packet) -> bool:
    return ICMPv6ND_NA in frame or (ICMP in frame and frame[ICMP].type == 5)

"""What test_run cannot make: frames whose checksum the kernel is still to write.

It may write it behind what the guards have read, and nowhere else. All is sent to all, so that the
far end of the uplink and a sibling see it.
"""

import struct
from collections.abc import Iterator

import pytest
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.bpf.offload import GUEST, UPLINK, Wire, wire

ALL = "ff:ff:ff:ff:ff:ff"
A4, A6, HOST6 = "192.0.2.100", "2001:db8::a", "2001:db8::10"
MACHINE = pytest.mark.machine("um")  # its kernel has another __bpf_skb_min_len()


@pytest.fixture(
    scope="module",
    params=[
        "macvtap",
        pytest.param("macvtap", marks=MACHINE, id="um-macvtap"),
        pytest.param("ipvtap", marks=MACHINE, id="um-ipvtap"),
    ],
)
def two(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with wire(request.param) as made:
        yield made


def ether(*layers: Packet, tagged: bool = False) -> bytes:
    packet: Packet = Ether(src=GUEST, dst=ALL)
    for layer in (*((Dot1Q(vlan=5),) if tagged else ()), *layers):
        packet = packet / layer
    return raw(packet)


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def bootp(client: str = GUEST, op: int = 1) -> Packet:
    return BOOTP(op=op, chaddr=octets(client), xid=7) / DHCP(options=[("message-type", 7), "end"])


def partial(frame: bytes, l4: int, offset: int) -> bytes:
    """Have only the pseudo header's sum in a frame's checksum, as a sender leaves it."""
    ipv6 = frame[12:14] == b"\x86\xdd" or frame[16:18] == b"\x86\xdd"
    l3 = 14 if frame[12:14] != b"\x81\0" else 18
    addresses = frame[l3 + 8 : l3 + 40] if ipv6 else frame[l3 + 12 : l3 + 20]
    protocol = 6 if offset == 16 else 17
    words = addresses + struct.pack("!HI", protocol, len(frame) - l4)
    folded = sum(struct.unpack(f"!{len(words) // 2}H", words))
    folded = (folded & 0xFFFF) + (folded >> 16)
    at = l4 + offset
    return frame[:at] + struct.pack("!H", folded) + frame[at + 2 :]


UDP4, TCP4 = IP(src=A4, dst="192.0.2.9") / UDP(sport=9, dport=9), IP(src=A4) / TCP()
OPTIONS = IP(src=A4, dst="192.0.2.9", options=[b"\1\1\1\1"]) / UDP(sport=9, dport=9)
UDP6 = IPv6(src=A6, dst="ff02::1") / UDP(sport=9, dport=9)
HEADERS = IPv6(src=A6, dst="ff02::1") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP()
DISCOVER = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
DATA = Raw(b"some data")
# Where the checksum of each belongs: the offset of its transport header, and in it.
GOOD = {
    "udp": (UDP4 / DATA, 34, 6),
    "tcp": (TCP4 / DATA, 34, 16),
    "ip-options": (OPTIONS / DATA, 38, 6),
    "udp6": (UDP6 / DATA, 54, 6),
    "tcp6": (IPv6(src=A6) / TCP() / DATA, 54, 16),
    "extension-headers": (HEADERS / DATA, 70, 6),
    "dhcp": (DISCOVER / bootp(), 34, 6),
    "bootp-to-another-port": (UDP4 / bootp(), 34, 6),
    "looks-like-a-bootrequest": (UDP4 / Raw(b"\1short"), 34, 6),
}


@pytest.mark.parametrize("tagged", [False, True], ids=["", "tagged"])
@pytest.mark.parametrize("name", GOOD)
def test_a_checksum_where_it_belongs(two: Wire, name: str, tagged: bool) -> None:
    expect_good(two, name, tagged)


def expect_good(two: Wire, name: str, tagged: bool = False) -> None:
    """Sent twice: at first the address is new, then it is known."""
    packet, l4, offset = GOOD[name]
    whole = ether(packet, tagged=tagged)
    l4 += 4 * tagged
    frame = partial(whole, l4, offset)
    assert name == "tcp" or frame != whole
    before = two.refused()
    for _ in range(2):
        seen = two.send(frame, (l4, offset))
        assert len(seen) == 2, "at the far end, and at the sibling"
        for there in seen:
            assert _untagged(there, whole) in (whole[12:], _asking_for_broadcasts(whole)[12:])
    assert two.refused() == before


def _untagged(there: bytes, whole: bytes) -> bytes:
    """What stands behind the MACs; a packet socket has the tag elsewhere."""
    return there[12:] if len(there) == len(whole) else whole[12:16] + there[12:]


def _asking_for_broadcasts(frame: bytes) -> bytes:
    """What to_uplink makes of DHCP."""
    packet = Ether(frame)
    if BOOTP in packet:
        packet[BOOTP].flags = 0x8000
        del packet[UDP].chksum
    return raw(packet)


def test_dhcp_without_a_checksum_gets_none(two: Wire) -> None:
    for checksum in (0, None):
        packet = DISCOVER.copy()
        packet[UDP].chksum = checksum
        there = two.send(ether(packet / bootp()))[0]
        assert there[52:54] == b"\x80\0"
        assert (there[40:42] == b"\0\0") == (checksum == 0)


LEAST_START = 20  # of where a sum begins (include/linux/virtio_net.h: virtio_net_hdr_to_skb)
# What a checksum may not be written to, at each of the offsets.
MISPLACED = {
    "ipv4": (UDP4 / DATA, range(32)),
    "ipv4-tcp": (TCP4 / DATA, range(32)),
    "ip-options": (OPTIONS / DATA, range(36)),
    "ipv6": (UDP6 / DATA, range(52)),
    # As ND is smuggled: the next header, and the hop limit of 255 that receivers ask for.
    "unknown-next-header": (IPv6(src=A6, dst="ff02::1", nh=197) / Raw(bytes(32)), range(52)),
    "extension-headers": (HEADERS / DATA, range(68)),
    "icmpv6": (IPv6(src=A6, dst="ff02::1") / ICMPv6EchoRequest(), range(60)),
    "icmpv6-behind-headers": (
        IPv6(src=A6, dst="ff02::1") / IPv6ExtHdrDestOpt() / ICMPv6EchoRequest(),
        range(68),
    ),
    "cut-extension-header": (
        IPv6(src=A6, dst="ff02::1", nh=60) / Raw(b"\x3b"),
        range(53),
    ),
    "nine-headers": (
        IPv6(src=A6, dst="ff02::1", nh=60) / Raw((b"\x3c\0" + bytes(6)) * 9) / DATA,
        range(54, 120, 8),
    ),
    "fragment": (IP(src=A4, flags="MF") / UDP() / DATA, range(48)),
    "later-fragment": (IP(src=A4, frag=2, proto=17) / DATA, range(40)),
    "ipv6-fragment": (IPv6(src=A6) / IPv6ExtHdrFragment(m=1) / UDP() / DATA, range(68)),
    "ipv6-later-fragment": (IPv6(src=A6) / IPv6ExtHdrFragment(offset=2) / DATA, range(68)),
    "no-ipv4": (IP(src=A4, version=0) / UDP() / DATA, range(40)),
    "short-header": (IP(src=A4, ihl=1) / UDP() / DATA, range(40)),
    "no-ipv6": (IPv6(src=A6, version=0) / UDP() / DATA, range(60)),
    "arp": (ARP(hwsrc=GUEST, psrc=A4), range(40)),
    "dhcp": (DISCOVER / bootp(), [*range(32), *range(42, 70)]),
}


@pytest.mark.parametrize("tagged", [False, True], ids=["", "tagged"])
@pytest.mark.parametrize("name", MISPLACED)
def test_a_checksum_elsewhere(two: Wire, name: str, tagged: bool) -> None:
    expect_refused(two, name, tagged)


def expect_refused(two: Wire, name: str, tagged: bool = False) -> None:
    """From an address that is known, too: the guest has spoken before."""
    packet, places = MISPLACED[name]
    two.send(ether(UDP4))
    two.send(ether(UDP6))
    frame = ether(packet, tagged=tagged).ljust(140, b"\0")
    for place in places:
        at = place + 4 * tagged * (place >= 12)
        start = min(at, LEAST_START)
        before = two.refused().get("malformed", 0)
        try:
            seen = two.send(frame, (start, at - start))
        except OSError:
            assert at < LEAST_START  # newer kernels refuse that by themselves
            continue
        if name == "dhcp" and seen:  # no sum is written any more to what was cut and mended
            asking = _asking_for_broadcasts(frame)[54 + 4 * tagged :]
            assert place >= 42, place
            assert all(_untagged(there, frame)[42 + 4 * tagged :] == asking for there in seen)
        else:
            assert (seen, two.refused().get("malformed", 0)) == ([], before + 1), place


def test_a_port_that_is_written_late(two: Wire) -> None:
    expect_refused_port(two)


def expect_refused_port(two: Wire) -> None:
    """Read as another port's, it would be a DHCP server's on the air: what it asks is looked at."""
    two.send(ether(UDP4))
    for client, refused in ((UPLINK, True), (GUEST, False)):
        frame = ether(IP(src=A4) / UDP(sport=68, dport=9, chksum=0) / bootp(client))
        before = two.refused().get("wrong_mac", 0)
        seen = two.send(frame, (34, 2))
        assert (seen == []) == refused
        assert two.refused().get("wrong_mac", 0) == before + refused


def test_what_the_kernel_knows_no_transport_header_of(two: Wire) -> None:
    """GRE, of a protocol that skb_probe_transport_header() does not find its way through."""
    expect_whole(two)


def expect_whole(two: Wire) -> None:
    packet = ether(IP(src=A4, proto=47) / Raw(b"\0\0\x12\x34" + bytes(60)))
    for _ in range(2):
        assert [there[12:] for there in two.send(packet)] == [packet[12:]] * 2


def test_what_no_guard_reads_may_be_anywhere_behind(two: Wire) -> None:
    packet = IP(src=A4) / ICMP() / Raw(PadN().build() + DATA.load)
    assert len(two.send(ether(packet), (34, 2))) == 2

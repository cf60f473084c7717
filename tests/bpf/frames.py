"""Frames by hypothesis and scapy: mostly right, and each part at times wrong."""

from hypothesis import strategies as st
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

PARENT, ROUTER = "02:00:00:00:00:01", "02:00:00:00:00:03"
GUEST_MACS = ["02:00:00:00:01:01", "02:00:00:00:01:02"]
HOST4, GATEWAY4, BROADCAST4 = "192.0.2.10", "192.0.2.1", "192.0.2.255"
HOST6, GATEWAY6 = "2001:db8::10", "fe80::1"
VLAN = 5

macs = st.sampled_from([PARENT, ROUTER, *GUEST_MACS, "ff:ff:ff:ff:ff:ff"])
stations = st.sampled_from([*GUEST_MACS * 4, PARENT, ROUTER])
senders = st.one_of(stations, st.sampled_from(["00:00:00:00:00:00", "03:00:00:00:00:04"]))
targets = st.one_of(
    macs, st.sampled_from([PARENT] * 4 + ["33:33:ff:00:00:01", "01:00:5e:00:00:fb"])
)

# Few, so that what one frame says matters to the next.
guest4 = st.integers(100, 103).map(lambda n: f"192.0.2.{n}")
guest6 = st.integers(0, 3).map(lambda n: f"2001:db8::1:{n:x}")
odd4 = st.sampled_from(
    (
        f"{HOST4} {GATEWAY4} {BROADCAST4} 0.0.0.0 0.0.0.1 126.0.0.1 127.0.0.1 127.255.0.9 "
        "128.0.0.1 223.0.0.1 224.0.0.251 239.255.255.250 240.0.0.1 255.255.255.255"
    ).split()
)
odd6 = st.sampled_from(
    (
        f"{HOST6} {GATEWAY6} :: ::1 ::2 0:0:0:1::1 fe80::2 fe00::1 "
        "ff02::1 ff02::1:ff00:1 ff0e::1234:5678"
    ).split()
)
ipv4 = st.one_of(guest4, guest4, guest4, odd4)
ipv6 = st.one_of(guest6, guest6, guest6, odd6)
host4 = st.sampled_from([HOST4, GATEWAY4, BROADCAST4])
host6 = st.sampled_from([HOST6, GATEWAY6])
group4 = st.sampled_from(["224.0.0.251", "239.255.255.250", "255.255.255.255"])
to4 = st.one_of(guest4, guest4, host4, group4, odd4)
rarely = st.sampled_from([False] * 11 + [True])
at_times = st.sampled_from([False] * 3 + [True])


@st.composite
def arp(draw: st.DrawFn) -> tuple[int, Packet]:
    """In bytes: scapy would write other addresses for other hardware types."""
    packet = ARP(
        op=draw(st.integers(1, 2)),
        hwsrc=draw(stations),
        psrc=draw(ipv4),
        hwdst=draw(st.one_of(st.just("00:00:00:00:00:00"), st.just(PARENT), stations)),
        pdst=draw(to4),
    )
    octets = bytearray(raw(packet))
    if draw(at_times):
        octets[0:2] = draw(st.sampled_from([b"\0\6", b"\0\6", b"\0\7", b"\1\0"]))
    if draw(rarely):
        octets[2:4] = draw(st.sampled_from([b"\x08\x06", b"\x86\xdd"]))
    if draw(rarely):
        octets[4] = draw(st.sampled_from([5, 8]))
    elif draw(rarely):
        octets[5] = draw(st.sampled_from([3, 16]))
    return 0x0806, Raw(bytes(octets))


@st.composite
def dhcp(draw: st.DrawFn) -> Packet:
    udp = UDP(sport=68, dport=draw(st.sampled_from([67, 67, 67, 68, 69])))
    if draw(at_times):
        udp.chksum = 0
    elif draw(rarely):
        udp.chksum = draw(st.integers(1, 0xFFFF))
    if draw(at_times):
        udp.len = draw(st.sampled_from([0, 8, 19, 20, 40]))
    flags = draw(st.sampled_from([0, 0x8000, 0x7FFF, 0x0080]))
    message = BOOTP(
        op=draw(st.sampled_from([1, 1, 1, 2])),
        xid=draw(st.integers(0, 0xFFFF)),
        flags=flags,
        ciaddr=draw(ipv4),
        chaddr=bytes.fromhex(draw(st.sampled_from([*GUEST_MACS, PARENT])).replace(":", "")),
    )
    return udp / message / DHCP(options=[("message-type", "discover"), "end"])


def datagrams() -> st.SearchStrategy[Packet]:
    payload = st.binary(max_size=40).map(Raw)
    return st.one_of(
        dhcp(),
        dhcp(),
        st.builds(lambda p, d: UDP(sport=9, dport=p) / d, st.sampled_from([67, 68, 9]), payload),
        st.builds(lambda d: TCP(dport=67) / d, payload),
        st.builds(lambda d: ICMP() / d, payload),
    )


@st.composite
def ip(draw: st.DrawFn) -> Packet:
    packet = IP(src=draw(ipv4), dst=draw(to4))
    if draw(rarely):
        packet.options = [b"\1\1\1\1" * draw(st.integers(1, 10))]
    if draw(rarely):
        packet.flags = "MF"
    if draw(at_times):
        packet.frag = draw(st.sampled_from([0, 1, 0x1000]))
    if draw(rarely):
        packet.ihl = draw(st.integers(0, 15))
    if draw(rarely):
        packet.len = draw(st.integers(0, 80))
    if draw(rarely):
        packet.version = draw(st.integers(0, 15))
    return packet / draw(datagrams())


nd_option = st.one_of(
    st.builds(lambda a: ICMPv6NDOptSrcLLAddr(lladdr=a), stations),
    st.builds(lambda a: ICMPv6NDOptDstLLAddr(lladdr=a), st.one_of(stations, st.just(PARENT))),
    st.just(ICMPv6NDOptMTU()),
    st.builds(
        lambda t, n: ICMPv6NDOptUnknown(type=t, len=n, data=b"\5" * (n * 8 - 2)),
        st.sampled_from([1, 2, 5, 14]),
        st.integers(1, 3),
    ),
    st.builds(lambda t: ICMPv6NDOptUnknown(type=t, len=0, data=b"\1" * 6), st.integers(1, 2)),
)
nd_good = nd_option.filter(lambda option: option.len != 0)


@st.composite
def nd(draw: st.DrawFn) -> Packet:
    target = draw(ipv6)
    packet = draw(
        st.sampled_from(
            [
                ICMPv6ND_NA(tgt=target),
                ICMPv6ND_NA(tgt=target),
                ICMPv6ND_NS(tgt=target),
                ICMPv6ND_RS(),
                ICMPv6ND_RA(),
                ICMPv6ND_Redirect(tgt=target),
                ICMPv6EchoRequest(),
            ]
        )
    )
    option = nd_option if draw(rarely) else nd_good
    for part in draw(st.lists(option, max_size=4)):
        packet = packet / part
    if draw(rarely):
        packet.cksum = draw(st.integers(0, 0xFFFF))
    return packet


extension = st.one_of(
    st.builds(lambda n: IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * n)]), st.integers(0, 20)),
    st.builds(lambda n: IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * n)]), st.integers(0, 20)),
    st.just(IPv6ExtHdrSegmentRouting(addresses=["2001:db8::99"])),
    st.just(IPv6ExtHdrRouting()),
    st.builds(
        lambda offset, more: IPv6ExtHdrFragment(offset=offset, m=more, id=7),
        st.sampled_from([0, 0, 0, 1, 32, 0x1FFF]),
        st.integers(0, 1),
    ),
)


@st.composite
def ip6(draw: st.DrawFn) -> Packet:
    packet = IPv6(src=draw(ipv6), dst=draw(ipv6), hlim=255)
    if draw(rarely):
        for header in draw(st.lists(extension, max_size=9)):
            packet = packet / header
    elif draw(at_times):
        packet = packet / draw(extension)
    if draw(rarely):
        packet.plen = draw(st.integers(0, 120))
    if draw(rarely):
        packet.version = draw(st.integers(0, 15))
    payload = st.binary(max_size=40).map(Raw)
    others = st.builds(lambda d: UDP(dport=67) / d, payload)
    return packet / draw(st.one_of(nd(), nd(), others, payload.map(lambda d: TCP() / d)))


# What stands in an IEEE 802.3 frame: a length, and SNAP with an ethertype, or another LLC.
llc = st.builds(
    lambda length, head, kind, body: (length, Raw(head + kind + body)),
    st.sampled_from([0x0026, 0x0026, 0x0600]),
    st.sampled_from([b"\xaa\xaa\3\0\0\0", b"\xaa\xaa\3\0\0\xf8", b"\xaa\xaa\x13\0\0\0", b"\6\6\3"]),
    st.sampled_from([b"\x08\6", b"\x08\0", b"\x88\x8e"]),
    st.binary(max_size=40),
)
other = st.builds(
    lambda kind, body: (kind, Raw(body)),
    st.sampled_from([0x888E, 0x88C7, 0x88B4, 0x890D, 0x8035, 0x88CC, 0x0026, 0x0800, 0x86DD]),
    st.binary(max_size=60),
)


anywhere = st.one_of(targets, targets, targets, st.just("01:80:c2:00:00:0e"))


@st.composite
def frames(
    draw: st.DrawFn, source: st.SearchStrategy[str], to: st.SearchStrategy[str] = anywhere
) -> bytes:
    """A frame from one of the source addresses, sometimes cut, or with padding behind."""
    packet = Ether(dst=draw(to), src=draw(source))
    for _ in range(draw(st.sampled_from([0] * 8 + [1] * 4 + [2]))):
        kind = draw(st.sampled_from([0x8100, 0x8100, 0x8100, 0x88A8]))
        packet.lastlayer().type = kind
        packet = packet / Dot1Q(vlan=draw(st.sampled_from([0, VLAN])), prio=draw(st.integers(0, 7)))
    payload = draw(st.one_of(arp(), ip(), ip6(), ip6(), other))
    if isinstance(payload, tuple):
        packet.lastlayer().type, payload = payload
    octets = raw(packet / payload)
    if draw(rarely):
        octets = octets[: draw(st.integers(15, max(15, len(octets))))]
    if draw(rarely):
        octets += bytes(draw(st.integers(1, 20)))
    return octets.ljust(15, b"\0")


def packed(packets: st.SearchStrategy[Packet]) -> st.SearchStrategy[bytes]:
    return packets.map(raw)


tags = st.one_of(st.none(), st.none(), st.none(), st.sampled_from([VLAN, 0x6000 + VLAN, 0, 0x2000]))

"""What a hostile guest says: for each guard, messages that it is to stop, in every wrapping.

An attack is a few small numbers, which hypothesis draws and shrinks; of each comes a handful of
frames. The smaller a number, the plainer what it stands for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from lab.adversary import packets as p
from lab.adversary import virtio
from lab.adversary import world as w
from lab.adversary.choices import Choices
from lab.lan import FAR_MAC, HOST4, HOST6, NEAR_MAC, ROUTER4, ROUTER6
from lab.traffic import BROADCAST, ROGUE4, ROGUE_MAC, SIBLING4, SIBLING6, SIBLING_MAC

# Ethertype and packet; the IP address that it is for, if any.
Message = tuple[int, bytes, str]

EVERYBODY4, EVERYBODY6 = "255.255.255.255", "ff02::1"
EVERYBODY = (BROADCAST, NEAR_MAC, FAR_MAC, SIBLING_MAC)


def arp(c: Choices) -> Message:
    """What everybody's neighbour table is made of, over IPv4."""
    op = c.of(2, 1)
    spa = c.of(*w.of_family(w.NOT_THE_ROGUES, 4), ROGUE4, "0.0.0.0", w.FORMER4)
    tpa = c.of(spa, HOST4, ROUTER4, SIBLING4)
    sha = c.of(ROGUE_MAC, w.MADE_UP_MAC, NEAR_MAC, SIBLING_MAC)
    tha = c.of(BROADCAST, ROGUE_MAC, NEAR_MAC)
    return p.ARP, p.arp(op, sha, spa, tha, tpa, c.of(1, 6, 7)).ljust(c.of(46, 28), b"\0"), ""


def neighbour(c: Choices) -> Message:
    """A neighbour advertisement or solicitation."""
    kind = c.of(136, 135)
    about = c.of(*w.of_family(w.NOT_THE_ROGUES, 6), w.ROGUE_LL)
    source = c.of(about, w.ROGUE_LL, "::", ROUTER6)
    target = c.of(EVERYBODY6, HOST6, SIBLING6, ROUTER6, p.solicited(about))
    flags = c.of(0x20, 0xE0, 0x60, 0x00) << 24 if kind == 136 else 0
    mac = c.of(ROGUE_MAC, w.MADE_UP_MAC, NEAR_MAC)
    option = c.of(bytes([2 if kind == 136 else 1, 1]) + p.octets(mac), b"")
    nonce = c.of(b"", bytes([14, 1]) + p.MARK + b"no")
    message = struct.pack("!BBHI", kind, 0, 0, flags) + p.octets(about) + nonce + option
    return icmp6(source, target, message)


def icmp6(source: str, target: str, message: bytes) -> Message:
    return p.IPV6, p.ipv6(source, target, p.ICMP6, p.icmp6(source, target, message)), target


def probe(c: Choices) -> Message:
    """Whether an address is free, as everybody asks before taking it."""
    about = c.of(*w.of_family(w.HOSTS, 6), *w.of_family(w.SIBLINGS, 6), HOST4, SIBLING4, w.FORMER4)
    if ":" not in about:
        return (
            p.ARP,
            p.arp(1, ROGUE_MAC, "0.0.0.0", "00:00:00:00:00:00", about).ljust(46, b"\0"),
            "",
        )
    nonce = c.of(b"", bytes([14, 1]) + p.MARK + b"no")
    message = struct.pack("!BBHI", 135, 0, 0, 0) + p.octets(about) + nonce
    return icmp6("::", p.solicited(about), message)


def advertisement(c: Choices) -> Message:
    """A router advertisement: of a prefix, of itself, or that the router is none any more."""
    source = c.of(w.ROGUE_LL, w.ROUTER_LL, ROUTER6, w.SIBLING_LL)
    target = c.of(EVERYBODY6, HOST6, w.HOST_LL, w.TENTATIVE6)
    lifetime = c.of(1800, 0)
    about = c.of("2001:db8:bad::", "2001:db8::")
    lives = c.of(3600, 0)
    head = struct.pack("!BBHBBHII", 134, 0, 0, 64, c.of(0, 0xC0, 0x08), lifetime, 0, 0)
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, lives, lives, 0) + p.octets(about)
    mtu = struct.pack("!BBHI", 5, 1, 0, 1280)
    server = struct.pack("!BBHI", 25, 3, 0, 3600) + p.octets("2001:db8:bad::53")
    option = c.of(bytes([1, 1]) + p.octets(ROGUE_MAC), b"")
    return icmp6(source, target, head + prefix + option + mtu + server)


def redirect(c: Choices) -> Message:
    """That a way beyond the LAN leads by the guest."""
    if c.of(6, 4) == 6:
        source, target = c.of(w.ROUTER_LL, w.ROGUE_LL, ROUTER6), c.of(HOST6, SIBLING6, EVERYBODY6)
        inner = p.over_ip(HOST6, w.BEYOND6, (9, 9), b"inner")[1]
        options = (
            bytes([2, 1]) + p.octets(ROGUE_MAC) + struct.pack("!BBHI", 4, 1 + len(inner) // 8, 0, 0)
        )
        message = struct.pack("!BBHI", 137, 0, 0, 0) + p.octets(w.ROGUE_LL) + p.octets(w.BEYOND6)
        return icmp6(source, target, message + options + inner)
    source, target = c.of(ROUTER4, ROGUE4), c.of(HOST4, SIBLING4)
    inner = p.over_ip(HOST4, w.BEYOND4, (9, 9), b"inner")[1][:28]
    message = struct.pack("!BBH", 5, c.of(1, 0), 0) + p.octets(ROGUE4) + inner
    return p.IPV4, p.ipv4(source, target, 1, p.icmp4(message), options4(c)), target


def options4(c: Choices) -> bytes:
    return c.of(b"", b"\1\1\1\0", b"\x94\4\0\0", b"\1" * 39 + b"\0")


def dhcp_server(c: Choices) -> Message:
    """An answer to a DHCP client."""
    port = c.of(67, 1067, 68, 53, 547)
    kind = c.of(2, 5, 6)
    client = c.of(NEAR_MAC, SIBLING_MAC, ROGUE_MAC)
    target = c.of(EVERYBODY4, HOST4, w.FORMER4)
    message = p.bootp(2, kind, client, yours=c.of("192.0.2.222", HOST4, w.FORMER4))
    datagram = p.udp(ROGUE4, target, (port, 68), message)
    return p.IPV4, p.ipv4(c.of(ROGUE4, ROUTER4), target, p.UDP, datagram, options4(c)), target


def dhcp_client(c: Choices) -> Message:
    """A message to a DHCP server, in the name of others: a release, say."""
    kind = c.of(7, 4, 1, 3)
    client = c.of(NEAR_MAC, SIBLING_MAC, ROGUE_MAC)
    leased = w.LEASES.get(client, ROGUE4)
    own, wanted = c.of(leased, "0.0.0.0", HOST4, ROGUE4), c.of(leased, "192.0.2.160")
    source, target = c.of(ROGUE4, "0.0.0.0", own), c.of(ROUTER4, EVERYBODY4)
    message = p.bootp(1, kind, client, own=own, wanted=wanted)
    datagram = p.udp(source, target, (c.of(68, 1068), 67), message)
    return p.IPV4, p.ipv4(source, target, p.UDP, datagram, options4(c)), target


def dhcp6_server(c: Choices) -> Message:
    source = c.of(w.ROGUE_LL, w.ROUTER_LL)
    target = c.of(w.HOST_LL, HOST6, "ff02::1", "ff02::1:2", w.TENTATIVE6)
    ports = c.of(547, 5547, 546, 53), 546
    return (*p.over_ip(source, target, ports, b"\7\1\2\3" + p.MARK), target)


def packet(c: Choices) -> Message:
    """A packet from an address, which claims it; also for the host's own services."""
    if c.of(4, 6) == 4:
        source = c.of(*w.of_family(w.NOT_THE_ROGUES, 4), ROGUE4, w.FORMER4, *w.LEASES.values())
        target = c.of(ROUTER4, HOST4, SIBLING4, EVERYBODY4)
    else:
        source = c.of(*w.of_family(w.NOT_THE_ROGUES, 6), w.ROGUE_LL)
        target = c.of(ROUTER6, HOST6, SIBLING6, EVERYBODY6)
    return (*p.over_ip(source, target, (9, c.of(9999, 53)), p.MARK * 4), target)


def link_control(c: Choices) -> Message:
    """What speaks for the station or port: EAPOL logoff, preauthentication, WAPI, TDLS, LLDP."""
    kind = c.of(0x888E, 0x88C7, 0x88B4, 0x890D, 0x88CC, 38, 0x8809)
    return kind, c.of(b"\1\2\0\0", b"\x42\x42\3") + p.MARK + bytes(38), ""


def pppoe(c: Choices) -> Message:
    """PADO, PADS, PADT; LCP of a session."""
    kind, code = c.of((0x8863, 0x07), (0x8863, 0x65), (0x8863, 0xA7), (0x8864, 0))
    return kind, struct.pack("!BBHH", 0x11, code, 0, 4) + b"\1\1\0\0" + p.MARK.ljust(40), ""


def other(c: Choices) -> Message:
    kind = c.of(0x8035, 0x22F0, 0x88E5, 0x893A, 0x86DD, 0x0800, 20, 0x05FF)
    return kind, c.of(b"", b"\x45", b"\x60") + p.MARK * 10, ""


TOPICS: tuple[Callable[[Choices], Message], ...] = (
    *(arp, neighbour, probe, advertisement, redirect, dhcp_server, dhcp_client, dhcp6_server),
    *(packet, link_control, pppoe, other),
)

HOP_BY_HOP, ROUTING, DESTINATION = 0, 43, 60
_CHAINS = (
    (),
    (HOP_BY_HOP,),
    (DESTINATION,),
    (DESTINATION, DESTINATION),
    (ROUTING,),
    (DESTINATION,) * 8,
)
_CUTS = (None, 0, 8, 16, 24, 48)


def wrapped(message: Message, number: int) -> list[bytes]:
    """IP's own wrappings: extension headers, fragments of any split, also one in the other."""
    kind, octets, _ = message
    c = Choices(number)
    if kind == p.IPV6 and len(octets) >= 40:
        for header in c.of(*_CHAINS):
            octets = _behind(octets, header)
        first = c.of(*_CUTS)
        parts = [octets] if first is None else p.fragments6(octets, first)
        return [_behind(part, DESTINATION) for part in parts] if c.of(False, True) else parts
    if kind == p.IPV4 and len(octets) >= 20 and (first := c.of(*_CUTS)):
        return p.fragments4(octets, first)[:: c.of(1, -1)]
    return [octets]


def _behind(packet: bytes, header: int) -> bytes:
    """An IPv6 packet with one more extension header in front of all others."""
    extension = bytes(
        [packet[6], 0, 1, 4, 0, 0, 0, 0] if header != ROUTING else [packet[6], 0, 4, 0, 0, 0, 0, 0]
    )
    size = struct.pack("!H", len(packet) - 40 + 8)
    return packet[:4] + size + bytes([header]) + packet[7:40] + extension + packet[40:]


Q, AD = 0x8100, 0x88A8
TAGS: tuple[tuple[tuple[int, int], ...], ...] = (
    *((), ((Q, 0),), ((Q, 5),), ((Q, 0xE000),), ((AD, 0),), ((AD, 5),)),
    *(((Q, 0), (Q, 0)), ((Q, 0), (Q, 5)), ((Q, 5), (Q, 0)), ((AD, 0), (Q, 0)), ((Q, 0x1000),)),
)
_SNAP = b"\xaa\xaa\3\0\0\0"


def framed(message: Message, parts: Sequence[bytes], tags: int, snap: bool) -> list[bytes]:
    """A message's packets as frames: to all, to the host, the router and the sibling."""
    kind, _, target = message
    frames = []
    for to in (*EVERYBODY, *_groups(target), *(["01:80:c2:00:00:03"] if kind in _OF_LINK else [])):
        for part in parts:
            ethertype, octets = (
                (len(part) + 8, _SNAP + kind.to_bytes(2) + part) if snap else (kind, part)
            )
            frames.append(p.ethernet(to, ROGUE_MAC, ethertype, octets, TAGS[tags]))
    return frames


_OF_LINK = (0x888E, 0x88CC, 38)


def _groups(target: str) -> list[str]:
    return [p.multicast_mac(target)] if target.startswith("ff") else []


@dataclass(frozen=True)
class Attack:
    """One thing that a hostile guest says.

    topic: of TOPICS. what: its choices. wrapping: of IP. tags: of TAGS. snap: in an IEEE 802.3
    frame. header: see virtio.headed().
    """

    topic: int
    what: int
    wrapping: int = 0
    tags: int = 0
    snap: bool = False
    header: int = 0

    def writes(self) -> list[bytes]:
        """What to write to a tap: virtio headers and frames."""
        message = TOPICS[self.topic](Choices(self.what))
        frames = framed(message, wrapped(message, self.wrapping), self.tags, self.snap)
        return [virtio.headed(frame, self.header) for frame in frames]

    def __str__(self) -> str:
        return f"{TOPICS[self.topic].__name__}: {self!r}"


mostly_none = st.one_of(st.just(0), st.just(0), st.integers(0, 71))
attacks = st.builds(
    Attack,
    topic=st.integers(0, len(TOPICS) - 1),
    what=st.integers(0, 5000),
    wrapping=mostly_none,
    tags=st.sampled_from([0] * 10 + list(range(len(TAGS)))),
    snap=st.sampled_from([False] * 15 + [True]),
    header=st.one_of(st.just(0), st.just(0), st.integers(0, 2000)),
)

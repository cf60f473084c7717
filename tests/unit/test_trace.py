"""Frames in words, and records put together, whatever a guest sends."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Solicit
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from airtap.bpf.trace_record import (
    DROP,
    EVERYONE,
    NOBODY,
    PASS,
    PROGRAMS,
    REDIRECT,
    SNAP,
    Record,
    record,
    trimmed,
)
from airtap.trace import pcapng
from airtap.trace.correlate import (
    CONFIGURES,
    COPIED,
    LEARNED,
    REFUSED,
    WITHHELD,
    Correlator,
    Line,
    Setting,
)
from airtap.trace.describe import in_words

GUEST, UPLINK, ROUTER, OTHER = (f"52:54:00:00:00:0{n}" for n in range(1, 5))
A, LAN = "192.0.2.50", "192.0.2.1"
ETHER = Ether(src=GUEST, dst=ROUTER)
DHCP_TAIL = DHCP(options=[("hostname", "x" * 20), ("message-type", "discover"), "end"])

FRAMES: list[tuple[Packet, str]] = [
    (ETHER / ARP(psrc=A, pdst=LAN), f"ARP who-has {LAN} tell {A}"),
    (ETHER / ARP(psrc="0.0.0.0", pdst=A), f"ARP probe for {A}"),
    (ETHER / ARP(op=2, hwsrc=GUEST, psrc=A, pdst=LAN), f"ARP reply {A} is-at {GUEST}"),
    (ETHER / ARP(hwsrc=GUEST, psrc=A, pdst=A), f"ARP announcement: {A} is-at {GUEST}"),
    (ETHER / ARP(op=9, psrc=A), "ARP operation 9"),
    (ETHER / ARP(plen=16), "ARP for something else than Ethernet and IPv4"),
    (ETHER / IP(src=A, dst=LAN) / TCP(sport=22, flags="SA"), f"TCP {A}:22 > {LAN}:80 SYN ACK"),
    (ETHER / IP(src=A, dst=LAN) / UDP(dport=53), f"UDP {A}:53 > {LAN}:53"),
    (ETHER / IP(src=A, dst=LAN) / ICMP(), f"ICMP echo request {A} > {LAN}"),
    (ETHER / IP(src=A, dst=LAN, frag=7), f"IPv4 fragment {A} > {LAN}"),
    (ETHER / IP(src=A, dst=LAN, proto=2), f"IGMP {A} > {LAN}"),
    (ETHER / IP(src=A, dst=LAN, proto=99), f"IPv4 protocol 99 {A} > {LAN}"),
    (
        ETHER / IP(src="0.0.0.0") / UDP(sport=68, dport=67) / BOOTP(options=b"") / DHCP_TAIL,
        "DHCP message 0.0.0.0 > 127.0.0.1",
    ),
    (
        ETHER / IP(src="0.0.0.0", dst=LAN) / UDP(sport=68, dport=67) / BOOTP() / DHCP_TAIL,
        f"DHCP discover 0.0.0.0 > {LAN}",
    ),
    (
        ETHER / IPv6(src="fe80::1", dst="ff02::1:2") / UDP() / DHCP6_Solicit(),
        "DHCPv6 solicit [fe80::1] > [ff02::1:2]",
    ),
    (
        ETHER / IPv6(src="2001:db8::5", dst="2001:db8::1") / TCP(sport=22, flags=""),
        "TCP [2001:db8::5]:22 > [2001:db8::1]:80",
    ),
    (
        ETHER / IPv6(src="fe80::1") / IPv6ExtHdrHopByHop() / ICMPv6ND_NS(tgt="fe80::2"),
        "IPv6 neighbour solicitation for fe80::2 from fe80::1",
    ),
    (
        ETHER / IPv6(src="::") / ICMPv6ND_NS(tgt="fe80::2"),
        "IPv6 duplicate address detection of fe80::2",
    ),
    (
        ETHER / IPv6(src="fe80::1") / ICMPv6ND_NA(tgt="fe80::1"),
        "IPv6 neighbour advertisement of fe80::1 from fe80::1",
    ),
    (ETHER / IPv6(src="fe80::1") / ICMPv6ND_RS(), "IPv6 router solicitation from fe80::1"),
    (
        ETHER / IPv6(src="fe80::1", dst="fe80::2") / ICMPv6EchoRequest(),
        "ICMPv6 echo request fe80::1 > fe80::2",
    ),
    (
        ETHER / IPv6(src="fe80::1", dst="fe80::2") / IPv6ExtHdrFragment(offset=9) / b"x",
        "IPv6 fragment fe80::1 > fe80::2",
    ),
    (ETHER / Dot1Q(vlan=5) / Dot1Q(vlan=6) / ARP(psrc=A, pdst=LAN), f"VLAN 5, 6: {'ARP who-has'}"),
    (Ether(src=GUEST, dst=ROUTER, type=0x888E) / b"12345", f"EAPOL {GUEST} > {ROUTER}"),
    (Ether(src=GUEST, dst=ROUTER, type=0x1234), f"ethertype 0x1234 {GUEST} > {ROUTER}"),
    (Ether(src=GUEST, dst=ROUTER, type=40) / b"12345", f"802.3 frame {GUEST} > {ROUTER}"),
    (Ether(src=GUEST, dst="01:80:c2:00:00:00", type=40), f"link control {GUEST} > 01:80"),
]


@pytest.mark.parametrize(("frame", "words"), FRAMES, ids=lambda value: str(value)[:40])
def test_frames_in_words(frame: Packet, words: str) -> None:
    octets = raw(frame)
    if "DHCP message" in words:
        octets = octets[:100]  # cut before its type
    assert in_words(octets).startswith(words)


def test_a_tag_beside_a_frame() -> None:
    assert in_words(raw(FRAMES[0][0]), 0x6007).startswith("VLAN 7: ARP who-has")


pieces = st.sampled_from([raw(frame) for frame, _ in FRAMES])


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A frame that is cut, and in which some bytes are others."""
    frame = bytearray(draw(pieces))
    for at in draw(st.lists(st.integers(0, len(frame) - 1), max_size=6)):
        frame[at] = draw(st.integers(0, 255))
    return bytes(frame[: draw(st.integers(0, len(frame)))])


@given(st.one_of(st.binary(max_size=SNAP), bent()), st.one_of(st.none(), st.integers(0, 0xFFFF)))
def test_any_frame_has_words(frame: bytes, tag: int | None) -> None:
    words = in_words(frame, tag)
    assert words.isprintable()
    assert len(words) < 250


_HEAD = struct.Struct("=QIIIi2s2sHBB16sHH16sHHII")  # struct record of abi.h


def packed(
    name: str,
    before: Packet | bytes,
    after: Packet | bytes | None = None,
    *,
    time: int = 1000,
    whose: int = 7,
    verdict: int = PASS,
    said: int = 0,
    reason: int = 0,
    rest: bytes = b"",
) -> bytes:
    """A record, whose address is A. rest: what is behind a head that is shorter than SNAP."""
    heads = [bytes(before), bytes(before if after is None else after)]
    head = _HEAD.pack(
        *(time, whose, *map(len, heads), verdict, b"", b"", said, PROGRAMS.index(name), reason),
        *(ip_address(A).packed, 0, 4, b"", 0, 0, 1, 0),
    )
    return head + b"".join((one + rest)[:SNAP] for one in heads)


def told(
    name: str, before: Packet | bytes, after: Packet | bytes | None = None, **more: int
) -> Record:
    """packed(), read."""
    return record(packed(name, before, after, **more))  # type: ignore[arg-type]


def test_records_survive_the_way() -> None:
    frame, cut = raw(FRAMES[0][0]), raw(FRAMES[0][0])[:20]
    sample = record(trimmed(packed("to_uplink", frame, cut, rest=b"?" * SNAP)))
    assert (sample.name, sample.whose, sample.verdict) == ("to_uplink", 7, PASS)
    assert (sample.before, sample.after) == (frame, cut)
    assert (sample.before_length, sample.after_length) == (len(frame), 20)


@given(st.binary(max_size=2 * SNAP + 100))
def test_nonsense_is_no_record(nonsense: bytes) -> None:
    try:
        record(nonsense)
    except ValueError:
        return
    assert len(nonsense) > _HEAD.size


def story(kind: str = "macvtap", *, macnat: bool = True) -> Correlator:
    return Correlator(Setting("airtap0", GUEST, "wlan0", UPLINK, kind, macnat, True, (A,)))


def lines(teller: Correlator, *records: Record) -> list[tuple[str, tuple[str, ...]]]:
    found: list[Line] = []
    for one in records:
        found += teller.feed(one)
    found += teller.flush(10**12)
    return [(line.direction, line.done) for line in found]


PING = ETHER / IP(src=A, dst=LAN) / ICMP()
SENT = Ether(src=UPLINK, dst=ROUTER) / IP(src=A, dst=LAN) / ICMP()
MAC_CHANGED = f"source MAC {GUEST} -> {UPLINK}"


def test_programs_make_one_line() -> None:
    chain = told("from_guest", PING, said=LEARNED), told("to_uplink", PING, SENT)
    assert lines(story(), *chain) == [("guest -> LAN", (f"learned {A}", MAC_CHANGED))]
    question = ETHER / ARP(hwsrc=GUEST, psrc=A, pdst=LAN)
    answer = Ether(src=UPLINK, dst=ROUTER) / ARP(hwsrc=UPLINK, psrc=A, pdst=LAN)
    asked = (
        told("from_guest", question),
        told("uplink_egress", question, said=COPIED),
        told("to_uplink", question, answer),
    )
    done = ("a copy to the host", MAC_CHANGED, "ARP sender rewritten")
    assert lines(story(), *asked) == [("guest -> LAN", done)]


def test_frames_that_mix_are_told_apart() -> None:
    other = ETHER / IP(src=A, dst="192.0.2.9") / ICMP()
    sent = Ether(src=UPLINK, dst=ROUTER) / IP(src=A, dst="192.0.2.9") / ICMP()
    found = lines(
        story(), told("from_guest", PING), told("to_uplink", PING, SENT), told("from_guest", other)
    )
    assert found[0] == ("guest -> LAN", (MAC_CHANGED,))
    assert found[1][0] == "guest -> sibling"
    assert lines(story(), told("to_uplink", other, sent)) == [("guest -> LAN", (MAC_CHANGED,))]


def test_frames_without_an_up() -> None:
    assert lines(story(macnat=False), told("from_guest", PING)) == [
        ("guest -> LAN", ("passes unchanged",))
    ]
    refused = told("from_guest", PING, said=REFUSED, reason=2)
    assert lines(story(macnat=False), refused) == [
        ("guest -> LAN", (f"hidden from the host: {A} is another guest's",))
    ]
    assert lines(story("ipvtap"), told("to_sibling", SENT, verdict=DROP)) == [
        ("guest -> LAN", ("refused: siblings are kept apart here (mode private)",))
    ]
    left = told("to_sibling", SENT, verdict=DROP, said=WITHHELD)
    assert lines(story("ipvtap"), left) == [
        ("guest -> LAN", ("refused: for no sibling, and not for the host",))
    ]


@pytest.mark.parametrize(
    ("why", "words"),
    [(WITHHELD, "not for the host"), (CONFIGURES, "not for the host, which it would configure")],
)
def test_what_is_kept_from_the_host(why: int, words: str) -> None:
    """Of what goes on to the LAN; what the host alone was to have is refused."""
    observed = story(macnat=False)
    assert lines(observed, told("uplink_egress", PING, said=why)) == [("guest -> LAN", (words,))]
    _, [refused] = lines(observed, told("uplink_egress", PING, said=why, verdict=DROP))[0]
    assert refused.startswith("refused: ")


def test_echoes_of_others_are_not_told() -> None:
    def echo(sender: str) -> Record:
        return told("from_uplink", Ether(src=UPLINK) / ARP(psrc=sender), verdict=DROP, whose=NOBODY)

    assert lines(story(), echo("192.0.2.77")) == []
    assert lines(story(), echo(A)) == [
        ("LAN -> guest", ("dropped: an echo of what this guest sent",))
    ]


def test_what_the_host_sends_past_another_guest_is_not_told() -> None:
    def past(mac: str) -> Record:
        return told("uplink_egress", Ether(src=UPLINK, dst=mac) / IP(src=LAN, dst=A), whose=NOBODY)

    assert lines(story(), past(OTHER)) == []
    to_lan = "not for an address that airtap0 has on this link: to the LAN"
    assert lines(story(), past(GUEST)) == [("host -> guest", (to_lan,))]


def test_malformed_nd_is_said() -> None:
    bad = ETHER / IPv6(src="fe80::1") / ICMPv6ND_NS(tgt="fe80::2") / ICMPv6NDOptSrcLLAddr(len=0)
    found = lines(story(), told("from_guest", bad), told("to_uplink", bad, verdict=DROP))
    why = "refused: ARP, ND or DHCP that cannot be translated whole"
    assert found == [("guest -> LAN", (why,))]


any_record = st.builds(
    told,
    st.sampled_from(PROGRAMS),
    bent().filter(lambda frame: len(frame) >= 14),
    bent().filter(lambda frame: len(frame) >= 14),
    time=st.integers(0, 10**10),
    whose=st.sampled_from([7, EVERYONE, NOBODY]),
    verdict=st.sampled_from([PASS, DROP, REDIRECT, 0]),
    said=st.integers(0, 0xFFFF),
    reason=st.integers(0, 255),
)


@given(st.lists(any_record, max_size=12), st.sampled_from(["macvtap", "ipvtap"]), st.booleans())
def test_any_records_have_words(records: list[Record], kind: str, macnat: bool) -> None:
    teller = story(kind, macnat=macnat)
    for one in records:
        for line in teller.feed(one):
            assert line.done
            assert all(text.isprintable() for text in (line.direction, line.what, *line.done))
    assert len(list(teller.flush(10**12))) <= len(records)


def test_pcapng_blocks_are_aligned() -> None:
    for size in range(14, 20):
        block = pcapng.packet(1, 5, bytes(size), size, "x" * (size - 13))
        kind, length = struct.unpack_from("=II", block)
        assert (kind, length, len(block) % 4) == (6, len(block), 0)
        assert block[-4:] == block[4:8]

"""DHCP messages: what scapy makes of ours, and what we make of anybody's."""

import struct
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP

from airtap.packet import dhcp
from airtap.packet.dhcp import Answer

XID = 0x12345678
MAC = bytes.fromhex("021122334455")
SERVER, ROUTER, YOURS = "192.0.2.2", "192.0.2.1", "192.0.2.100"
NETWORK = IPv4Network("192.0.2.0/24")
GOOD: dict[str, Any] = {
    "message-type": "offer",
    "server_id": SERVER,
    "subnet_mask": "255.255.255.0",
    "router": ROUTER,
}
OFFER = Answer(dhcp.OFFER, IPv4Address(SERVER), IPv4Address(YOURS), NETWORK, (IPv4Address(ROUTER),))


def answer(
    options: dict[str, Any] = GOOD,
    yiaddr: str = YOURS,
    bootp: dict[str, Any] | None = None,
    udp: dict[str, Any] | None = None,
    ip: dict[str, Any] | None = None,
    more: bytes = b"",
) -> bytes:
    """A server's packet, sound but for what is given."""
    head = {"op": 2, "xid": XID, "chaddr": MAC, "yiaddr": yiaddr, **(bootp or {})}
    packet = IP(**{"src": SERVER, "dst": "255.255.255.255", **(ip or {})})
    packet /= UDP(**{"sport": 67, "dport": 68, **(udp or {})})
    return raw(packet / BOOTP(**head) / DHCP(options=[*options.items(), "end"])) + more


def read(packet: bytes) -> Answer | None:
    return dhcp.read(packet, XID, MAC)


def kinds(packet: bytes) -> dict[str, Any]:
    options: list[Any] = IP(packet)[DHCP].options
    return dict(option for option in options if isinstance(option, tuple))


@pytest.mark.parametrize(
    ("packet", "kind", "source", "target"),
    [
        (dhcp.discover(XID, MAC), 1, "0.0.0.0", "255.255.255.255"),
        (dhcp.request(XID, MAC, OFFER), 3, "0.0.0.0", "255.255.255.255"),
        (dhcp.release(XID, MAC, OFFER), 7, YOURS, SERVER),
    ],
)
def test_what_a_client_sends(packet: bytes, kind: int, source: str, target: str) -> None:
    sent = IP(packet)
    options = kinds(packet)
    assert (sent.src, sent.dst, sent[UDP].sport, sent[UDP].dport) == (source, target, 68, 67)
    assert (sent[BOOTP].op, sent[BOOTP].xid, sent[BOOTP].chaddr[:6]) == (1, XID, MAC)
    assert options["message-type"] == kind
    assert options["client_id"] == b"\x01" + MAC
    assert bool(sent[BOOTP].flags & 0x8000) == (kind != 7), "without an address, answers to all"
    assert sent[BOOTP].ciaddr == (YOURS if kind == 7 else "0.0.0.0")
    assert options.get("requested_addr") == (YOURS if kind == 3 else None)
    assert options.get("server_id") == (None if kind == 1 else SERVER)
    assert len(packet) >= 20 + 8 + 300, "some servers ignore shorter ones"
    sent[IP].chksum = sent[UDP].chksum = None
    assert raw(IP(raw(sent))) == packet, "length and checksums are right"


def test_offer_and_ack() -> None:
    assert read(answer()) == OFFER
    ack = read(answer({**GOOD, "message-type": "ack"}))
    assert ack is not None
    assert ack.kind == dhcp.ACK


def test_padding_behind_the_packet() -> None:
    assert read(answer(more=bytes(18))) == OFFER


def test_without_a_checksum() -> None:
    assert read(answer(udp={"chksum": 0})) == OFFER


def test_nak() -> None:
    nak = read(answer({"message-type": "nak", "server_id": SERVER}, yiaddr="0.0.0.0"))
    assert nak is not None
    assert (nak.kind, nak.address) == (dhcp.NAK, dhcp.ANYBODY)


def test_without_mask_and_router() -> None:
    """Nothing is on the link then, and nothing is assumed."""
    few = read(answer({"message-type": "offer", "server_id": SERVER}))
    assert few is not None
    assert (few.network, few.routers) == (IPv4Network(f"{YOURS}/32"), ())


def test_options_in_the_file_and_name_fields() -> None:
    """RFC 2131, 4.1: option overload."""
    routers = bytes((3, 4)) + IPv4Address(ROUTER).packed + b"\xff"
    mask = bytes((1, 4, 255, 255, 255, 0, 255))
    options = {"message-type": "offer", "server_id": SERVER, "dhcp-option-overload": 3}
    assert read(answer(options, bootp={"file": routers, "sname": mask})) == OFFER
    cut = routers[:4].rjust(128, b"\0")
    assert read(answer(options, bootp={"file": cut})) is None


@pytest.mark.parametrize(
    "packet",
    [
        answer(bootp={"op": 1}),
        answer(bootp={"xid": XID + 1}),
        answer(bootp={"chaddr": MAC[::-1]}),
        answer(bootp={"htype": 6}),
        answer(bootp={"hlen": 16}),
        answer(bootp={"options": b"\x63\x82\x53\x64"}),
        answer(udp={"dport": 67}),
        answer(udp={"sport": 1067}),
        answer(udp={"chksum": 0x1234}),
        answer(udp={"len": 40}),
        answer(ip={"chksum": 0x1234}),
        answer(ip={"flags": "MF"}),
        answer(ip={"frag": 3}),
        answer(ip={"proto": 6}),
        answer(ip={"version": 6}),
        answer(ip={"ihl": 4}),
        answer(ip={"len": 27}),
        answer(ip={"len": 1400}),
        answer(more=bytes(1500)),
        answer({**GOOD, "message-type": 1}),
        answer({**GOOD, "server_id": "0.0.0.0"}),
        answer({**GOOD, "server_id": "255.255.255.255"}),
        answer({**GOOD, "subnet_mask": "255.0.255.0"}),
        answer({**GOOD, "subnet_mask": "0.0.0.0"}),
        answer({key: value for key, value in GOOD.items() if key != "server_id"}),
        answer(yiaddr="0.0.0.0"),
        answer(yiaddr="127.0.0.1"),
        answer(yiaddr="224.0.0.1"),
        answer(yiaddr="255.255.255.255"),
        answer(yiaddr="192.0.2.255"),
        answer(yiaddr="192.0.2.0"),
    ],
)
def test_what_is_no_answer(packet: bytes) -> None:
    assert read(packet) is None


SOUND = answer()


def is_sane(found: Answer | None) -> bool:
    if found is None or found.kind == dhcp.NAK:
        return True
    hosts = (found.address, found.server, *found.routers)
    return (
        found.kind in (dhcp.OFFER, dhcp.ACK)
        and found.address in found.network
        and len(found.routers) <= 8
        and not any(
            host.is_multicast or host.is_loopback or host.is_unspecified or host == dhcp.BROADCAST
            for host in hosts
        )
    )


@settings(max_examples=500)
@example(b"")
@example(b"\x45")
@given(st.binary(max_size=2000))
def test_any_bytes(packet: bytes) -> None:
    assert is_sane(read(packet))


def with_sums(message: bytes) -> bytes:
    """A sound packet around whatever is in it, so that it gets as far as it can."""
    return raw(IP(src=SERVER, dst=YOURS) / UDP(sport=67, dport=68) / message)


# The options that every offer has: its kind and its server.
FIRST = b"\x35\x01\x02\x36\x04\xc0\x00\x02\x02"
HEAD = raw(BOOTP(op=2, xid=XID, chaddr=MAC, yiaddr=YOURS, options=b"\x63\x82\x53\x63"))


def test_routers_that_are_none_and_too_many() -> None:
    routers = ["0.0.0.0", "224.0.0.1", *(f"192.0.2.{n}" for n in range(1, 60))]
    option = b"".join(IPv4Address(router).packed for router in routers)
    mask = bytes((1, 4, 255, 255, 255, 0))
    found = read(with_sums(HEAD + FIRST + mask + bytes((3, len(option))) + option))
    assert found is not None
    assert [str(router) for router in found.routers] == routers[2:8]


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_options(options: bytes) -> None:
    assert is_sane(read(with_sums(HEAD + options)))


OPTION = st.tuples(
    st.sampled_from([0, 1, 3, 50, 52, 53, 54, 55, 61, 255]), st.binary(max_size=12)
).map(lambda option: struct.pack("BB", option[0], len(option[1])) + option[1])


@settings(max_examples=300)
@given(
    st.lists(OPTION, max_size=12),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=100),
    st.integers(0, 3),
)
def test_likely_options(options: list[bytes], yours: bytes, file: bytes, overload: int) -> None:
    told = FIRST + bytes((52, 1, overload)) + b"".join(options)
    head = bytearray(HEAD)
    head[16:20] = yours
    head[108 : 108 + len(file)] = file
    found = read(with_sums(bytes(head) + told))
    assert is_sane(found)
    if found and found.kind != dhcp.NAK:
        assert found.address.packed == yours


@settings(max_examples=500)
@given(st.integers(0, len(SOUND) - 1), st.integers(0, 255))
def test_one_byte_wrong(at: int, value: int) -> None:
    """UDP's checksum is over all but IP's time to live and the like, which its own is over."""
    packet = bytearray(SOUND)
    changed = packet[at] != value
    packet[at] = value
    found = read(bytes(packet))
    assert is_sane(found)
    # Two bytes of zero are no checksum; one of them at a time can come about.
    assert found is None or not changed or packet[26:28] == b"\0\0"


@given(st.integers(0, 400))
def test_cut(length: int) -> None:
    packet = SOUND[:length]
    assert read(packet) is None or length >= len(SOUND)

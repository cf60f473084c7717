"""`airtap parent`, its questions and what it reads of nl80211, without root and without a radio."""

import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address

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

from airtap import cli
from airtap.kernel.netlink import attribute, attributes
from airtap.kernel.nl80211 import ssid
from airtap.kernel.nl80211_events import changed
from airtap.names import octets as mac_octets
from airtap.packet.ndp import link_local
from airtap.packet.neighbour import answering_mac, is_answer, solicitation

OWN, ROUTER, OTHER = (f"02:00:00:00:00:{n:02x}" for n in (1, 2, 3))
ROUTER4, ROUTER6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::12:3456")
ARP_ANSWER = Ether(src=ROUTER, dst=OWN) / ARP(
    op=2, hwsrc=ROUTER, psrc=str(ROUTER4), hwdst=OWN, pdst="0.0.0.0"
)
ND_ANSWER = (
    Ether(src=ROUTER, dst=OWN)
    / IPv6(src=str(ROUTER6), dst=str(link_local(mac_octets(OWN))), hlim=255)
    / ICMPv6ND_NA(tgt=str(ROUTER6))
)


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["airtap", "parent", *argv])
    return cli.main()


@pytest.mark.parametrize(
    "argv",
    [(), ("4addr",), ("4addr", "wlan0"), ("4addr", "wlan0", "maybe"), ("6addr", "wlan0", "on")],
)
def test_wrong_command_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *argv)
    assert ended.value.code == 2
    assert "usage: airtap parent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        ("lo", "lo is no Wi-Fi station"),
        ("nosuchdevice0", "there is no network device nosuchdevice0"),
        ("a/b", "'a/b' cannot be the name of a network device"),
        ("sixteen-letters!", "too long"),
    ],
)
@pytest.mark.parametrize("mode", ["on", "off"])
def test_unfit_devices(device: str, complaint: str, mode: str) -> None:
    """In a process of its own, as the command takes over signals."""
    code = "import sys; from airtap import cli; sys.exit(cli.main())"
    argv = [sys.executable, "-c", code, "parent", "4addr", device, mode]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("airtap: ")
    assert complaint in done.stderr


def test_arp_question() -> None:
    asked = Ether(solicitation(ROUTER4, OWN))
    assert (asked.src, asked.dst) == (OWN, "ff:ff:ff:ff:ff:ff")
    assert (asked[ARP].op, asked[ARP].hwsrc) == (1, OWN)
    assert (asked[ARP].psrc, asked[ARP].pdst) == ("0.0.0.0", str(ROUTER4))


def test_nd_question() -> None:
    frame = solicitation(ROUTER6, OWN)
    asked = Ether(frame)
    assert (asked.src, asked.dst) == (OWN, "33:33:ff:12:34:56")
    assert (asked[IPv6].src, asked[IPv6].dst) == ("fe80::ff:fe00:1", "ff02::1:ff12:3456")
    assert asked[IPv6].hlim == 255
    assert asked[ICMPv6ND_NS].tgt == str(ROUTER6)
    assert asked[ICMPv6NDOptSrcLLAddr].lladdr == OWN
    checksum = asked[ICMPv6ND_NS].cksum
    del asked[ICMPv6ND_NS].cksum
    assert Ether(bytes(asked))[ICMPv6ND_NS].cksum == checksum


@pytest.mark.parametrize(("frame", "address"), [(ARP_ANSWER, ROUTER4), (ND_ANSWER, ROUTER6)])
def test_answers(frame: Packet, address: IPv4Address | IPv6Address) -> None:
    octets = bytes(frame)
    assert is_answer(octets, address, OWN)
    assert answering_mac(octets, address, OWN) == ROUTER
    assert not is_answer(octets, address, OTHER)
    assert not is_answer(octets, address + 1, OWN)
    assert not any(is_answer(octets[:cut], address, OWN) for cut in range(32))


def test_an_advertisement_may_name_the_mac() -> None:
    named = ND_ANSWER / ICMPv6NDOptDstLLAddr(lladdr=OTHER)
    assert answering_mac(bytes(named), ROUTER6, OWN) == OTHER
    assert answering_mac(bytes(named)[:-1], ROUTER6, OWN) == ROUTER


@pytest.mark.parametrize(
    "frame",
    [
        # The router asks, by unicast: that passes an access point which drops what we send.
        Ether(src=ROUTER, dst=OWN) / ARP(op=1, hwsrc=ROUTER, psrc=str(ROUTER4), pdst="192.0.2.9"),
        Ether(src=ROUTER, dst=OWN)
        / IPv6(src=str(ROUTER6), hlim=255)
        / ICMPv6ND_NS(tgt=str(ROUTER6)),
        Ether(src=ROUTER, dst="ff:ff:ff:ff:ff:ff")
        / ARP(op=2, hwsrc=ROUTER, psrc=str(ROUTER4), pdst=str(ROUTER4)),
        Ether(src=ROUTER, dst=OWN) / Dot1Q(vlan=7) / ARP_ANSWER.payload,
        Ether(solicitation(ROUTER4, OWN)),
        Ether(solicitation(ROUTER6, OWN)),
    ],
)
def test_no_answers(frame: Packet) -> None:
    for address in (ROUTER4, ROUTER6):
        assert not is_answer(bytes(frame), address, OWN)


@pytest.mark.parametrize("mac", [OWN, "52:54:00:12:34:56", "ff:ff:ff:ff:ff:fe"])
def test_link_local(mac: str) -> None:
    first, *rest = bytes.fromhex(mac.replace(":", ""))
    last = (
        f"{first ^ 2:02x}{rest[0]:02x}:{rest[1]:02x}ff:fe{rest[2]:02x}:{rest[3]:02x}{rest[4]:02x}"
    )
    assert link_local(mac_octets(mac)) == ip_address(f"fe80::{last}")


def test_attributes() -> None:
    octets = attribute(3, b"\1\0\0\0") + attribute(0x8000 | 47, b"abcde") + attribute(52, b"")
    assert attributes(octets) == {3: b"\1\0\0\0", 47: b"abcde", 52: b""}
    assert len(octets) == 8 + 12 + 4
    assert attributes(b"\2\0\3\0" + octets) == {}  # shorter than its own head: no way on
    assert attributes(octets + b"\xff") == attributes(octets)


@pytest.mark.parametrize(
    ("elements", "name"),
    [
        (b"\0\3lab\1\1\x82", b"lab"),
        (b"\1\1\x82\0\3\xff\0\1", b"\xff\0\1"),
        (b"\0\0\1\1\x82", b""),
        (b"\1\1\x82", b""),
        (b"\0", b""),
        (b"\1\xff\0\3lab", b""),  # an element that is longer than what follows
        (b"", b""),
    ],
)
def test_ssid(elements: bytes, name: bytes) -> None:
    assert ssid(elements) == name


def message(kind: int, body: bytes) -> bytes:
    return (
        (16 + len(body)).to_bytes(4, sys.byteorder)
        + kind.to_bytes(2, sys.byteorder)
        + bytes(10)
        + body
    )


def test_events() -> None:
    family, head = 28, b"\6\1\0\0"
    about = head + attribute(3, (7).to_bytes(4, sys.byteorder))
    radio = head + attribute(1, bytes(4))
    packet = message(family, about) + message(family, radio) + message(family + 1, about)
    assert changed(packet, family) == [7]
    assert changed(packet + message(family, about), family) == [7, 7]
    assert changed(packet[:20], family) == []
    assert changed(bytes(40), family) == []

"""What the programs hand to the host and to its guests, and what they leave to the wire."""

from scapy.compat import raw
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from airtap.bpf.attach import Role
from airtap.kernel.addresses import Prefix
from airtap.trace.correlate import CONFIGURES, COPIED, WITHHELD
from tests.bpf.meeting import (
    A6,
    ALL,
    BRIDGES,
    EVERYBODY,
    FAR,
    FREE,
    HOST,
    HOST6,
    LAN,
    MAC_A,
    MAC_B,
    MARK_FROM_GUEST,
    MARK_PASSED,
    OTHER_MARK,
    PARENT,
    ROUTER,
    STRANGER,
    UPLINK,
    A,
    B,
    begin,
    ether,
    ipv4,
    said,
    sent,
)
from tests.bpf.rig import Outcome, Rig


def answer(client: str, address: str) -> Packet:
    """What a DHCP server answers a client, at the address that it offers."""
    message = BOOTP(op=2, chaddr=bytes.fromhex(client.replace(":", "")), yiaddr=address)
    return IP(src=HOST, dst=address) / UDP(sport=67, dport=68) / message


def from_host(rig: Rig) -> None:
    """The host's frames for a guest go to it, and to nobody who only has the MAC."""
    a, _ = begin(rig, "macvtap")

    def reached(packet: Packet, **how: int) -> int:
        outcome = rig.run("uplink_egress", ether(UPLINK, MAC_A, packet), PARENT, **how)
        assert outcome.passed
        return outcome.to

    solicitation = IPv6(src=HOST6, dst="ff02::1:ff00:a") / ICMPv6ND_NS(tgt=A6)
    assert reached(ipv4(HOST, A)) == a
    assert reached(ARP(op=1, hwsrc=UPLINK, psrc=HOST, pdst="192.0.2.77")) == a
    assert reached(ARP(op=1, hwsrc=UPLINK, psrc=HOST, pdst=A)) == a
    assert reached(solicitation) == a
    assert reached(answer(MAC_A, FREE)) == a
    for packet in (
        answer(MAC_A, B),
        answer(MAC_A, HOST),
        answer(MAC_B, FREE),
        ipv4(HOST, B),
        ipv4(HOST, FAR),
        ipv4(HOST, "192.0.2.77"),
        ipv4(LAN, HOST),
        ARP(op=1, hwsrc=UPLINK, psrc=HOST, pdst=B),
        ARP(op=1, hwsrc=UPLINK, psrc=LAN, pdst=HOST),
        IPv6(src=HOST6, dst=A6) / UDP(),
        Dot1Q(vlan=0) / ipv4(HOST, A),
    ):
        assert reached(packet) == 0
    assert reached(ipv4(HOST, A), tag=0x2000) == 0
    frame = ether(UPLINK, MAC_A, ipv4(HOST, A))
    outcome = rig.run("uplink_egress", frame, PARENT, mark=MARK_FROM_GUEST)
    assert (outcome.passed, outcome.to, outcome.mark) == (True, 0, 0)
    for index in rig.devices[:2]:
        rig.macnat.owners.note(index, "one guest")
    assert reached(ipv4(HOST, B)) == a, "its other card's"
    assert reached(ipv4(HOST, FAR)) == 0


def marks(rig: Rig) -> None:
    """What from_guest passes is marked, and nothing else, and nothing is where it leaves."""
    for kind, translate in (("macvtap", True), ("macvtap", False), ("ipvtap", True)):
        a, _ = begin(rig, kind, translate)
        hidden = kind == "macvtap" and not translate
        for source, address, passes in (
            (MAC_A, A, True),
            (MAC_A, A, True),
            (MAC_A, "192.0.2.105", True),
            (MAC_A, HOST, False),
            (MAC_A, B, False),
            (STRANGER, A, False),
        ):
            frame = ether(source, ROUTER, ipv4(address, LAN))
            outcome = rig.run("from_guest", frame, a, mark=MARK_PASSED)
            assert outcome.passed == (passes or hidden)
            assert outcome.mark == (MARK_PASSED if passes else 0)
        forged = ether(UPLINK, ROUTER, ipv4(A, LAN))
        assert not rig.run("from_guest", forged, a).passed
        for mark, after in ((MARK_PASSED, 0), (MARK_FROM_GUEST,) * 2, (OTHER_MARK,) * 2):
            outcome = rig.run("to_uplink", ether(MAC_A, ROUTER, ipv4(A, LAN)), a, mark=mark)
            assert (outcome.passed, outcome.mark) == (True, after)


def unmarked(rig: Rig) -> None:
    """What from_guest has not passed is the wire's alone, and what has come in since."""
    for translate in (True, False):
        begin(rig, "macvtap", translate)
        for to in (UPLINK, ALL):
            frame = ether(MAC_A, to, ipv4(A, HOST))
            for mark, came_in in ((0, 0), (OTHER_MARK, 0), (0x6170, 0), (MARK_PASSED, 1)):
                outcome = rig.run("uplink_egress", frame, PARENT, mark=mark, came_in=came_in)
                assert (outcome.passed, outcome.to, outcome.frame) == (True, 0, frame)
                assert outcome.mark == (0 if mark == MARK_PASSED else mark)
                assert said(rig) == 0
    a, _ = begin(rig, "ipvtap")
    for to in (UPLINK, ALL):
        outcome = rig.run("to_host", ether(MAC_A, to, ipv4(A, HOST)), a)
        assert (outcome.passed, outcome.to, said(rig)) == (True, 0, 0)


def groups(rig: Rig) -> None:
    """Copies of broadcasts go both ways, of what is for the link itself none."""
    begin(rig, "macvtap")
    for source, to, mark, notes in (
        (UPLINK, ALL, OTHER_MARK, COPIED),
        (UPLINK, BRIDGES, OTHER_MARK, 0),
        (MAC_A, ALL, MARK_PASSED, COPIED),
        (MAC_A, BRIDGES, MARK_PASSED, 0),
        (STRANGER, ALL, MARK_PASSED, 0),
    ):
        frame = ether(source, to, ipv4(A, "255.255.255.255"))
        outcome = rig.run("uplink_egress", frame, PARENT, mark=mark)
        assert (outcome.passed, outcome.to, outcome.frame) == (True, 0, frame)
        assert (outcome.mark, said(rig)) == (OTHER_MARK if mark == OTHER_MARK else 0, notes)
    rig.macnat.host_access.remove(MAC_A)
    rig.macnat.host_access.remove(MAC_B)
    rig.run("uplink_egress", ether(UPLINK, ALL, ipv4(HOST, "255.255.255.255")), PARENT)
    assert said(rig) == 0


def to_host(rig: Rig) -> None:
    """A macvtap's guest reaches the host at the uplink's MAC, marked where the mark is read."""
    for translate, mark in ((True, MARK_FROM_GUEST), (False, 0)):
        begin(rig, "macvtap", translate)
        outcome = sent(rig, ether(MAC_A, UPLINK, ipv4(A, HOST)))
        assert (outcome.passed, outcome.to, outcome.mark) == (True, PARENT, mark)
        for source, to in ((MAC_A, ROUTER), (STRANGER, UPLINK)):
            outcome = sent(rig, ether(source, to, ipv4(A, HOST)))
            assert (outcome.passed, outcome.to, outcome.mark) == (True, 0, 0)
        eapol = raw(Ether(src=MAC_A, dst=UPLINK, type=0x888E) / b"\1\2\0\0")
        outcome = sent(rig, eapol)
        assert (outcome.passed, outcome.to) == (True, 0)
    frame = ether(ROUTER, UPLINK, ipv4(LAN, A))
    outcome = rig.run("from_uplink", frame, PARENT, mark=MARK_FROM_GUEST)
    assert (outcome.passed, outcome.frame, outcome.mark) == (True, frame, 0)


def from_ipvtap(rig: Rig) -> None:
    """What an ipvtap's guest sends to the uplink's MAC is the host's if it is no sibling's."""
    a, _ = begin(rig, "ipvtap")

    def at_uplink(packet: Packet, source: str = MAC_A, tag: int | None = None) -> int:
        """Where it goes: PARENT, or 0 if it is left to to_sibling."""
        return sent_to(UPLINK, packet, source, tag).to

    def sent_to(to: str, packet: Packet, source: str = MAC_A, tag: int | None = None) -> Outcome:
        outcome = rig.run("to_host", ether(source, to, packet), a, tag, mark=MARK_PASSED)
        assert outcome.passed and outcome.mark == MARK_FROM_GUEST
        return outcome

    for packet in (
        ipv4(A, HOST),
        ipv4(A, "203.0.113.9"),
        ARP(hwsrc=MAC_A, psrc=A, pdst=HOST),
    ):
        assert at_uplink(packet) == PARENT
    for packet in (
        ipv4(A, B),
        ARP(hwsrc=MAC_A, psrc=A, pdst=B),
        ARP(hwsrc=MAC_A, psrc=A, pdst=FREE),
        Dot1Q(vlan=0) / ipv4(A, HOST),
    ):
        assert at_uplink(packet) == 0
    rig.macnat.behind.set({Prefix(4, 8, 203 << 24): MAC_B})
    assert at_uplink(ipv4(A, "203.0.113.9")) == 0
    assert at_uplink(ipv4(A, HOST), tag=0x2000) == 0
    assert at_uplink(ipv4(A, HOST), source=STRANGER) == 0
    assert sent_to(ROUTER, ipv4(A, HOST)).to == 0
    assert said(rig) == 0
    assert sent_to(ALL, ipv4(A, "255.255.255.255")).to == 0
    assert said(rig) == COPIED
    sent_to(BRIDGES, ipv4(A, "255.255.255.255"))
    assert said(rig) == 0
    for packet, why in (
        (IP(src=A, dst=HOST) / UDP(sport=1067, dport=68), CONFIGURES),
        (Raw(bytes(20)), WITHHELD),
    ):
        frame = ether(MAC_A, UPLINK, packet)
        assert not rig.run("to_host", frame, a, mark=MARK_PASSED).passed
        assert said(rig) == why


def left_over(rig: Rig) -> None:
    """What to_host leaves at the uplink's MAC, and is no sibling's, is not left to the ipvlan."""
    a, _ = begin(rig, "ipvtap")
    advertisement = IPv6(src=A6, dst=HOST6) / ICMPv6ND_RA()
    for mode in ("bridge", "private", "vepa"):
        rig.macnat.config.set_role(Role("ipvtap", host_access=False), mode)
        for packet, tag in (
            (ipv4(A, HOST), None),
            (ipv4(A, HOST), 0x2000),
            (ipv4(A, HOST), 5),
            (Dot1Q(vlan=0) / advertisement, None),
            (Dot1Q(vlan=5) / advertisement, None),
            (Dot1Q(vlan=5) / Dot1Q(vlan=0) / advertisement, None),
            (advertisement, None),
            (ipv4(A, A), None),
            (ipv4(A, EVERYBODY), None),
            (ARP(hwsrc=UPLINK, psrc=A, pdst=HOST), None),
            (Raw(bytes(20)), None),
        ):
            frame = ether(UPLINK, UPLINK, packet)
            outcome = rig.run("to_sibling", frame, a, tag, mark=MARK_FROM_GUEST)
            assert (outcome.passed, outcome.to) == (mode == "vepa", 0)
            assert said(rig) == (0 if mode == "vepa" else WITHHELD)


def leases(rig: Rig) -> None:
    """A DHCP server's answer to the host is the host's, whoever has the address."""
    a, _ = begin(rig, "ipvtap")

    def offered(address: str, client: str) -> Outcome:
        message = BOOTP(op=2, yiaddr=address, chaddr=bytes.fromhex(client.replace(":", "")))
        packet = IP(src=LAN, dst=address) / UDP(sport=67, dport=68) / message
        return rig.run("from_uplink", ether(ROUTER, UPLINK, packet), PARENT)

    frame = offered(A, UPLINK)
    assert (frame.to, frame.frame[:6].hex(":")) == (0, UPLINK)
    assert offered(A, MAC_A).to == a
    assert offered(A, MAC_B).frame[:6].hex(":") == ALL
    # Without MAC NAT a guest has the uplink's own MAC.
    rig.macnat.config.set_role(Role("ipvtap", translate=False), "bridge")
    rig.macnat.guests.add(a, UPLINK)
    assert offered(A, UPLINK).to == a

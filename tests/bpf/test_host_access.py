"""What host_access.h hands to whom, and that a bent line of it, or of what it asks, is noticed."""

from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from scapy.compat import raw
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from airtap.bpf.role import Role
from airtap.bpf.trace_record import NOBODY, record
from airtap.trace.correlate import CONFIGURES, COPIED
from tests.bpf.mutants import judged
from tests.bpf.rig import Outcome, Rig

UPLINK, ROUTER = "02:00:00:00:00:01", "02:00:00:00:00:03"
MAC_A, MAC_B, STRANGER = "02:00:00:00:0a:01", "02:00:00:00:0b:01", "02:00:00:00:0c:01"
ALL, BRIDGES, GROUP6 = "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:0e", "33:33:00:00:00:01"
A, B, HOST, LAN, FAR = "192.0.2.100", "192.0.2.200", "192.0.2.10", "192.0.2.1", "198.51.100.7"
A6, HOST6 = "2001:db8::a", "fe80::1"
PARENT = 1
MARK_FROM_GUEST, MARK_REFUSED, OTHER_MARK = 0x6169, 0x6170, 0x1234


def ether(source: str, to: str, packet: Packet) -> bytes:
    return raw(Ether(src=source, dst=to) / packet)


def ipv4(source: str, target: str) -> Packet:
    return IP(src=source, dst=target) / UDP(sport=9, dport=9)


def begin(rig: Rig, kind: str, translate: bool = True) -> tuple[int, int]:
    """Two guests that the host may reach, and their addresses. Returns their ifindexes."""
    rig.reset()
    a, b = rig.devices[:2]
    rig.macnat.config.set_role(Role(kind, translate, host_access=True), "bridge")
    rig.macnat.config.set_parent(PARENT, UPLINK)
    rig.macnat.hosts.set_addresses({IPv4Address(HOST), IPv6Address(HOST6)}, set())
    rig.macnat.hosts.set_on_link({IPv4Network("10.0.0.0/8"), IPv4Network("192.0.2.0/24")})
    for index, mac, addresses in ((a, MAC_A, (A, FAR)), (b, MAC_B, (B,))):
        rig.macnat.guests.add(index, mac)
        rig.macnat.host_access.add(mac, index)
        for address in addresses:
            rig.run("from_guest", ether(mac, ROUTER, ipv4(address, LAN)), index)
    rig.run("from_guest", ether(MAC_A, ROUTER, IPv6(src=A6, dst=HOST6) / UDP()), a)
    for index, guest in ((a, MAC_A), (b, MAC_B), (NOBODY, None)):
        rig.macnat.tracer.add(index, guest)
    rig.macnat.tracer.read(10_000)
    return a, b


def said(rig: Rig) -> int:
    """The notes of the frame that was run last."""
    found = [record(packed).said for packed in rig.macnat.tracer.read(10_000)]
    return found[-1] if found else 0


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
    for packet in (
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
    for mark in (MARK_FROM_GUEST, MARK_REFUSED):
        frame = ether(UPLINK, MAC_A, ipv4(HOST, A))
        outcome = rig.run("uplink_egress", frame, PARENT, mark=mark)
        assert (outcome.passed, outcome.to, outcome.mark) == (True, 0, 0)


def groups(rig: Rig) -> None:
    """Copies of broadcasts go both ways, of what is for the link itself none."""
    begin(rig, "macvtap")
    for source, to, notes in (
        (UPLINK, ALL, COPIED),
        (UPLINK, BRIDGES, 0),
        (MAC_A, ALL, COPIED),
        (MAC_A, BRIDGES, 0),
        (STRANGER, ALL, 0),
    ):
        frame = ether(source, to, ipv4(A, "255.255.255.255"))
        outcome = rig.run("uplink_egress", frame, PARENT, mark=OTHER_MARK)
        assert (outcome.passed, outcome.to, outcome.frame) == (True, 0, frame)
        assert (outcome.mark, said(rig)) == (OTHER_MARK, notes)
    rig.macnat.host_access.remove(MAC_A)
    rig.macnat.host_access.remove(MAC_B)
    rig.run("uplink_egress", ether(UPLINK, ALL, ipv4(HOST, "255.255.255.255")), PARENT)
    assert said(rig) == 0


def to_host(rig: Rig) -> None:
    """A macvtap's guest reaches the host at the uplink's MAC, marked where the mark is read."""
    for translate, mark in ((True, MARK_FROM_GUEST), (False, 0)):
        begin(rig, "macvtap", translate)
        outcome = rig.run("uplink_egress", ether(MAC_A, UPLINK, ipv4(A, HOST)), PARENT)
        assert (outcome.passed, outcome.to, outcome.mark) == (True, PARENT, mark)
        for source, to in ((MAC_A, ROUTER), (STRANGER, UPLINK)):
            outcome = rig.run("uplink_egress", ether(source, to, ipv4(A, HOST)), PARENT)
            assert (outcome.passed, outcome.to, outcome.mark) == (True, 0, 0)
        eapol = raw(Ether(src=MAC_A, dst=UPLINK, type=0x888E) / b"\1\2\0\0")
        assert rig.run("uplink_egress", eapol, PARENT).to == 0
    frame = ether(ROUTER, UPLINK, ipv4(LAN, A))
    outcome = rig.run("from_uplink", frame, PARENT, mark=MARK_FROM_GUEST)
    assert (outcome.passed, outcome.frame, outcome.mark) == (True, frame, 0)


def configuring(rig: Rig) -> None:
    """What would configure the host does not reach it: dropped, and of broadcasts no copy."""
    begin(rig, "macvtap")
    server = UDP(sport=67, dport=68)
    options = IP(src=A, dst=HOST, options=[b"\1\1\1\1"])
    for packet, configures in (
        (IP(src=A, dst=HOST) / server, True),
        (options / server, True),
        (IP(src=A, dst=HOST, flags="MF") / server, True),
        (IP(src=A, dst=HOST, frag=1) / server, False),
        (IP(src=A, dst=HOST) / UDP(sport=68, dport=67), False),
        (IP(src=A, dst=HOST) / TCP(sport=67, dport=9), False),
        (IPv6(src=A6, dst=HOST6) / UDP(sport=547, dport=546), True),
        (IPv6(src=A6, dst=HOST6) / UDP(sport=546, dport=547), False),
        (IPv6(src=A6, dst=HOST6) / TCP(sport=547, dport=9), False),
        (IPv6(src=A6, dst=HOST6) / ICMPv6ND_RA(), True),
        (IPv6(src=A6, dst=HOST6) / ICMPv6ND_Redirect(), True),
        (IPv6(src=A6, dst=HOST6) / ICMPv6ND_NA(tgt=A6), False),
        (IPv6(src=A6, dst=HOST6) / ICMPv6ND_NS(tgt=HOST6), False),
        (ARP(hwsrc=MAC_A, psrc=A, pdst=HOST), False),
    ):
        outcome = rig.run("uplink_egress", ether(MAC_A, UPLINK, packet), PARENT)
        assert (outcome.passed, outcome.to) == (not configures, 0 if configures else PARENT)
        outcome = rig.run("uplink_egress", ether(MAC_A, GROUP6, packet), PARENT)
        assert (outcome.passed, outcome.to) == (True, 0)
        assert said(rig) == (CONFIGURES if configures else COPIED)


def from_ipvtap(rig: Rig) -> None:
    """What an ipvtap's guest sends to the uplink's MAC is the host's if it is no sibling's."""
    a, _ = begin(rig, "ipvtap")

    def sent(to: str, packet: Packet, source: str = MAC_A, tag: int | None = None) -> Outcome:
        outcome = rig.run("to_host", ether(source, to, packet), a, tag)
        assert outcome.passed and outcome.mark == MARK_FROM_GUEST
        return outcome

    for packet in (
        ipv4(A, HOST),
        ipv4(A, "203.0.113.9"),
        ARP(hwsrc=MAC_A, psrc=A, pdst=HOST),
        Raw(bytes(20)),
    ):
        assert sent(UPLINK, packet).to == PARENT
    for packet in (
        ipv4(A, B),
        ARP(hwsrc=MAC_A, psrc=A, pdst=B),
        ARP(hwsrc=MAC_A, psrc=A, pdst="192.0.2.77"),
        Dot1Q(vlan=0) / ipv4(A, HOST),
    ):
        assert sent(UPLINK, packet).to == 0
    assert sent(UPLINK, ipv4(A, HOST), tag=0x2000).to == 0
    assert sent(UPLINK, ipv4(A, HOST), source=STRANGER).to == 0
    assert sent(ROUTER, ipv4(A, HOST)).to == 0
    assert said(rig) == 0
    assert sent(ALL, ipv4(A, "255.255.255.255")).to == 0
    assert said(rig) == COPIED
    sent(BRIDGES, ipv4(A, "255.255.255.255"))
    assert said(rig) == 0


CHECKS = (from_host, groups, to_host, configuring, from_ipvtap)
MUTANTS = {
    "another guest's address": (
        "if (is_host(&key) || (entry && entry->ifindex != ifindex))",
        "if (is_host(&key))",
    ),
    "the host's own address": (
        "if (is_host(&key) || (entry && entry->ifindex != ifindex))",
        "if (entry && entry->ifindex != ifindex)",
    ),
    "addresses behind a router": ("return entry && is_on_link(&key);", "return entry;"),
    "addresses that nobody has": ("return entry && is_on_link(&key);", "return is_on_link(&key);"),
    "no ARP to guests": (
        "if (f.proto == bpf_htons(ETH_P_ARP) ||\n\t    (f.proto == bpf_htons(ETH_P_IPV6) &&",
        "if ((f.proto == bpf_htons(ETH_P_IPV6) &&",
    ),
    "no solicitations to guests": (
        "(f.proto == bpf_htons(ETH_P_IPV6) && is_solicitation(skb, f.l3)))",
        "0)",
    ),
    "prefixes of any family": ("if (p->family != key->family)", "if (0)"),
    "prefixes without their mask": (") & p->mask[word];", ");"),
    "the first prefix alone": ("if (!differs)\n\t\t\treturn true;", "return !differs;"),
    "DHCP servers of IPv4": ("return is_from_dhcp_server(skb, f.l3);", "return false;"),
    "DHCP servers of IPv6": (
        "return is_from_port(skb, f.l3 + sizeof(ip6), DHCPV6_SERVER);",
        "return false;",
    ),
    "port 67 of TCP": (" || ip.protocol != IPPROTO_UDP ||\n\t    ip.frag_off", " || ip.frag_off"),
    "port 67 in later fragments": (" ||\n\t    ip.frag_off & bpf_htons(0x1fff))", ")"),
    "port 67 of first fragments": (
        "ip.frag_off & bpf_htons(0x1fff))",
        "ip.frag_off & bpf_htons(0x3fff))",
    ),
    "port 67 behind IP options": (
        "is_from_port(skb, l3 + ip.ihl * 4,",
        "is_from_port(skb, l3 + 20,",
    ),
    "DHCP clients": ("#define BOOTPS 67", "#define BOOTPS 68"),
    "router advertisements": ("type == ND_ROUTER_ADVERT ||", ""),
    "redirects": ("||\n\t       type == ND_REDIRECT;", ";"),
    "copies that configure": (
        "note_handed(SAID_CONFIGURES);\n\t\treturn PASS;",
        "note_handed(SAID_CONFIGURES);",
    ),
    "copies change the frame": (
        "return bpf_skb_store_bytes(skb, 0, group, ETH_ALEN, 0) ? DROP : PASS;",
        "return PASS;",
    ),
    "copies leave a mark": ("skb->tc_index = former;", ""),
    "marks where nobody takes them off": ("cfg->observe ? 0 : MARK_FROM_GUEST", "MARK_FROM_GUEST"),
    "no marks": ("cfg->observe ? 0 : MARK_FROM_GUEST", "0"),
    "refused frames for the host": (
        " || skb->tc_index == MARK_REFUSED) {\n\t\tskb",
        ") {\n\t\tskb",
    ),
    "link control to guests": ("if (!control && copy_to_guests(skb))", "if (copy_to_guests(skb))"),
    "link control to the host": ("cfg->parent.w)) || control ||", "cfg->parent.w)) ||"),
    "strangers to the host": (" ||\n\t\t    !bpf_map_lookup_elem(&macs, &from))", ")"),
    "copies of nothing": ("return to && to->count;", "return true;"),
    "ipvtaps' frames unmarked": ("\tskb->tc_index = MARK_FROM_GUEST;\n", ""),
    "siblings' frames for the host": (" || bpf_map_lookup_elem(&addresses, &key)))", "))"),
    "siblings' questions for the host": (
        "(f.proto == bpf_htons(ETH_P_ARP) || bpf_map_lookup_elem(&addresses, &key)))",
        "bpf_map_lookup_elem(&addresses, &key))",
    ),
    "what is the host's left to siblings": (
        "if (find_target(skb, &f, &key) && !is_host(&key) &&",
        "if (find_target(skb, &f, &key) &&",
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_goes_where(loaded: Rig, check: Callable[[Rig], None]) -> None:
    try:
        check(loaded)
    finally:
        loaded.macnat.tracer.stop()


@pytest.fixture(scope="module")
def noticed(ifindexes: list[int]) -> dict[str, Future[bool]]:
    return judged(MUTANTS, check_all, ifindexes)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_changed_line_is_noticed(name: str, noticed: dict[str, Future[bool]]) -> None:
    assert noticed[name].result()


def check_all(rig: Rig) -> None:
    for check in CHECKS:
        check(rig)
        rig.macnat.tracer.stop()

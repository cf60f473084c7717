"""What host_access.h hands to whom, and that a bent line of it, or of what it asks, is noticed."""

from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from airtap.bpf.role import Role
from airtap.bpf.trace_record import NOBODY, record
from airtap.kernel.addresses import Address
from airtap.trace.correlate import CONFIGURES, COPIED, WITHHELD
from tests.bpf.mutants import judged
from tests.bpf.rig import Outcome, Rig

UPLINK, ROUTER = "02:00:00:00:00:01", "02:00:00:00:00:03"
MAC_A, MAC_B, STRANGER = "02:00:00:00:0a:01", "02:00:00:00:0b:01", "02:00:00:00:0c:01"
ALL, BRIDGES, GROUP6 = "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:0e", "33:33:00:00:00:01"
A, B, HOST, LAN, FAR = "192.0.2.100", "192.0.2.200", "192.0.2.10", "192.0.2.1", "198.51.100.7"
A6, HOST6 = "2001:db8::a", "fe80::1"
LAN_6, SOON, SOON6, FREE, FREE6 = "fe80::3", "192.0.2.11", "fe80::2", "192.0.2.77", "fe80::77"
PARENT = 1
MARK_FROM_GUEST, MARK_PASSED, OTHER_MARK = 0x6169, 0x6171, 0x1234


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
    soon: set[Address] = {IPv4Address(SOON), IPv6Address(SOON6)}
    rig.macnat.hosts.set_addresses({IPv4Address(HOST), IPv6Address(HOST6), *soon}, set(), soon)
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
    frame = ether(UPLINK, MAC_A, ipv4(HOST, A))
    outcome = rig.run("uplink_egress", frame, PARENT, mark=MARK_FROM_GUEST)
    assert (outcome.passed, outcome.to, outcome.mark) == (True, 0, 0)


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


def sent(rig: Rig, frame: bytes) -> Outcome:
    """A macvtap's guest's, at the uplink after from_guest has passed it."""
    return rig.run("uplink_egress", frame, PARENT, mark=MARK_PASSED)


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


def heard(rig: Rig, frame: Packet, why: int) -> None:
    """Whether a guest's packet reaches the host, and why not. why: CONFIGURES, WITHHELD or 0."""
    outcome = sent(rig, ether(MAC_A, UPLINK, frame))
    assert (outcome.passed, outcome.to) == (not why, 0 if why else PARENT), frame
    outcome = sent(rig, ether(MAC_A, GROUP6, frame))
    assert (outcome.passed, outcome.to) == (True, 0)
    assert said(rig) == (why or COPIED)


def configuring(rig: Rig) -> None:
    """What would configure the host does not reach it: dropped, and of broadcasts no copy."""
    begin(rig, "macvtap")
    four, six = IP(src=A, dst=HOST), IPv6(src=A6, dst=HOST6)
    options = IP(src=A, dst=HOST, options=[b"\1\1\1\1"])
    first, atomic = IPv6ExtHdrFragment(m=1, id=7), IPv6ExtHdrFragment(id=7)
    seven, eight = six, six / IPv6ExtHdrDestOpt()
    for _ in range(7):
        seven, eight = seven / IPv6ExtHdrDestOpt(), eight / IPv6ExtHdrDestOpt()
    dns6 = UDP(sport=546, dport=53)
    configuring = [
        *(four / UDP(sport=port, dport=68) for port in (67, 1067, 68, 9)),
        options / UDP(sport=1067, dport=68),
        options / UDP(sport=68, dport=68),
        IP(src=A, dst=HOST, flags="MF") / UDP(sport=1067, dport=68),
        IP(src=A, dst=HOST, proto=17) / b"\0\1",
        four / ICMP(type=5, gw=A),
        options / ICMP(type=9),
        IP(src=A, dst=HOST, proto=1),
        *(six / UDP(sport=port, dport=546) for port in (547, 5547)),
        *(
            six / header / UDP(sport=547, dport=546)
            for header in (
                IPv6ExtHdrHopByHop(),
                IPv6ExtHdrRouting(),
                IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt(),
                first,
                atomic,
                IPv6ExtHdrDestOpt() / first / IPv6ExtHdrDestOpt(),
            )
        ),
        seven / UDP(sport=5547, dport=546),
        eight / dns6,
        IPv6(src=A6, dst=HOST6, nh=60),
        IPv6(src=A6, dst=HOST6, nh=17) / b"\0\1",
        IPv6(src=A6, dst=HOST6, nh=58),
        six / ICMPv6ND_RA(),
        six / ICMPv6ND_Redirect(),
        six / IPv6ExtHdrDestOpt() / ICMPv6ND_RA(),
        six / first / ICMPv6ND_NS(tgt=HOST6),
    ]
    harmless = [
        IP(src=A, dst=HOST, frag=1) / UDP(sport=67, dport=68),
        IP(src=A, dst=HOST, frag=1) / ICMP(type=5),
        *(four / UDP(sport=port, dport=67) for port in (67, 68)),
        four / TCP(sport=67, dport=68),
        four / ICMP(),
        options / UDP(sport=67, dport=69) / b"\0\x44",
        six / UDP(sport=546, dport=547),
        six / TCP(sport=547, dport=546),
        six / first / dns6,
        six / IPv6ExtHdrFragment(offset=1, id=7) / UDP(sport=547, dport=546),
        six / IPv6ExtHdrFragment(offset=32, id=7) / ICMPv6ND_RA(),
        six / IPv6ExtHdrDestOpt() / dns6,
        six / ICMPv6ND_NA(tgt=A6),
        six / ICMPv6ND_NS(tgt=HOST6),
        six / first / ICMPv6EchoRequest(),
        ARP(hwsrc=MAC_A, psrc=A, pdst=HOST),
    ]
    for packet in configuring:
        heard(rig, packet, CONFIGURES)
    for packet in harmless:
        heard(rig, packet, 0)


def ethertypes(rig: Rig) -> None:
    """The host hears IPv4, IPv6 and Ethernet's ARP for IPv4, and no other protocol."""
    begin(rig, "macvtap")
    arp = raw(ARP(hwsrc=MAC_A, psrc=A, pdst=HOST))
    for frame, why in (
        (arp, 0),
        (b"\0\6" + arp[2:], 0),
        (b"\0\7" + arp[2:], WITHHELD),
        (arp[:2] + b"\x86\xdd" + arp[4:], WITHHELD),
        (arp[:4] + b"\x08" + arp[5:], WITHHELD),
        (arp[:24], WITHHELD),
    ):
        octets = raw(Ether(src=MAC_A, dst=ALL, type=0x0806)) + frame
        assert sent(rig, octets).passed
        assert said(rig) == (why or COPIED)
    for ethertype in (0x8863, 0x8864, 0x88CC, 0x8847, 0x8035, 0x88B6, 0x0026):
        for to in (UPLINK, ALL):
            outcome = sent(rig, raw(Ether(src=MAC_A, dst=to, type=ethertype)) + bytes(46))
            assert (outcome.passed, outcome.to, said(rig)) == (to == ALL, 0, WITHHELD)


def probes(rig: Rig) -> None:
    """Whether an address is free, the host is asked only if it has it and uses it."""
    begin(rig, "macvtap")

    def arp(target: str, source: str) -> Packet:
        return ARP(hwsrc=MAC_A, psrc=source, pdst=target)

    def solicited(target: str, source: str) -> Packet:
        return IPv6(src=source, dst="ff02::1:ff00:1") / ICMPv6ND_NS(tgt=target)

    behind = IPv6(src="::", dst="ff02::1") / IPv6ExtHdrDestOpt() / ICMPv6ND_NS(tgt=SOON6)
    for packet, why in (
        (arp(HOST, "0.0.0.0"), 0),
        (arp(SOON, "0.0.0.0"), WITHHELD),
        (arp(FREE, "0.0.0.0"), WITHHELD),
        (arp(SOON, "127.0.0.1"), WITHHELD),
        (arp(SOON, A), 0),
        (arp(FREE, A), 0),
        (solicited(HOST6, "::"), 0),
        (solicited(SOON6, "::"), WITHHELD),
        (solicited(FREE6, "::"), WITHHELD),
        (solicited(SOON6, A6), 0),
        (behind, WITHHELD),
        (IPv6(src="::", dst="ff02::2") / ICMPv6ND_RS(), 0),
        (IPv6(src="::", dst="ff02::2") / UDP(dport=9), 0),
        (IPv6(src="::", dst="ff02::1", nh=58) / raw(ICMPv6ND_NS(tgt=SOON6))[:12], WITHHELD),
    ):
        heard(rig, packet, why)
    for address, mine in ((SOON, False), (SOON6, False), (HOST, False), (FREE, True)):
        packet = ipv4(address, LAN) if "." in address else IPv6(src=address, dst=LAN_6) / UDP()
        assert rig.run("from_guest", ether(MAC_A, ROUTER, packet), rig.devices[0]).passed == mine
    # What was tentative is in use, and hears.
    hosts: set[Address] = {IPv4Address(SOON), IPv6Address(SOON6), IPv6Address(HOST6)}
    rig.macnat.hosts.set_addresses(hosts, set(), {IPv6Address(HOST6)})
    heard(rig, arp(SOON, "0.0.0.0"), 0)
    heard(rig, solicited(SOON6, "::"), 0)
    heard(rig, solicited(HOST6, "::"), WITHHELD)
    assert rig.macnat.hosts.addresses() == hosts


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


CHECKS = (
    from_host,
    marks,
    unmarked,
    groups,
    to_host,
    configuring,
    ethertypes,
    probes,
    from_ipvtap,
    left_over,
    leases,
)
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
    "IPv4 that configures": ("return configures_ipv4(skb, f->l3);", "return false;"),
    "IPv6 that configures": ("&& configures_ipv6(skb, f->l3);", "&& false;"),
    "DHCP for clients of IPv4": (
        "return ip.protocol == IPPROTO_UDP && is_to_port(skb, l4, BOOTPC);",
        "return false;",
    ),
    "DHCP for clients of IPv6": ("return is_to_port(skb, l4.at, DHCPV6_CLIENT);", "return false;"),
    "source ports": (
        "l4 + offsetof(struct udphdr, dest), &to",
        "l4 + offsetof(struct udphdr, source), &to",
    ),
    "ports that are not there": (
        "&to, sizeof(to)) ||\n\t       to ==",
        "&to, sizeof(to)) ? 0 :\n\t       to ==",
    ),
    "port 68 of TCP": ("return ip.protocol == IPPROTO_UDP && is_to_port", "return is_to_port"),
    "port 546 of TCP": ("if (l4.protocol == IPPROTO_UDP)", "if (l4.protocol != IPPROTO_ICMPV6)"),
    "port 68 in later fragments": ("if (ip.frag_off & bpf_htons(0x1fff))", "if (0)"),
    "port 68 of first fragments": (
        "if (ip.frag_off & bpf_htons(0x1fff))",
        "if (ip.frag_off & bpf_htons(0x3fff))",
    ),
    "port 68 behind IP options": ("l4 = l3 + ip.ihl * 4;", "l4 = l3 + 20;"),
    "port 67": ("#define BOOTPC 68", "#define BOOTPC 67"),
    "port 547": ("#define DHCPV6_CLIENT 546", "#define DHCPV6_CLIENT 547"),
    "ICMP redirects": ("type == ICMP_REDIRECT || type", "type"),
    "ICMP router advertisements": (
        "type == ICMP_REDIRECT || type == ICMP_ROUTER_ADVERT",
        "type == ICMP_REDIRECT",
    ),
    "ICMP without a type": (
        "return bpf_skb_load_bytes(skb, l4, &type, sizeof(type)) ||",
        "return !bpf_skb_load_bytes(skb, l4, &type, sizeof(type)) &&",
    ),
    "headers without an end": (
        "find_l4(skb, l3, next, &l4))\n\t\treturn true;",
        "find_l4(skb, l3, next, &l4))\n\t\treturn false;",
    ),
    "ICMPv6 without a type": (
        "sizeof(type)))\n\t\treturn true;\n\treturn type == ND_ROUTER",
        "sizeof(type)))\n\t\treturn false;\n\treturn type == ND_ROUTER",
    ),
    "router advertisements": ("type == ND_ROUTER_ADVERT || type", "type"),
    "redirects": ("type == ND_REDIRECT || (l4", "(l4"),
    "ND in fragments for the host": (" || (l4.fragment && is_nd(type));", ";"),
    "all ICMPv6 in fragments": ("(l4.fragment && is_nd(type));", "l4.fragment;"),
    "any protocol": (
        "return f.proto == bpf_htons(ETH_P_ARP) && hears",
        "return f.proto != bpf_htons(ETH_P_ARP) || hears",
    ),
    "ARP of any kind": ("return is_ethernet_ipv4(&arp) && !is_idle", "return !is_idle"),
    "half of ARP": (
        "sizeof(arp)))\n\t\treturn false;\n\tset_ipv4(&source",
        "sizeof(arp)))\n\t\treturn true;\n\tset_ipv4(&source",
    ),
    "ARP probes": (
        "is_ethernet_ipv4(&arp) && !is_idle_probe(&source, &target);",
        "is_ethernet_ipv4(&arp);",
    ),
    "solicitations from nobody": (
        "set_ipv6(&target, &solicited);\n\treturn !is_idle_probe(&source, &target);",
        "return true;",
    ),
    "what is no solicitation from nobody": (
        "&type, sizeof(type)) || type != ND_NEIGHBOUR_SOLICIT)\n\t\treturn true;",
        "&type, sizeof(type)))\n\t\treturn true;",
    ),
    "solicitations behind headers": (
        "if (at <= 0)\n\t\treturn !at;",
        "if (at != 54)\n\t\treturn true;",
    ),
    "half of a solicitation": (
        "&solicited, sizeof(solicited)))\n\t\treturn false;",
        "&solicited, sizeof(solicited)))\n\t\treturn true;",
    ),
    "probes for tentative addresses": ("usage_of(target) != IN_USE", "!usage_of(target)"),
    "probes of all": (
        "return is_unassignable(source) && usage_of(target)",
        "return usage_of(target)",
    ),
    "no probes": ("&& usage_of(target) != IN_USE;", ";"),
    "what from_guest has not seen": ("passed = skb->tc_index == MARK_PASSED &&", "passed ="),
    "what came in since": ("== MARK_PASSED && !skb->ingress_ifindex;", "== MARK_PASSED;"),
    "the mark on the wire": (
        "if (skb->tc_index == MARK_PASSED)\n\t\tskb->tc_index = 0;\n\tpull(skb, ETH_HLEN);",
        "pull(skb, ETH_HLEN);",
    ),
    "the mark on the wire, without host access": (
        "if (skb->tc_index == MARK_PASSED) /* where",
        "if (0) /* where",
    ),
    "unmarked on ipvtaps": ("if (!cfg || !passed || bpf_skb", "if (!cfg || bpf_skb"),
    "what is refused": ("verdict == PASS ? MARK_PASSED : 0;", "MARK_PASSED;"),
    "a mark that was there": (
        "skb->tc_index = verdict == PASS ? MARK_PASSED : 0;",
        "if (verdict == PASS)\n\t\tskb->tc_index = MARK_PASSED;",
    ),
    "nothing is passed": ("verdict == PASS ? MARK_PASSED : 0;", "0;"),
    "the host's own MAC where MAC NAT is off": (
        "return same((__u16 *)eth.h_source, cfg->parent.w) ? DROP : PASS;",
        "return PASS;",
    ),
    "all of what is refused where MAC NAT is off": (
        "return same((__u16 *)eth.h_source, cfg->parent.w) ? DROP : PASS;",
        "return DROP;",
    ),
    "what is left unnoted": ("note_handed(SAID_WITHHELD);\n\treturn DROP;", "return DROP;"),
    "an answer to a guest that has the uplink's MAC": (
        "if (entry && same(m.chaddr, entry->mac.w))\n\t\treturn HOLDER;\n\treturn same",
        "return same",
    ),
    "copies that configure": (
        "note_handed(why);\n\t\treturn PASS;",
        "note_handed(why);",
    ),
    "copies change the frame": (
        "return bpf_skb_store_bytes(skb, 0, group, ETH_ALEN, 0) ? DROP : PASS;",
        "return PASS;",
    ),
    "copies leave a mark": ("skb->tc_index = former;", ""),
    "marks where nobody takes them off": ("cfg->observe ? 0 : MARK_FROM_GUEST", "MARK_FROM_GUEST"),
    "no marks": ("cfg->observe ? 0 : MARK_FROM_GUEST", "0"),
    "link control to guests": ("if (!control && copy_to_guests(skb))", "if (copy_to_guests(skb))"),
    "link control to the host": ("if (!passed || control ||", "if (!passed ||"),
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

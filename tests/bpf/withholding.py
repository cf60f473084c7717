"""What the programs keep from the host, of what they would hand to it."""

from ipaddress import IPv4Address, IPv6Address

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
from scapy.packet import Packet

from airtap.kernel.addresses import Address
from airtap.trace.correlate import CONFIGURES, COPIED, WITHHELD
from tests.bpf.meeting import (
    A6,
    ALL,
    FREE,
    FREE6,
    HOST,
    HOST6,
    LAN,
    LAN6,
    MAC_A,
    MAC_B,
    PARENT,
    ROUTER,
    SOON,
    SOON6,
    STRANGER,
    UPLINK,
    A,
    begin,
    ether,
    heard,
    ipv4,
    said,
    sent,
)
from tests.bpf.rig import Rig


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
        # What stands behind the end is no header: that is in the next fragment.
        IPv6(src=A6, dst=HOST6, plen=16) / first / IPv6ExtHdrDestOpt(nh=60) / b"\x3b\0\1\4\0\0\0\0",
        IPv6(src=A6, dst=HOST6, plen=8) / first / dns6,
        IPv6(src=A6, dst=HOST6, plen=15) / first / dns6,
        IPv6(src=A6, dst=HOST6, plen=8) / IPv6ExtHdrDestOpt(nh=60) / b"\x3b\0\1\4\0\0\0\0",
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
        IPv6(src=A6, dst=HOST6, plen=0) / IPv6ExtHdrHopByHop() / dns6,
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
        packet = ipv4(address, LAN) if "." in address else IPv6(src=address, dst=LAN6) / UDP()
        assert rig.run("from_guest", ether(MAC_A, ROUTER, packet), rig.devices[0]).passed == mine
    # What was tentative is in use, and hears.
    hosts: set[Address] = {IPv4Address(SOON), IPv6Address(SOON6), IPv6Address(HOST6)}
    rig.macnat.hosts.set_addresses(hosts, set(), {IPv6Address(HOST6)})
    heard(rig, arp(SOON, "0.0.0.0"), 0)
    heard(rig, solicited(SOON6, "::"), 0)
    heard(rig, solicited(HOST6, "::"), WITHHELD)
    assert rig.macnat.hosts.addresses() == hosts


def answers(rig: Rig) -> None:
    """A guest's answer to the host's DHCP client does not leave, for the client would hear it."""
    udp = UDP(sport=1067, dport=68)

    def message(client: str) -> Packet:
        return BOOTP(op=2, chaddr=bytes.fromhex(client.replace(":", "")))

    options = IP(src=A, dst=HOST, options=[b"\1\1\1\1"])
    for translate, program in ((False, "uplink_egress"), (True, "to_uplink")):
        begin(rig, "macvtap", translate)
        for packet, tag, leaves in (
            (IP(src=A, dst=HOST) / udp / message(UPLINK), None, False),
            (IP(src=A, dst=HOST) / udp / message(UPLINK), 5, False),
            (Dot1Q(vlan=5) / IP(src=A, dst=HOST) / udp / message(UPLINK), None, False),
            (IP(src=A, dst=HOST, version=6) / udp / message(UPLINK), None, False),
            (options / udp / message(UPLINK), None, False),
            (IP(src=A, dst=HOST, flags="MF") / udp / message(UPLINK), None, False),
            (IP(src=A, dst=HOST, frag=1) / udp / message(UPLINK), None, True),
            (IP(src=A, dst=HOST) / udp / message(MAC_B), None, True),
            (IP(src=A, dst=HOST) / UDP(sport=68, dport=67) / message(UPLINK), None, True),
            (IP(src=A, dst=HOST, proto=6) / raw(udp / message(UPLINK)), None, True),
            (IPv6(src=A6, dst=HOST6) / raw(udp / message(UPLINK)), None, True),
        ):
            for source, to in ((MAC_A, ALL), (MAC_A, ROUTER), (STRANGER, ALL)):
                frame = ether(source, to, packet)
                assert rig.run(program, frame, PARENT, tag).passed == leaves
        request = raw(IP(src=A, dst=HOST, version=6) / UDP(sport=68, dport=67) / BOOTP(op=1))
        frame = raw(Ether(src=MAC_A, dst=ALL, type=0x0800)) + request
        assert rig.run(program, frame, PARENT).frame[14:] == request
        if not translate:
            own = ether(UPLINK, ALL, IP(src=HOST, dst=A) / udp / message(UPLINK))
            assert rig.run(program, own, PARENT).passed

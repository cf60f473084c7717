"""Frames of which only the details decide what becomes of them: see frames.py."""

from hypothesis import strategies as st
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from tests.bpf.frames import (
    GATEWAY4,
    GATEWAY6,
    GUEST_MACS,
    HOST6,
    PARENT,
    ROUTER,
    VLAN,
    arp,
    at_times,
    dhcp,
    extension,
    group4,
    guest4,
    guest6,
    host4,
    host6,
    ipv6,
    llc,
    nd,
    odd4,
    odd6,
    other,
    rarely,
    to4,
)


@st.composite
def dhcp_to_server(draw: st.DrawFn) -> Packet:
    """What only the details of DHCP decide upon."""
    packet = IP(src="0.0.0.0", dst="255.255.255.255")
    if draw(at_times):
        packet.options = [b"\1\1\1\1" * draw(st.integers(1, 10))]
    if draw(at_times):
        packet.frag = draw(st.sampled_from([1, 0x1000]))
    if draw(rarely):
        packet.flags = "MF"
    if draw(rarely):
        packet.len = draw(st.integers(20, 80))
    return Ether(src=draw(st.sampled_from(GUEST_MACS))) / packet / draw(dhcp())


@st.composite
def guest_ip(draw: st.DrawFn) -> Packet:
    """From any address there is."""
    ether = Ether(src=draw(st.sampled_from(GUEST_MACS)), dst=ROUTER)
    if draw(st.booleans()):
        return ether / IP(src=draw(st.one_of(odd4, host4)), dst=GATEWAY4) / UDP()
    return ether / IPv6(src=draw(odd6), dst=GATEWAY6) / UDP()


@st.composite
def guest_other(draw: st.DrawFn) -> Packet:
    """What is neither ARP nor IP, or hides it."""
    ethertype, payload = draw(st.one_of(other, llc))
    return Ether(src=draw(st.sampled_from(GUEST_MACS)), dst=ROUTER, type=ethertype) / payload


@st.composite
def guest_nd(draw: st.DrawFn) -> Packet:
    """ND at different depths."""
    packet = Ether(src=draw(st.sampled_from(GUEST_MACS)), dst=ROUTER) / IPv6(src="::", dst=GATEWAY6)
    for header in draw(st.lists(extension, max_size=2)):
        packet = packet / header
    return packet / draw(nd())


@st.composite
def lan_arp(draw: st.DrawFn) -> Packet:
    """ARP that an access point sends to the uplink, or that passes there between guests."""
    to = draw(st.sampled_from([PARENT] * 3 + [GUEST_MACS[0]]))
    return Ether(dst=to, src=draw(st.sampled_from([ROUTER, ROUTER, PARENT]))) / ARP(
        op=draw(st.integers(1, 2)),
        hwsrc=draw(st.sampled_from([ROUTER, ROUTER, PARENT])),
        psrc=GATEWAY4,
        hwdst=draw(st.sampled_from([PARENT, "00:00:00:00:00:00", ROUTER])),
        pdst=draw(st.one_of(guest4, guest4, host4, st.just("0.0.0.0"))),
    )


@st.composite
def lan_ip(draw: st.DrawFn) -> Packet:
    ether = Ether(dst=PARENT, src=ROUTER)
    if draw(st.booleans()):
        return ether / IP(src=GATEWAY4, dst=draw(st.one_of(guest4, guest4, group4, host4))) / UDP()
    return ether / IPv6(src=GATEWAY6, dst=draw(st.one_of(guest6, guest6, odd6))) / UDP()


@st.composite
def lan_nd(draw: st.DrawFn) -> Packet:
    ether = Ether(dst=draw(st.sampled_from([PARENT, "33:33:00:00:00:01", GUEST_MACS[0]])))
    ether.src = draw(st.sampled_from([ROUTER, PARENT]))
    address = draw(st.sampled_from([PARENT, ROUTER]))
    message = draw(
        st.sampled_from(
            [
                ICMPv6ND_NA(tgt=HOST6) / ICMPv6NDOptDstLLAddr(lladdr=address),
                ICMPv6ND_NA(tgt=HOST6) / ICMPv6NDOptSrcLLAddr(lladdr=address),
                ICMPv6ND_NS(tgt=HOST6) / ICMPv6NDOptSrcLLAddr(lladdr=address),
                ICMPv6ND_NS(tgt=HOST6),
                ICMPv6ND_RA() / ICMPv6NDOptSrcLLAddr(lladdr=address),
                ICMPv6ND_Redirect(tgt=HOST6) / ICMPv6NDOptDstLLAddr(lladdr=address),
                ICMPv6ND_Redirect(tgt=HOST6) / ICMPv6NDOptSrcLLAddr(lladdr=address),
            ]
        )
    )
    return ether / IPv6(src=GATEWAY6, dst=draw(st.one_of(guest6, host6, odd6))) / message


DHCP_MISTAKES = ["ihl", "options", "frag", "MF", "proto", "port", "op", "cut", *[""] * 4]


@st.composite
def dhcp_to_client(draw: st.DrawFn) -> bytes:
    """What a DHCP server sends to the address that it offers, at the uplink's MAC. At times one
    thing about it is wrong."""
    wrong = draw(st.sampled_from(DHCP_MISTAKES))
    packet = IP(src=GATEWAY4, dst=draw(st.one_of(guest4, guest4, host4, group4)))
    if wrong == "ihl":
        packet.ihl = draw(st.integers(0, 15))
    elif wrong == "options":
        packet.options = [b"\1\1\1\1" * draw(st.integers(1, 10))]
    elif wrong == "frag":
        packet.frag = draw(st.sampled_from([1, 0x1000]))
    elif wrong == "MF":
        packet.flags = "MF"
    elif wrong == "proto":
        packet.proto = 6
    client = draw(st.sampled_from([*GUEST_MACS, PARENT, ROUTER]))
    message = BOOTP(
        op=draw(st.sampled_from([1, 3])) if wrong == "op" else 2,
        yiaddr=packet.dst,
        chaddr=bytes.fromhex(client.replace(":", "")),
    )
    udp = UDP(sport=67, dport=draw(st.sampled_from([67, 69])) if wrong == "port" else 68)
    options = DHCP(options=[("message-type", "offer"), "end"])
    octets = raw(Ether(dst=PARENT, src=ROUTER) / packet / udp / message / options)
    return octets[: draw(st.integers(34, 80))] if wrong == "cut" else octets


@st.composite
def to_sibling(draw: st.DrawFn, source: str) -> bytes:
    """What a guest sends to the uplink's MAC, which it takes for a sibling's."""
    packet = Ether(src=source, dst=draw(st.sampled_from([PARENT] * 7 + [ROUTER])))
    if draw(rarely):
        packet = packet / Dot1Q(vlan=draw(st.sampled_from([0, VLAN])))
    kind = draw(st.sampled_from(["IPv4", "IPv4", "IPv6", "IPv6", "ARP", "ARP"]))
    if kind == "ARP":
        packet.lastlayer().type, payload = draw(arp())
        packet = packet / payload
    elif kind == "IPv4":
        to = draw(st.one_of(*[guest4] * 6, to4))
        packet = packet / IP(src=draw(guest4), dst=to, version=4 + draw(at_times)) / UDP()
    else:
        to = draw(st.one_of(*[guest6] * 6, ipv6))
        message = draw(st.one_of(st.just(UDP()), nd()))
        packet = (
            packet / IPv6(src=draw(guest6), dst=to, hlim=255, version=6 + draw(at_times)) / message
        )
    octets = raw(packet)
    return octets[: draw(st.integers(15, len(octets)))] if draw(rarely) else octets

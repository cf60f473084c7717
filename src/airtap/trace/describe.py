"""Frames in words, for people: what it is, from whom, for whom.

A frame may be cut, and may hold anything: whatever a guest likes to send. Every parser here looks
before it reads, and says how far it got.
"""

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

from ..packet.ethernet import ETH_P_ARP, ETH_P_IP, ETH_P_IPV6

_VLAN_TYPES = (0x8100, 0x88A8)
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ETHERTYPES = {0x888E: "EAPOL", 0x88CC: "LLDP", 0x88C7: "EAPOL pre-authentication", 0x890D: "TDLS"}
_PROTOCOLS = {2: "IGMP", 50: "ESP", 51: "AH", 132: "SCTP", 47: "GRE", 103: "PIM"}
# RFC 2132 9.6.
_DHCP = ("", "discover", "offer", "request", "decline", "ack", "nak", "release", "inform")
# RFC 8415 7.3.
_DHCPV6 = (
    "", "solicit", "advertise", "request", "confirm", "renew", "rebind", "reply", "release",
    "decline", "reconfigure", "information request",
)  # fmt: skip
_ICMP = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
_ICMPV6 = {
    1: "unreachable", 2: "packet too big", 3: "time exceeded",
    128: "echo request", 129: "echo reply", 143: "multicast report",
}  # fmt: skip
_ND_TARGETS = {
    135: "neighbour solicitation for",
    136: "neighbour advertisement of",
    137: "redirect for",
}
_ND = {133: "router solicitation", 134: "router advertisement"}
_FLAGS = ((2, "SYN"), (1, "FIN"), (4, "RST"), (8, "PSH"), (16, "ACK"))
# Extension headers of IPv6 that have a length in their second byte: hop-by-hop, routing, options.
_EXTENSIONS = (0, 43, 60)
_FRAGMENT = 44


def mac(octets: bytes) -> str:
    return octets.hex(":")


def in_words(frame: bytes, tag: int | None = None) -> str:
    """Say what a frame is.

    frame: from its Ethernet header on.
    tag: the TCI of a VLAN tag that stood beside it.
    """
    if len(frame) < 14:
        return f"a frame of {len(frame)} bytes"
    tags = [] if tag is None else [tag & 0xFFF]
    kind, at = _behind_tags(frame, tags)
    text = _payload(kind, frame, at)
    return f"VLAN {', '.join(map(str, tags))}: {text}" if tags else text


def layer3(frame: bytes) -> tuple[int, int]:
    """Return a frame's ethertype, 0 for none, and the offset of what follows it and the tags."""
    return _behind_tags(frame, []) if len(frame) >= 14 else (0, 0)


def _behind_tags(frame: bytes, tags: list[int]) -> tuple[int, int]:
    at = 12
    while True:
        if len(frame) < at + 2:
            return 0, at
        (kind,) = struct.unpack_from("!H", frame, at)
        at += 2
        if kind not in _VLAN_TYPES or len(tags) > 4 or len(frame) < at + 2:
            return kind, at
        tags.append(struct.unpack_from("!H", frame, at)[0] & 0xFFF)
        at += 2


def _payload(kind: int, frame: bytes, at: int) -> str:
    parse = {ETH_P_ARP: _arp, ETH_P_IP: _ipv4, ETH_P_IPV6: _ipv6}.get(kind)
    if parse:
        return parse(frame, at)
    ends = f"{mac(frame[6:12])} > {mac(frame[:6])}"
    if frame[:3] == b"\x01\x80\xc2":
        return f"link control {ends}"
    if kind < 0x600:
        return f"802.3 frame {ends}"
    return f"{_ETHERTYPES.get(kind, f'ethertype 0x{kind:04x}')} {ends}"


def _arp(frame: bytes, at: int) -> str:
    if len(frame) < at + _ARP.size:
        return "ARP, cut short"
    hardware, protocol, hln, pln, op, sha, spa, _tha, tpa = _ARP.unpack_from(frame, at)
    if (protocol, hln, pln) != (ETH_P_IP, 6, 4) or hardware not in (1, 6):
        return "ARP for something else than Ethernet and IPv4"
    sender, target = IPv4Address(spa), IPv4Address(tpa)
    if sender == target:
        return f"ARP announcement: {sender} is-at {mac(sha)}"
    if op == 1:
        return f"ARP who-has {target} tell {sender}" if int(sender) else f"ARP probe for {target}"
    return f"ARP reply {sender} is-at {mac(sha)}" if op == 2 else f"ARP operation {op}"


def _ipv4(frame: bytes, at: int) -> str:
    if len(frame) < at + 20 or frame[at] >> 4 != 4:
        return "IPv4, cut short" if len(frame) < at + 20 else "no IPv4, though it says so"
    source, target = IPv4Address(frame[at + 12 : at + 16]), IPv4Address(frame[at + 16 : at + 20])
    (fragment,) = struct.unpack_from("!H", frame, at + 6)
    protocol, behind = frame[at + 9], at + (frame[at] & 15) * 4
    if fragment & 0x1FFF:
        return f"IPv4 fragment {source} > {target}"
    if protocol == IPPROTO_ICMP:
        said = _ICMP.get(frame[behind]) if len(frame) > behind else None
        return f"ICMP {said or 'message'} {source} > {target}"
    return _transport(protocol, frame, behind, str(source), str(target), "IPv4")


def _ipv6(frame: bytes, at: int) -> str:
    if len(frame) < at + 40 or frame[at] >> 4 != 6:
        return "IPv6, cut short" if len(frame) < at + 40 else "no IPv6, though it says so"
    source, target = IPv6Address(frame[at + 8 : at + 24]), IPv6Address(frame[at + 24 : at + 40])
    protocol, behind, later = _behind_extensions(frame, at)
    if later:
        return f"IPv6 fragment {source} > {target}"
    if protocol == IPPROTO_ICMPV6:
        return _icmpv6(frame, behind, source, target)
    return _transport(protocol, frame, behind, f"[{source}]", f"[{target}]", "IPv6")


def _behind_extensions(frame: bytes, at: int) -> tuple[int, int, bool]:
    """Return the protocol, its offset, and whether this is a later part of a fragmented packet."""
    protocol, behind = frame[at + 6], at + 40
    for _ in range(8):
        if len(frame) < behind + 8:
            break
        if protocol == _FRAGMENT:
            if struct.unpack_from("!H", frame, behind + 2)[0] & 0xFFF8:
                return protocol, behind, True
            protocol, behind = frame[behind], behind + 8
        elif protocol in _EXTENSIONS:
            protocol, behind = frame[behind], behind + (frame[behind + 1] + 1) * 8
        else:
            break
    return protocol, behind, False


def nd_message(frame: bytes, at: int) -> int | None:
    """Return the offset of a neighbour discovery message; None if there is none.

    at: the offset of the IPv6 header.
    """
    if len(frame) < at + 40:
        return None
    protocol, behind, later = _behind_extensions(frame, at)
    if protocol != IPPROTO_ICMPV6 or later or len(frame) <= behind:
        return None
    return behind if 133 <= frame[behind] <= 137 else None


def _icmpv6(frame: bytes, at: int, source: IPv6Address, target: IPv6Address) -> str:
    if len(frame) <= at:
        return f"ICMPv6 {source} > {target}, cut short"
    kind = frame[at]
    if kind in _ND_TARGETS and len(frame) >= at + 24:
        about = IPv6Address(frame[at + 8 : at + 24])
        if kind == 135 and not int(source):
            return f"IPv6 duplicate address detection of {about}"
        return f"IPv6 {_ND_TARGETS[kind]} {about} from {source}"
    if kind in _ND:
        return f"IPv6 {_ND[kind]} from {source}"
    return f"ICMPv6 {_ICMPV6.get(kind, f'type {kind}')} {source} > {target}"


def _transport(protocol: int, frame: bytes, at: int, source: str, target: str, family: str) -> str:
    if protocol not in (IPPROTO_TCP, IPPROTO_UDP):
        name = _PROTOCOLS.get(protocol, f"{family} protocol {protocol}")
        return f"{name} {source} > {target}"
    name = "TCP" if protocol == IPPROTO_TCP else "UDP"
    if len(frame) < at + 4:
        return f"{name} {source} > {target}, cut short"
    from_port, to_port = struct.unpack_from("!HH", frame, at)
    if protocol == IPPROTO_UDP and (dhcp := _dhcp(frame, at + 8, {from_port, to_port})):
        return f"{dhcp} {source} > {target}"
    flags = _tcp_flags(frame, at) if protocol == IPPROTO_TCP else ""
    return f"{name} {source}:{from_port} > {target}:{to_port}{flags}"


def _tcp_flags(frame: bytes, at: int) -> str:
    if len(frame) < at + 14:
        return ""
    names = [name for bit, name in _FLAGS if frame[at + 13] & bit]
    return f" {' '.join(names)}" if names else ""


def _dhcp(frame: bytes, at: int, ports: set[int]) -> str:
    """Name a DHCP message by its type; "" for none."""
    if ports & {546, 547}:
        return _named("DHCPv6", _DHCPV6, frame[at] if len(frame) > at else 0)
    return _named("DHCP", _DHCP, _dhcp_type(frame, at)) if ports & {67, 68} else ""


def _named(protocol: str, names: Sequence[str], kind: int) -> str:
    return f"{protocol} {names[kind] if 0 < kind < len(names) else 'message'}"


def _dhcp_type(frame: bytes, at: int) -> int:
    """Return option 53 (RFC 2132 9.6); 0 if there is none."""
    at += 236
    if frame[at : at + 4] != b"\x63\x82\x53\x63":
        return 0
    at += 4
    while at + 2 < len(frame) and frame[at] != 255:
        if frame[at] == 53:
            return frame[at + 2]
        at += 1 if frame[at] == 0 else 2 + frame[at + 1]
    return 0


def dhcp_flags(frame: bytes, at: int) -> int | None:
    """Return the flags of a DHCP request to a server over IPv4; None for other frames.

    at: the offset of the IPv4 header.
    """
    if len(frame) < at + 20 or frame[at + 9] != IPPROTO_UDP:
        return None
    udp = at + (frame[at] & 15) * 4
    if len(frame) < udp + 20 or struct.unpack_from("!H", frame, udp + 2)[0] != 67:
        return None
    return int(struct.unpack_from("!H", frame, udp + 18)[0])

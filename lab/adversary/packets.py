"""Packets byte by byte, right or bent: scapy takes a millisecond for each."""

from __future__ import annotations

import struct
from functools import cache
from ipaddress import ip_address

# In all that the adversary sends, so that whoever hears it can tell.
MARK = b"EvIl"

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
TCP, UDP, ICMP6, FRAGMENT = 6, 17, 58, 44


@cache
def octets(text: str) -> bytes:
    """A MAC or an IP address."""
    if text.count(":") == 5 and "::" not in text:
        return bytes.fromhex(text.replace(":", ""))
    return ip_address(text).packed


def total(data: bytes) -> int:
    """The Internet checksum's sum (RFC 1071), not complemented."""
    data += b"\0" * (len(data) % 2)
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    return sum(words) % 0xFFFF


def checksum(data: bytes) -> bytes:
    return struct.pack("!H", 0xFFFF - total(data))


def arp(op: int, sha: str, spa: str, tha: str, tpa: str, hardware: int = 1) -> bytes:
    """An ARP packet for IPv4 over Ethernet, whatever its hardware type says."""
    head = struct.pack("!HHBBH", hardware, IPV4, 6, 4, op)
    return head + octets(sha) + octets(spa) + octets(tha) + octets(tpa)


def ipv4(source: str, target: str, protocol: int, payload: bytes, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    size = 4 * words + len(payload)
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, size, 7, 0, 255, protocol, 0)
    return _summed4(head + octets(source) + octets(target) + options) + payload


def _summed4(head: bytes) -> bytes:
    return head[:10] + checksum(head[:10] + b"\0\0" + head[12:]) + head[12:]


def fragments4(packet: bytes, first: int) -> list[bytes]:
    """An IPv4 packet in two, the first with so many bytes of payload."""
    size = 4 * (packet[0] & 15)
    payload = packet[size:]
    parts = []
    for offset, part in ((0, payload[:first]), (first, payload[first:])):
        where = offset // 8 | (0 if offset else 0x2000)
        head = packet[:2] + struct.pack("!HHH", size + len(part), 7, where) + packet[8:size]
        parts.append(_summed4(head) + part)
    return parts


def ipv6(source: str, target: str, following: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, 255)
    return head + octets(source) + octets(target) + payload


def fragments6(packet: bytes, first: int) -> list[bytes]:
    """An IPv6 packet in two, or, with a first of 0, as an atomic fragment (RFC 6946)."""
    payload = packet[40:]
    pieces = [(0, payload[:first], 1), (first, payload[first:], 0)] if first else [(0, payload, 0)]
    return [
        packet[:4]
        + struct.pack("!HB", 8 + len(part), FRAGMENT)
        + packet[7:40]
        + struct.pack("!BBHI", packet[6], 0, offset | more, 7)
        + part
        for offset, part, more in pieces
    ]


def udp(source: str, target: str, ports: tuple[int, int], data: bytes) -> bytes:
    """A UDP datagram, with its checksum."""
    size = 8 + len(data)
    head = struct.pack("!HHH", *ports, size)
    pseudo = octets(source) + octets(target) + struct.pack("!HH", UDP, size)
    return (
        head + (checksum(pseudo + head + data) if total(pseudo + head + data) else b"\0\0") + data
    )


def icmp6(source: str, target: str, message: bytes) -> bytes:
    """An ICMPv6 message, type first and its checksum still 0, with its checksum."""
    pseudo = octets(source) + octets(target) + struct.pack("!II", len(message), ICMP6)
    return message[:2] + checksum(pseudo + message) + message[4:]


def icmp4(message: bytes) -> bytes:
    return message[:2] + checksum(message) + message[4:]


def over_ip(source: str, target: str, ports: tuple[int, int], data: bytes) -> tuple[int, bytes]:
    """A UDP datagram over the IP of its addresses: ethertype, packet."""
    datagram = udp(source, target, ports, data)
    if ":" in source:
        return IPV6, ipv6(source, target, UDP, datagram)
    return IPV4, ipv4(source, target, UDP, datagram)


def bootp(
    op: int,
    kind: int,
    chaddr: str,
    *,
    yours: str = "0.0.0.0",
    own: str = "0.0.0.0",
    wanted: str = "192.0.2.150",
) -> bytes:
    """A DHCP message of a kind (RFC 2131). yours: yiaddr; own: ciaddr; wanted: option 50."""
    head = struct.pack("!BBBBIHH", op, 1, 6, 0, 0x1234, 0, 0x8000 if op == 1 else 0)
    addresses = octets(own) + octets(yours) + bytes(8)
    names = MARK.ljust(64, b"\0") + bytes(128)
    options = bytes(
        [53, 1, kind, 54, 4, *octets("192.0.2.1"), 51, 4, 0, 0, 2, 0, 50, 4, *octets(wanted), 255]
    )
    body = head + addresses + octets(chaddr).ljust(16, b"\0") + names
    return body + b"\x63\x82\x53\x63" + options


def ethernet(
    to: str, source: str, kind: int, payload: bytes, tags: tuple[tuple[int, int], ...] = ()
) -> bytes:
    """A frame. tags: (TPID, TCI), the outermost first. kind: below 1536 it is a length."""
    inner = b"".join(struct.pack("!HH", *tag) for tag in tags)
    return octets(to) + octets(source) + inner + struct.pack("!H", kind) + payload


def multicast_mac(address: str) -> str:
    """The MAC of a group's packets, or of all."""
    if ":" in address:
        return (b"\x33\x33" + octets(address)[12:]).hex(":")
    return "ff:ff:ff:ff:ff:ff"


def solicited(address: str) -> str:
    """The solicited-node group of an IPv6 address (RFC 4291 2.7.1)."""
    return str(ip_address(octets("ff02::1:ff00:0")[:13] + octets(address)[13:]))

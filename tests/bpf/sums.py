"""Checksums, by scapy: what is left when a packet is summed together with its checksum.

Of a packet that is cut this is not 0, but translation does not change it either.
"""

from dataclasses import dataclass

from scapy.layers.inet import IP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum

from tests.bpf.view import IPV4, IPV6, View, nd_message


@dataclass(frozen=True)
class Sum:
    """at: where the checksum field is in the frame. field: its value. rest: 0 if it is right."""

    at: int
    field: int
    rest: int


def transport_sum(frame: bytes, tag: int | None) -> Sum | None:
    """The checksum that MAC NAT may have to touch: of UDP over IPv4, or of ND."""
    view = View.of(frame, tag)
    data = frame[view.at :]
    if view.ethertype == IPV4 and len(data) >= 20:
        return _udp_sum(view.at, data)
    if view.ethertype == IPV6 and len(data) >= 40 and (message := nd_message(data)):
        end = min(len(data), 40 + int.from_bytes(data[4:6], "big"))
        at = len(data) - len(message)
        return _sum6(view.at, data, at, end)
    return None


def _udp_sum(base: int, data: bytes) -> Sum | None:
    header = (data[0] & 0xF) * 4
    length = int.from_bytes(data[header + 4 : header + 6], "big")
    body = data[header : header + length]
    if data[9] != 17 or header < 20 or len(body) < 8:
        return None
    packet = IP(src=_dotted(data[12:16]), dst=_dotted(data[16:20]), proto=17)
    value = int.from_bytes(body[6:8], "big")
    return Sum(base + header + 6, value, in4_chksum(17, packet, body) % 0xFFFF)


def _sum6(base: int, data: bytes, at: int, end: int) -> Sum | None:
    if end < at + 4:
        return None
    packet = IPv6(data[:8] + data[8:40])
    packet.nh = 58  # a routing header's final destination does not matter: it does not change
    value = int.from_bytes(data[at + 2 : at + 4], "big")
    return Sum(base + at + 2, value, _chksum6(packet, data[at:end]) % 0xFFFF)


def _chksum6(packet: IPv6, data: bytes) -> int:
    return int(in6_chksum(58, packet, data))  # type: ignore[no-untyped-call]


def _dotted(octets: bytes) -> str:
    return ".".join(str(octet) for octet in octets)

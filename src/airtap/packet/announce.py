"""ARP and neighbour discovery frames of airtap's own: announcements, probes and questions."""

import struct
from ipaddress import IPv4Address, IPv6Address

from ..names import octets

Address = IPv4Address | IPv6Address

_ETH_P_8021Q = 0x8100
_ETH_P_ARP = 0x0806
_ETH_P_IPV6 = 0x86DD
_ARP_REPLY = 2
_EVERYBODY = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1")
_SOLICITED_NODES = IPv6Address("ff02::1:ff00:0")
_ICMPV6 = 58
_NEIGHBOUR_SOLICIT = 135
_NEIGHBOUR_ADVERT = 136
_OVERRIDE = 0x20000000
_SOURCE_LINK_LAYER = 1
_TARGET_LINK_LAYER = 2


def announcement(address: Address, vlan: int, mac: str) -> bytes:
    """A frame to everybody by which address is at mac now. vlan: 0 for an untagged frame.

    An ARP announcement (RFC 5227, 2.3) or an unsolicited neighbour advertisement (RFC 4861,
    7.2.6).
    """
    own = octets(mac)
    if isinstance(address, IPv4Address):
        return _frame(_EVERYBODY, own, vlan, _ETH_P_ARP, _arp_request(own, address, address))
    option = bytes((_TARGET_LINK_LAYER, 1)) + own
    advert = _neighbour(_NEIGHBOUR_ADVERT, _OVERRIDE, address, option, address, _ALL_NODES)
    group = b"\x33\x33" + _ALL_NODES.packed[-4:]  # RFC 2464, 7
    return _frame(group, own, vlan, _ETH_P_IPV6, advert)


def probe(address: Address, vlan: int, source: str, holder: str) -> bytes:
    """A frame from source to holder (MACs) alone, which answers if address is its own.

    As a newcomer asks before it uses an address: an ARP probe (RFC 5227, 2.1.1), or the
    solicitation of duplicate address detection (RFC 4862, 5.4.2).
    """
    own, to = octets(source), octets(holder)
    if isinstance(address, IPv4Address):
        return _frame(to, own, vlan, _ETH_P_ARP, _arp_request(own, IPv4Address(0), address))
    nodes = _solicited_nodes(address)
    solicit = _neighbour(_NEIGHBOUR_SOLICIT, 0, address, b"", IPv6Address(0), nodes)
    return _frame(to, own, vlan, _ETH_P_IPV6, solicit)


def question(address: Address, mac: str) -> bytes:
    """A frame from mac to everybody that asks who has address; the answer comes to mac alone.

    An ARP probe (RFC 5227, 2.1.1), which no ARP cache takes notice of, or a neighbour solicitation
    from mac's own link-local address (RFC 4861, 7.2.2).
    """
    own = octets(mac)
    if isinstance(address, IPv4Address):
        return _frame(_EVERYBODY, own, 0, _ETH_P_ARP, _arp_request(own, IPv4Address(0), address))
    nodes = _solicited_nodes(address)
    option = bytes((_SOURCE_LINK_LAYER, 1)) + own
    solicit = _neighbour(_NEIGHBOUR_SOLICIT, 0, address, option, link_local(mac), nodes)
    group = b"\x33\x33" + nodes.packed[-4:]  # RFC 2464, 7
    return _frame(group, own, 0, _ETH_P_IPV6, solicit)


def is_answer(frame: bytes, address: Address, mac: str) -> bool:
    """Whether an untagged frame answers question(address, mac)."""
    if frame[:6] != octets(mac):
        return False
    if isinstance(address, IPv4Address):
        head = struct.pack("!HHHBBH", _ETH_P_ARP, 1, 0x0800, 6, 4, _ARP_REPLY)
        return frame[12:22] == head and frame[28:32] == address.packed
    kind = bytes((_ICMPV6,)), bytes((_NEIGHBOUR_ADVERT,))
    return (
        frame[12:14] == struct.pack("!H", _ETH_P_IPV6)
        and (frame[20:21], frame[54:55]) == kind
        and frame[62:78] == address.packed
    )


def link_local(mac: str) -> IPv6Address:
    """The link-local address that a device with this MAC makes of it (RFC 4291, appendix A)."""
    own = octets(mac)
    identifier = bytes((own[0] ^ 2,)) + own[1:3] + b"\xff\xfe" + own[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + identifier)


def _solicited_nodes(address: IPv6Address) -> IPv6Address:
    return IPv6Address(int(_SOLICITED_NODES) | int(address) & 0xFFFFFF)  # RFC 4291, 2.7.1


def _frame(to: bytes, source: bytes, vlan: int, kind: int, body: bytes) -> bytes:
    tag = struct.pack("!HH", _ETH_P_8021Q, vlan) if vlan else b""
    return (to + source + tag + struct.pack("!H", kind) + body).ljust(60, b"\0")


def _arp_request(mac: bytes, sender: IPv4Address, target: IPv4Address) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return head + mac + sender.packed + bytes(6) + target.packed


def _neighbour(
    kind: int,
    flags: int,
    target: IPv6Address,
    option: bytes,
    source: IPv6Address,
    destination: IPv6Address,
) -> bytes:
    """An IPv6 packet with a neighbour discovery message (RFC 4861, 4.3 and 4.4)."""
    message = struct.pack("!BBHI", kind, 0, 0, flags) + target.packed + option
    ends = source.packed + destination.packed
    checksum = _checksum(ends + struct.pack("!II", len(message), _ICMPV6) + message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + ends + message


def _checksum(data: bytes) -> int:
    """The Internet checksum of an even number of bytes (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

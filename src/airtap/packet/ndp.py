"""Neighbour discovery of IPv6 (RFC 4861). MACs are octets; vlan is 0 for no tag."""

import struct
from ipaddress import IPv6Address

from .checksum import internet_checksum
from .ethernet import ETH_P_IPV6, frame

_ALL_NODES = IPv6Address("ff02::1")
_SOLICITED_NODES = IPv6Address("ff02::1:ff00:0")
_ICMPV6 = 58
_ECHO, _SOLICITATION, _ADVERTISEMENT = 128, 135, 136
_OVERRIDE = 0x20000000
_SOURCE_LINK_LAYER, _TARGET_LINK_LAYER = 1, 2


def unsolicited_advertisement(address: IPv6Address, vlan: int, mac: bytes) -> bytes:
    """Return an unsolicited advertisement (7.2.6): to everybody, address is at mac now."""
    option = bytes((_TARGET_LINK_LAYER, 1)) + mac
    advert = _message(_ADVERTISEMENT, _OVERRIDE, address, option, address, _ALL_NODES)
    return frame(_group_mac(_ALL_NODES), mac, vlan, ETH_P_IPV6, advert)


def solicitation(
    address: IPv6Address, vlan: int, source: bytes, holder: bytes | None = None
) -> bytes:
    """Return a solicitation (7.2.2) from source's own link-local address, to holder alone if given.

    Who still detects whether address is free does not take it for a rival's (RFC 4862, 5.4.3).
    """
    nodes = _solicited_nodes(address)
    option = bytes((_SOURCE_LINK_LAYER, 1)) + source
    solicit = _message(_SOLICITATION, 0, address, option, link_local(source), nodes)
    return frame(holder or _group_mac(nodes), source, vlan, ETH_P_IPV6, solicit)


def all_nodes_echo(source: IPv6Address, mac: bytes) -> bytes:
    """Return an echo request (RFC 4443, 4.1) from source, at mac, to all nodes of the link.

    Who answers solicits for source first, from an address of its own in the same network.
    """
    echo = _packet(struct.pack("!BBHI", _ECHO, 0, 0, 0), source, _ALL_NODES)
    return frame(_group_mac(_ALL_NODES), mac, 0, ETH_P_IPV6, echo)


def answering_mac(answer: bytes, address: IPv6Address) -> bytes | None:
    """Return the MAC at which an untagged frame advertises address; None if it does not.

    Where it names none (4.4), it is the one that the frame comes from.
    """
    if not (
        answer[12:14] == struct.pack("!H", ETH_P_IPV6)
        and (answer[20:21], answer[54:55]) == (bytes((_ICMPV6,)), bytes((_ADVERTISEMENT,)))
        and answer[62:78] == address.packed
    ):
        return None
    has_option = answer[78:80] == bytes((_TARGET_LINK_LAYER, 1)) and len(answer) >= 86
    return answer[80:86] if has_option else answer[6:12]


def link_local(mac: bytes) -> IPv6Address:
    """Return the link-local address that a device makes of its MAC (RFC 4291, appendix A)."""
    identifier = bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + identifier)


def _solicited_nodes(address: IPv6Address) -> IPv6Address:
    return IPv6Address(int(_SOLICITED_NODES) | int(address) & 0xFFFFFF)  # RFC 4291, 2.7.1


def _group_mac(group: IPv6Address) -> bytes:
    return b"\x33\x33" + group.packed[-4:]  # RFC 2464, 7


def _message(
    kind: int,
    flags: int,
    target: IPv6Address,
    option: bytes,
    source: IPv6Address,
    destination: IPv6Address,
) -> bytes:
    """Return an IPv6 packet with a message of neighbour discovery (4.3, 4.4)."""
    message = struct.pack("!BBHI", kind, 0, 0, flags) + target.packed + option
    return _packet(message, source, destination)


def _packet(message: bytes, source: IPv6Address, destination: IPv6Address) -> bytes:
    """Return an IPv6 packet with a message of ICMPv6, which gets its checksum."""
    ends = source.packed + destination.packed
    checksum = internet_checksum(ends + struct.pack("!II", len(message), _ICMPV6) + message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + ends + message

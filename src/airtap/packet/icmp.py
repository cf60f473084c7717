"""ICMP echo requests and replies (RFC 792, RFC 4443 4.1 and 4.2)."""

import struct

from .checksum import internet_checksum

# include/uapi/linux/icmp.h, include/uapi/linux/icmpv6.h
ECHO_REPLY4, ECHO_REPLY6 = 0, 129
_ECHO4, _ECHO6 = 8, 128
_HEAD = struct.Struct("!BBHHH")


def echo_request(six: bool, sequence: int, token: bytes) -> bytes:
    """Return an echo request. six: whether it is ICMPv6's, of which the kernel makes the checksum.

    A part of the IPv6 header is in that.
    """
    kind = _ECHO6 if six else _ECHO4
    identifier = int.from_bytes(token[:2])
    zero = _HEAD.pack(kind, 0, 0, identifier, sequence) + token
    checksum = 0 if six else internet_checksum(zero)
    return _HEAD.pack(kind, 0, checksum, identifier, sequence) + token


def answered(six: bool, packet: bytes, token: bytes) -> int | None:
    """Return the sequence number of the request that a packet answers, None if it answers none.

    packet: as a raw socket gives it, of IPv4 with its header.
    """
    start = 0 if six or not packet else (packet[0] & 0x0F) * 4
    message = packet[start:]
    if len(message) < _HEAD.size or message[8:] != token:
        return None
    kind, code, _, _, sequence = _HEAD.unpack_from(message)
    return sequence if (kind, code) == (ECHO_REPLY6 if six else ECHO_REPLY4, 0) else None

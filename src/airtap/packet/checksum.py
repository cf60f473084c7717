"""The Internet checksum (RFC 1071)."""

import struct


def internet_checksum(data: bytes) -> int:
    """Return the checksum of data; 0 if data holds its own, and that is right."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

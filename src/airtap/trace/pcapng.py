"""Frames in a pcapng file: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html.

It is in the host's byte order, which readers find out by the section header's magic number.
"""

import struct
from collections.abc import Sequence

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_ETHERNET = 1  # LINKTYPE_ETHERNET
_OPT_COMMENT, _IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 1, 2, 3, 9
_NANOSECONDS = b"\x09"


def header(interfaces: Sequence[tuple[str, str]], snap: int) -> bytes:
    """Return the start of a file: its section and interfaces.

    interfaces: a name and a description of each.
    snap: bytes that are kept of a frame.
    """
    section = struct.pack("=IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
    blocks = [_block(_SECTION, section)]
    for name, description in interfaces:
        options = _option(_IF_NAME, name.encode()) + _option(_IF_DESCRIPTION, description.encode())
        options += _option(_IF_TSRESOL, _NANOSECONDS) + _option(0, b"")
        blocks.append(_block(_INTERFACE, struct.pack("=HHI", _ETHERNET, 0, snap) + options))
    return b"".join(blocks)


def packet(interface: int, time: int, frame: bytes, length: int, comment: str = "") -> bytes:
    """Return the block of a frame.

    interface: its number in the header.
    time: ns since 1970.
    length: bytes of the whole frame, of which some may be missing.
    """
    head = struct.pack(
        "=IIIII", interface, time >> 32, time & 0xFFFFFFFF, len(frame), max(length, len(frame))
    )
    options = _option(_OPT_COMMENT, comment.encode()) + _option(0, b"") if comment else b""
    return _block(_PACKET, head + _padded(frame) + options)


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("=II", kind, length) + body + struct.pack("=I", length)


def _option(code: int, value: bytes) -> bytes:
    value = value[:0xFFFF]
    return struct.pack("=HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)

"""Virtio headers: what a guest has the kernel do to a frame that it has written.

The kernel writes a checksum late, and where the guest says (virtio_net_hdr_to_skb()). A guest that
counts backwards has it write what it likes there, after whoever looked at the frame before.
"""

from __future__ import annotations

import struct

from lab.adversary import packets as p

SIZE = 10
_NEEDS_CSUM = 1
_TCP4, _UDP, _TCP6, _UDP_L4, _ECN = 1, 3, 4, 5, 0x80
# The network header is at least as far in (virtio_net_hdr_to_skb(): nh_min_len).
_FIRST = 20
_COVERS = (b"\x11\xff", b"\xc5\xff", b"\x40\x11", b"\x12\x34", b"\0\0")
_PLAIN = bytes(SIZE)


def headed(frame: bytes, number: int) -> bytes:
    """A frame behind a header, and before its mark.

    number: 0 for a header that asks for nothing. Of others, most hide two bytes of the frame until
    the kernel writes them: where, and what stands there instead, are in the number. The rest
    have the kernel cut the frame into segments, or write the checksum where it belongs.
    """
    if number == 0:
        return _PLAIN + frame + p.MARK
    rest, choice = divmod(number - 1, 4)
    if choice == 3:
        return _segmented(frame, rest)
    place, cover = divmod(rest, len(_COVERS))
    return hidden(frame, _FIRST + 2 * (place % 40), _COVERS[cover]) or _PLAIN + frame + p.MARK


def hidden(frame: bytes, at: int, cover: bytes) -> bytes | None:
    """A frame of which two bytes are covered, and that has the kernel write the right ones."""
    if at + 2 > len(frame):
        return None
    padded = frame + p.MARK + b"\0" * (len(frame) % 2)
    wanted = struct.unpack("!H", padded[at : at + 2])[0]
    covered = padded[:at] + cover + padded[at + 2 :]
    # What is written is the complement of the sum from `at` on, in which the cover counts.
    missing = (0xFFFF - wanted - p.total(covered[at:])) % 0xFFFF
    header = struct.pack("=BBHHHH", _NEEDS_CSUM, 0, 0, 0, at, 0)
    return header + covered + struct.pack("!H", missing)


def _segmented(frame: bytes, number: int) -> bytes:
    """A header that asks for segments, and for a checksum behind the IP header."""
    number, kind = divmod(number, 6)
    number, size = divmod(number, 4)
    gso = (0, _UDP, _UDP_L4, _TCP4, _TCP6, _TCP4 | _ECN)[kind]
    start = 14 + (40 if frame[12:14] == b"\x86\xdd" else 20) + (0, 4, 8, 24)[number % 4]
    header = struct.pack(
        "=BBHHHH", _NEEDS_CSUM, gso, start + 8, (64, 1, 8, 512)[size], start, 6 if gso != 1 else 16
    )
    return header + frame

"""Packet sockets: a look at a guest's first frames, for its MAC, and frames of our own."""

import asyncio
import ctypes
import socket
import struct
from contextlib import suppress

_ETH_P_ALL = 0x0003
_SO_ATTACH_FILTER = 26
_HEADER_BYTES = 14
_BURST = 8

# Classic BPF (include/uapi/linux/filter.h). The LAN's frames to the guest stay in the kernel,
# and so do the guest's own whose source address is multicast, which no station has.
_FILTER = [
    (0x28, 0, 0, 0xFFFFF004),  # ldh [SKF_AD_OFF + SKF_AD_PKTTYPE]
    (0x15, 0, 3, 4),  # jeq PACKET_OUTGOING, else drop
    (0x30, 0, 0, 6),  # ldb [6]: first byte of the source address
    (0x45, 1, 0, 1),  # jset 1: group address, drop
    (0x06, 0, 0, _HEADER_BYTES),  # ret 14 bytes
    (0x06, 0, 0, 0),  # ret 0: drop
]


def open_frames(index: int) -> socket.socket:
    """A socket that sees the headers of what the guest behind device index sends from now on.

    Raises OSError.
    """
    frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        code = b"".join(struct.pack("HBBI", *instruction) for instruction in _FILTER)
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HP", len(_FILTER), ctypes.addressof(buffer))
        frames.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        # A guest that floods fills this and no more.
        frames.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        frames.bind((socket.if_indextoname(index), _ETH_P_ALL))
    except BaseException:
        frames.close()
        raise
    return frames


async def source_macs(frames: socket.socket) -> list[str]:
    """Wait for frames, then give the source addresses of the next few, oldest first.

    Raises OSError: ENETDOWN, the device went down or is gone.
    """
    headers = [await asyncio.get_running_loop().sock_recv(frames, _HEADER_BYTES)]
    with suppress(BlockingIOError):
        while len(headers) < _BURST:
            headers.append(frames.recv(_HEADER_BYTES))
    return [header[6:12].hex(":") for header in headers if len(header) == _HEADER_BYTES]


def send(device: str, frames: list[bytes]) -> bool:
    """Send frames as the host on a device; false if it is down or gone."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packets:
            packets.bind((device, 0))
            for frame in frames:
                packets.send(frame)
    except OSError:
        return False
    return True

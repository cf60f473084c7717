"""Packet sockets, which show a guest's first frames, for its MAC, and send frames of our own."""

import asyncio
import ctypes
import socket
import struct
from contextlib import suppress

_ETH_P_ALL = 0x0003
_SO_ATTACH_FILTER = 26
_HEADER_BYTES = 14
_BURST = 8

# include/uapi/linux/if_packet.h
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_BESIDE_PROGRAMS = (_SOL_PACKET, 20, 1)  # PACKET_QDISC_BYPASS
_PACKET_MR_PROMISC = 1
_ANSWER_BYTES = 2048

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
# What may answer a question of ours: ARP, and neighbour advertisements.
_ANSWERS = [
    (0x28, 0, 0, 0xFFFFF004),  # ldh [SKF_AD_OFF + SKF_AD_PKTTYPE]
    (0x15, 8, 0, 4),  # jeq PACKET_OUTGOING: drop
    (0x28, 0, 0, 12),  # ldh [12]: the EtherType
    (0x15, 5, 0, 0x0806),  # jeq ARP: accept
    (0x15, 0, 5, 0x86DD),  # jeq IPv6, else drop
    (0x30, 0, 0, 20),  # ldb [20]: next header
    (0x15, 0, 3, 58),  # jeq ICMPv6, else drop
    (0x30, 0, 0, 54),  # ldb [54]: type
    (0x15, 0, 1, 136),  # jeq neighbour advertisement, else drop
    (0x06, 0, 0, _ANSWER_BYTES),  # ret: accept
    (0x06, 0, 0, 0),  # ret 0: drop
]


def open_frames(index: int) -> socket.socket:
    """A socket that sees the headers of what the guest behind device index sends from now on.

    Raises OSError.
    """
    # A guest that floods fills this and no more.
    room = (socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    return _opened(socket.if_indextoname(index), _FILTER, room)


async def source_macs(frames: socket.socket) -> list[str]:
    """Wait for frames, then give the source addresses of the next few, oldest first.

    Raises OSError: ENETDOWN, the device went down or is gone.
    """
    headers = [await asyncio.get_running_loop().sock_recv(frames, _HEADER_BYTES)]
    with suppress(BlockingIOError):
        while len(headers) < _BURST:
            headers.append(frames.recv(_HEADER_BYTES))
    return [header[6:12].hex(":") for header in headers if len(header) == _HEADER_BYTES]


class Exchange:
    """Frames of any source MAC out of a device, and the answers that come for any.

    They pass beside the device's clsact programs, and so beside MAC NAT, and, if promiscuous,
    whatever their destination: a device need not take them as its own.
    """

    def __init__(self, name: str, *, promiscuous: bool = True) -> None:
        """Raises OSError."""
        everything = struct.pack("iHH8x", socket.if_nametoindex(name), _PACKET_MR_PROMISC, 0)
        options = [(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, everything)] if promiscuous else []
        self._socket = _opened(name, _ANSWERS, *options, _BESIDE_PROGRAMS)

    def __enter__(self) -> "Exchange":
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        """Send a frame. One that the device has no carrier for is lost, as any may be."""
        with suppress(OSError):
            self._socket.send(frame)

    async def receive(self) -> bytes:
        """Wait for a frame that may be an answer. Raises OSError: the device went down."""
        return await asyncio.get_running_loop().sock_recv(self._socket, _ANSWER_BYTES)


def _opened(
    device: str, passing: list[tuple[int, int, int, int]], *options: tuple[int, int, int | bytes]
) -> socket.socket:
    """A socket with options that gets the frames of a device that a filter lets pass."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in passing)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(passing), ctypes.addressof(buffer))
    frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        for option in ((socket.SOL_SOCKET, _SO_ATTACH_FILTER, program), *options):
            frames.setsockopt(*option)
        frames.bind((device, _ETH_P_ALL))
    except BaseException:
        frames.close()
        raise
    return frames


def send(device: str, frames: list[bytes]) -> bool:
    """Send frames as the host on a device. Returns whether it took them: it may be down or gone."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packets:
            # Past our own programs, which would tell guests as well.
            packets.setsockopt(*_BESIDE_PROGRAMS)
            packets.bind((device, 0))
            for frame in frames:
                packets.send(frame)
    except OSError:
        return False
    return True

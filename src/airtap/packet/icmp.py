"""Pings: ICMP echo requests out of one device, and the answers to them."""

import asyncio
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ..errors import reason

Address = IPv4Address | IPv6Address

# include/uapi/linux/icmp.h, include/uapi/linux/icmpv6.h
_ECHO4, _REPLY4 = 8, 0
_ECHO6, _REPLY6 = 128, 129
_ICMP_FILTER = 1
_ICMPV6_FILTER = 1
_SOL_RAW = 255
_HEAD = "!BBHHH"
# A mark that no other ping of this host bears: raw sockets hear the answers to all.
_TOKEN_BYTES = 16
_LARGEST = 2048
_AGAIN_S = 0.5


@dataclass(frozen=True)
class Echo:
    """What became of a ping.

    seconds: from the request that was answered to its answer; None without one. refused: what
    the kernel said to the last request that it would not send, "" if it sent all.
    """

    seconds: float | None
    refused: str = ""


class Pinger:
    """Echo requests to one address out of the device called device, from __enter__ to __exit__."""

    def __init__(self, address: Address, device: str) -> None:
        """Raises OSError."""
        self._to = _sockaddr(address, device)
        self._six = isinstance(address, IPv6Address)
        self._token = os.urandom(_TOKEN_BYTES)
        self._sent: list[float] = []
        self.refused = ""
        self._socket = _open(self._six, device)

    def __enter__(self) -> "Pinger":
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def send(self) -> None:
        """Send one request; what the kernel refuses is noted."""
        sequence = len(self._sent) & 0xFFFF
        self._sent.append(asyncio.get_running_loop().time())
        try:
            self._socket.sendto(echo_request(self._six, sequence, self._token), self._to)
            self.refused = ""
        except OSError as exc:
            self.refused = reason(exc)

    async def answer(self) -> float:
        """Wait for an answer; returns how long it took, in seconds. Raises OSError."""
        loop = asyncio.get_running_loop()
        while True:
            packet = await loop.sock_recv(self._socket, _LARGEST)
            sequence = answered(self._six, packet, self._token)
            if sequence is not None and sequence < len(self._sent):
                return loop.time() - self._sent[sequence]
            await asyncio.sleep(0)  # a flood of answers to others leaves time-outs their turn


async def ping(pinger: Pinger, seconds: float) -> Echo:
    """Ask twice a second until an answer comes, for so long at most. Raises OSError."""
    asking = asyncio.create_task(_ask(pinger))
    try:
        async with asyncio.timeout(seconds):
            return Echo(await pinger.answer())
    except TimeoutError:
        return Echo(None, pinger.refused)
    finally:
        asking.cancel()


async def _ask(pinger: Pinger) -> None:
    while True:
        pinger.send()
        await asyncio.sleep(_AGAIN_S)


def echo_request(six: bool, sequence: int, token: bytes) -> bytes:
    """An ICMP echo request (RFC 792, RFC 4443 4.1). six: whether it is ICMPv6's.

    Of that the kernel makes the checksum, as a part of the IPv6 header is in it.
    """
    kind = _ECHO6 if six else _ECHO4
    identifier = int.from_bytes(token[:2])
    zero = struct.pack(_HEAD, kind, 0, 0, identifier, sequence) + token
    checksum = 0 if six else _checksum(zero)
    return struct.pack(_HEAD, kind, 0, checksum, identifier, sequence) + token


def answered(six: bool, packet: bytes, token: bytes) -> int | None:
    """The sequence number of the request that a packet answers, None if it answers none.

    packet: as a raw socket gives it, of IPv4 with its header.
    """
    start = 0 if six or not packet else (packet[0] & 0x0F) * 4
    message = packet[start:]
    if len(message) < struct.calcsize(_HEAD) or message[8:] != token:
        return None
    kind, code, _, _, sequence = struct.unpack_from(_HEAD, message)
    return sequence if (kind, code) == (_REPLY6 if six else _REPLY4, 0) else None


def _open(six: bool, device: str) -> socket.socket:
    family = socket.AF_INET6 if six else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        if six:  # bits of what is not wanted, by type
            wanted = [0xFFFFFFFF] * 8
            wanted[_REPLY6 // 32] &= ~(1 << _REPLY6 % 32)
            raw.setsockopt(protocol, _ICMPV6_FILTER, struct.pack("=8I", *wanted))
        else:
            unwanted = 0xFFFFFFFF & ~(1 << _REPLY4)
            raw.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", unwanted))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    except BaseException:
        raw.close()
        raise
    return raw


def _sockaddr(address: Address, device: str) -> tuple[str, int] | tuple[str, int, int, int]:
    if isinstance(address, IPv4Address):
        return str(address), 0
    return str(address), 0, 0, socket.if_nametoindex(device) if address.is_link_local else 0


def _checksum(data: bytes) -> int:
    """The Internet checksum of an even number of bytes (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

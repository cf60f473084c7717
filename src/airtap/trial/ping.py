"""Pings: ICMP echo requests out of one device, and the answers to them."""

import asyncio
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from ..errors import reason
from ..kernel.addresses import Address
from ..packet.icmp import ECHO_REPLY4, ECHO_REPLY6, answered, echo_request

# include/uapi/linux/icmp.h, include/uapi/linux/icmpv6.h
_ICMP_FILTER = 1
_ICMPV6_FILTER = 1
_SOL_RAW = 255
# A mark that no other ping of this host bears: raw sockets hear the answers to all.
_TOKEN_BYTES = 16
_LARGEST = 2048
_AGAIN_S = 0.5


@dataclass(frozen=True)
class Echo:
    """What became of a ping.

    seconds: from the request that was answered to its answer; None without one.
    refused: what the kernel said to the last request that it would not send, "" if it sent all.
    """

    seconds: float | None
    refused: str = ""


class Pinger:
    """Pings one address out of one device: twice a second, for as long as its context lasts."""

    def __init__(self, address: Address, device: str) -> None:
        """Raises OSError."""
        self._to = _sockaddr(address, device)
        self._six = isinstance(address, IPv6Address)
        self._token = os.urandom(_TOKEN_BYTES)
        self._sent: list[float] = []
        self._refused = ""
        self._socket = _open(self._six, device)

    def __enter__(self) -> Self:
        self._asking = asyncio.create_task(self._ask())
        return self

    def __exit__(self, *_: object) -> None:
        self._asking.cancel()
        self._socket.close()

    async def echo(self, seconds: float) -> Echo:
        """Wait for an answer, for so many seconds at most. Raises OSError."""
        try:
            async with asyncio.timeout(seconds):
                return Echo(await self._answer())
        except TimeoutError:
            return Echo(None, self._refused)

    async def _ask(self) -> None:
        while True:
            self._send()
            await asyncio.sleep(_AGAIN_S)

    def _send(self) -> None:
        """Send one request, and note what the kernel refuses."""
        sequence = len(self._sent) & 0xFFFF
        self._sent.append(asyncio.get_running_loop().time())
        try:
            self._socket.sendto(echo_request(self._six, sequence, self._token), self._to)
            self._refused = ""
        except OSError as exc:
            self._refused = reason(exc)

    async def _answer(self) -> float:
        """Wait for an answer, and return how long it took, in seconds."""
        loop = asyncio.get_running_loop()
        while True:
            packet = await loop.sock_recv(self._socket, _LARGEST)
            sequence = answered(self._six, packet, self._token)
            if sequence is not None and sequence < len(self._sent):
                return loop.time() - self._sent[sequence]
            await asyncio.sleep(0)  # a flood of answers to others leaves time-outs their turn


def _open(six: bool, device: str) -> socket.socket:
    family = socket.AF_INET6 if six else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        if six:  # bits of what is not wanted, by type
            wanted = [0xFFFFFFFF] * 8
            wanted[ECHO_REPLY6 // 32] &= ~(1 << ECHO_REPLY6 % 32)
            raw.setsockopt(protocol, _ICMPV6_FILTER, struct.pack("=8I", *wanted))
        else:
            unwanted = 0xFFFFFFFF & ~(1 << ECHO_REPLY4)
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

"""rtnetlink's notifications, as far as they say where to look again.

Only the head of a message is read: what changed is asked of the kernel afterwards. pyroute2 would
decode each message whole, at about a millisecond, and one attach on a wired parent causes six that
concern nobody.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Callable

from .netlink import messages

# include/uapi/linux/rtnetlink.h: RTNLGRP_*
_GROUPS = {
    "link": 1,
    "tc": 4,
    "ipv4_ifaddr": 5,
    "ipv4_route": 7,
    "ipv6_ifaddr": 9,
    "ipv6_route": 11,
}
# Message types. struct ifinfomsg, ifaddrmsg and tcmsg all have the ifindex at byte 4.
_OF_A_DEVICE = {16, 17, 20, 21, 36, 37, 44, 45}  # RTM_{NEW,DEL}{LINK,ADDR,QDISC,TFILTER}
_ROUTE = {24, 25}
_INDEX = struct.Struct("=4xi")
_RECEIVE_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 20


class Events:
    """Calls back with the ifindex of a device at which something changed.

    on_event(None): anywhere; a route changed, or the socket overflowed.
    """

    def __init__(self, on_event: Callable[[int | None], None]) -> None:
        self._on_event = on_event
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._socket.bind((0, sum(1 << (group - 1) for group in _GROUPS.values())))
            asyncio.get_running_loop().add_reader(self._socket, self._read)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        try:
            packet = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                raise
            self._on_event(None)
            return
        for index in changed(packet):
            self._on_event(index)


def changed(packet: bytes) -> list[int | None]:
    """The devices that the messages in a packet are about; None for all."""
    found: list[int | None] = []
    for kind, body in messages(packet):
        if kind in _ROUTE:
            found.append(None)
        elif kind in _OF_A_DEVICE and len(body) >= _INDEX.size:
            found.append(_INDEX.unpack_from(body)[0])
    return found

"""rtnetlink's notifications, as far as they say where to look again.

Only the head of a message is read: what changed is asked of the kernel afterwards. pyroute2 would
decode each message whole, at about a millisecond, and one attach on a wired parent causes six that
concern nobody.
"""

import socket
import struct
from collections.abc import Callable

from .netlink import MulticastSocket, messages

# include/uapi/linux/rtnetlink.h: RTNLGRP_{LINK,TC,IPV4_IFADDR,IPV4_ROUTE,IPV6_IFADDR,IPV6_ROUTE}
_GROUPS = (1, 4, 5, 7, 9, 11)
# Message types. struct ifinfomsg and tcmsg both have the ifindex at byte 4.
_OF_A_DEVICE = {16, 17, 36, 37, 44, 45}  # RTM_{NEW,DEL}{LINK,QDISC,TFILTER}
_OF_THE_HOST = {20, 21, 24, 25}  # RTM_{NEW,DEL}{ADDR,ROUTE}
_INDEX = struct.Struct("=4xi")
_BUFFER_BYTES = 1 << 20


class Events(MulticastSocket):
    """Calls back with the ifindex of a device at which something changed.

    on_event(None) means that it may be any: the host's addresses or routes changed, or the socket
    overflowed.
    """

    def __init__(self, on_event: Callable[[int | None], None]) -> None:
        super().__init__(socket.NETLINK_ROUTE, _GROUPS, _BUFFER_BYTES, changed, on_event)


def changed(packet: bytes) -> list[int | None]:
    """The devices that the messages in a packet are about; None for all."""
    found: list[int | None] = []
    for kind, body in messages(packet):
        if kind in _OF_THE_HOST:
            found.append(None)
        elif kind in _OF_A_DEVICE and len(body) >= _INDEX.size:
            found.append(_INDEX.unpack_from(body)[0])
    return found

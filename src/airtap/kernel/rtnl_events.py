"""rtnetlink's notifications, as far as they say where to look again.

Little more than the head of a message is read: what changed is asked of the kernel afterwards.
pyroute2 would decode each message whole, at about a millisecond, and one attach on a wired parent
causes six that concern nobody.
"""

import socket
import struct
from collections.abc import Callable
from functools import partial

from .netlink import MulticastSocket, attribute_parts, messages

# include/uapi/linux/rtnetlink.h: RTNLGRP_{LINK,TC,IPV4_IFADDR,IPV4_ROUTE,IPV6_IFADDR,IPV6_ROUTE}
_GROUPS = (1, 4, 5, 7, 9, 11)
# Message types. struct ifinfomsg and tcmsg both have the ifindex at byte 4.
_OF_A_DEVICE = {16, 17, 36, 37, 44, 45}  # RTM_{NEW,DEL}{LINK,QDISC,TFILTER}
_OF_THE_HOST = {20, 21, 24, 25}  # RTM_{NEW,DEL}{ADDR,ROUTE}
_NEWLINK, _DELLINK = 16, 17
_IFINFOMSG_BYTES, _IFLA_ADDRESS = 16, 1
_INDEX = struct.Struct("=4xi")
_BUFFER_BYTES = 1 << 20


OnLink = Callable[[int, str | None], None]


class Events(MulticastSocket):
    """Calls back with the ifindex of a device at which something changed.

    on_event(None) means that it may be any: the host's addresses or routes changed, or the socket
    overflowed.
    on_link is called before, with a device and the MAC that it had at that moment, or None: the
    device is gone, and its ifindex may be another's next.
    """

    def __init__(self, on_event: Callable[[int | None], None], on_link: OnLink) -> None:
        read = partial(changed, on_link=on_link)
        super().__init__(socket.NETLINK_ROUTE, _GROUPS, _BUFFER_BYTES, read, on_event)


def changed(packet: bytes, on_link: OnLink) -> list[int | None]:
    """The devices that the messages in a packet are about; None for all."""
    found: list[int | None] = []
    for kind, body in messages(packet):
        if kind in _OF_THE_HOST:
            found.append(None)
        elif kind in _OF_A_DEVICE and len(body) >= _INDEX.size:
            index: int = _INDEX.unpack_from(body)[0]
            if kind in (_NEWLINK, _DELLINK):
                on_link(index, _mac(body) if kind == _NEWLINK else None)
            found.append(index)
    return found


def _mac(body: bytes) -> str:
    """The MAC in the body of a RTM_NEWLINK; "" if there is none."""
    parts = attribute_parts(body[_IFINFOMSG_BYTES:])
    return next((value.hex(":") for kind, value in parts if kind == _IFLA_ADDRESS), "")

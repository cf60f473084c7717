"""nl80211's notifications, as far as they say where to look again; see events.py."""

import asyncio
import errno
import socket
from collections.abc import Callable
from pathlib import Path

from .genetlink import NETLINK_GENERIC, Family, of_message
from .netlink import messages, number

# Interfaces that change (4-address mode), and stations that associate or leave.
_GROUPS = ("config", "mlme")
_IFINDEX = 3  # include/uapi/linux/nl80211.h: NL80211_ATTR_IFINDEX
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1  # include/uapi/linux/netlink.h
_RECEIVE_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 18
# cfg80211 makes it. Without it, to ask for the family would load the module.
_CLASS = Path("/sys/class/ieee80211")


class WifiEvents:
    """Calls back with the ifindex of a device at which something changed in 802.11.

    on_event(None): anywhere; the socket overflowed. Needs a running event loop. On a host that has
    no 802.11 yet nothing is heard: call join() again when a device appears.
    """

    def __init__(self, on_event: Callable[[int | None], None]) -> None:
        self._on_event = on_event
        self._family = 0
        self._socket: socket.socket | None = None
        self.join()

    def join(self) -> bool:
        """Listen from now on, if that is possible yet; return whether. Repeating it is fine."""
        if self._socket is None and _CLASS.exists():
            try:
                with Family("nl80211") as family:
                    self._socket = _listening(family)
                    self._family = family.number
            except OSError:
                return False
            asyncio.get_running_loop().add_reader(self._socket, self._read, self._socket)
        return self._socket is not None

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def _read(self, heard: socket.socket) -> None:
        try:
            packet = heard.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                raise
            self._on_event(None)
            return
        for index in changed(packet, self._family):
            self._on_event(index)


def changed(packet: bytes, family: int) -> list[int]:
    """The devices that the messages of a family in a packet are about.

    A message about none concerns a radio, or an interface without a network device (P2P).
    """
    heads = (of_message(payload) for kind, payload in messages(packet) if kind == family)
    return [number(head[_IFINDEX]) for head in heads if _IFINDEX in head]


def _listening(family: Family) -> socket.socket:
    heard = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_GENERIC
    )
    try:
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        heard.bind((0, 0))
        for name in _GROUPS:
            heard.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, family.groups[name])
    except BaseException:
        heard.close()
        raise
    return heard

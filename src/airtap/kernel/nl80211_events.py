"""nl80211's notifications, as far as they say where to look again; see rtnl_events.py."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from .genetlink import NETLINK_GENERIC, Family, of_message
from .netlink import MulticastSocket, messages, number

# Interfaces that change (4-address mode), and stations that associate or leave.
_GROUPS = ("config", "mlme")
_IFINDEX = 3  # include/uapi/linux/nl80211.h: NL80211_ATTR_IFINDEX
_BUFFER_BYTES = 1 << 18
# cfg80211 makes it. Without it, to ask for the family would load the module.
_CLASS = Path("/sys/class/ieee80211")


class WifiEvents:
    """Calls back with the ifindex of a device whose 802.11 state changed.

    on_event(None) means that it may be any, as the socket overflowed. Needs a running event loop.
    On a host that has no 802.11 yet nothing is heard: call join() again when a device appears.
    """

    def __init__(self, on_event: Callable[[int | None], None]) -> None:
        self._on_event = on_event
        self._socket: MulticastSocket | None = None
        self.join()

    def join(self) -> bool:
        """Listen from now on, if that is possible yet; return whether. Repeating it is fine."""
        if self._socket is None and _CLASS.exists():
            try:
                with Family("nl80211", anew=True) as family:
                    groups = [family.groups[name] for name in _GROUPS]
                    heard = partial(changed, family=family.number)
                    self._socket = MulticastSocket(
                        NETLINK_GENERIC, groups, _BUFFER_BYTES, heard, self._on_event
                    )
            except OSError:
                return False
        return self._socket is not None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def changed(packet: bytes, family: int) -> list[int]:
    """The devices that the messages of a family in a packet are about.

    A message about none concerns a radio, or an interface without a network device (P2P).
    """
    heads = (of_message(payload) for kind, payload in messages(packet) if kind == family)
    return [number(head[_IFINDEX]) for head in heads if _IFINDEX in head]

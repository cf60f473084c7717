"""MAC NAT at work on one uplink: its guests, what it reports, and the questions to guests."""

import asyncio
import logging
import socket
from collections.abc import Callable

from .announce import announcement
from .former import Former
from .inquiries import Inquiries
from .kernel.frames import send
from .kernel.links import Link
from .kernel.macnat import Event, Macnat

log = logging.getLogger(__name__)


class Uplink:
    """MAC NAT at work on one uplink. Needs a running event loop.

    kind: of its children. one_mac: guests get the uplink's MAC; else they must use it (ipvtap).
    children: ifindex to MAC, None while it is to be learned; know() and forget() change it.
    expected: attaches under way, for whose sake it stays on without a child.
    on_spoke: called with the ifindex of a child whose guest has told its MAC.
    """

    def __init__(
        self,
        link: Link,
        kind: str,
        one_mac: bool,
        nat: Macnat,
        former: Former,
        on_spoke: Callable[[int], None],
    ) -> None:
        self.link = link
        self.kind = kind
        self.one_mac = one_mac
        self.nat = nat
        self.children: dict[int, str | None] = {}
        self.expected = 0
        self._awaited = 0.0
        self._former = former
        self._on_spoke = on_spoke
        self._inquiries = Inquiries(nat, link.name)
        self._loop = asyncio.get_running_loop()
        self._events = nat.watch(self._on_event)
        self._loop.add_reader(self._events, nat.consume)

    def close(self, *, remove: bool = False) -> None:
        """End this object; what is attached goes on. remove: forget the pinned state too."""
        self._loop.remove_reader(self._events)
        self._inquiries.close()
        if remove:
            self.nat.remove()
        else:
            self.nat.close()

    def await_child(self, seconds: float) -> None:
        """Stay needed for so long, for a child that somebody else is to make."""
        self._awaited = self._loop.time() + seconds

    def is_needed(self) -> bool:
        """Whether there is a child, or is to be one."""
        return bool(self.children or self.expected) or self._loop.time() < self._awaited

    def know(self, index: int, mac: str | None) -> None:
        """Note a child, or its MAC; a guest that was here before has its addresses again.

        Guests that use the uplink's MAC are not known by it.
        """
        for other, known in list(self.children.items()):
            # Of a guest that is quicker back than the news of its end.
            if mac and known == mac and other != index and not _is_there(other):
                self.forget(other)
        self.nat.add_guest(index, mac)
        self.children[index] = mac
        if mac and self.one_mac:
            self.nat.give_back(index, mac, self._former.take(self.link.index, mac))

    def forget(self, index: int) -> None:
        """Forget a child. One that is not known is success."""
        held = self.nat.remove_guest(index)
        mac = self.children.pop(index, None)
        if mac and self.one_mac:
            self._former.note(self.link.index, mac, held)

    def announce(self, link: Link) -> None:
        """Tell the LAN that every guest's address is at the uplink's new MAC, that of link."""
        entries = self.nat.addresses()
        send(link.name, [announcement(entry.address, entry.vlan, link.mac) for entry in entries])

    def ask_for_idle(self) -> None:
        """Ask guests for their addresses that were not seen in use for a while."""
        self._inquiries.ask_for_idle()

    def _on_event(self, event: Event) -> None:
        log.debug("%s: %s", self.link.name, event)
        if event.what == "spoke":
            self._on_spoke(event.ifindex)
        if event.address and event.reason == "guest-address":
            self._inquiries.ask(event.address, event.vlan)
        if event.address and event.what == "probed":
            self._inquiries.ask_later(event.ifindex, event.address, event.vlan, event.mac)


def _is_there(index: int) -> bool:
    try:
        return bool(socket.if_indextoname(index))
    except OSError:
        return False

"""Guests that change their MAC: a device whose MAC was learned follows its guest to another one.

Firmware speaks with the MAC that the card came with, and the system behind it with one of its own
(Tails, NetworkManager's cloned-mac-address, DECnet), which from_guest refuses. A guest has changed
its MAC if it speaks with one other, and no more with its own: where that is asked for what the
guest has, nobody answers. So one with a bridge inside, which speaks with several, keeps its own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from ..alias import Owner
from ..bpf.records import Event
from ..bpf.settings import REFRESH_S
from ..bpf.tables import GuestTable
from ..errors import Problem
from ..kernel.links import GROUP, Link, LinkError, LinkNotFound, Links
from ..names import mac_address
from .address_probe import AddressProbes

log = logging.getLogger(__name__)

# For how long a guest must have spoken with another MAC, and with its own no more; and when that is
# asked: use that was noted just before is not noted anew till then.
_SILENT_S = 3.0
_ASK_S = REFRESH_S + 0.25


@dataclass
class _Speaker:
    """Another MAC that a guest speaks with, and since when."""

    mac: str
    since: float
    asking: asyncio.TimerHandle


class MacChanges:
    """The guests of one uplink whose MAC was learned. Needs a running event loop.

    user tells in words who has a MAC, "" for nobody. enqueue is called for a device that is to
    follow().
    """

    def __init__(
        self,
        guests: GuestTable,
        links: Links,
        probes: AddressProbes,
        user: Callable[[str], Awaitable[str]],
        enqueue: Callable[[int], None],
    ) -> None:
        self._guests = guests
        self._links = links
        self._probes = probes
        self._user = user
        self._enqueue = enqueue
        self._speakers: dict[int, _Speaker | None] = {}  # of those that may change
        self._changed: dict[int, str] = {}
        self._refused: dict[int, tuple[str, str, float]] = {}

    def close(self) -> None:
        """Ask nobody any more."""
        for index in list(self._speakers):
            self.forget(index)

    def forget(self, index: int) -> None:
        """Forget a device. It is no error that it is not known."""
        if speaker := self._speakers.pop(index, None):
            speaker.asking.cancel()
        self._changed.pop(index, None)
        self._refused.pop(index, None)

    def note(self, event: Event) -> None:
        """Note that a frame of a guest's was refused for its MAC."""
        index, mac = event.ifindex, event.mac
        if index not in self._speakers or mac == self._guests.mac(index):
            return
        speaker = self._speakers[index]
        if speaker and speaker.mac == mac and event.time - speaker.since < _SILENT_S:
            return
        if speaker:
            speaker.asking.cancel()
            if speaker.mac == mac and self._guests.last_seen(index) <= speaker.since:
                self._changed[index] = mac
                self._enqueue(index)
        asking = asyncio.get_running_loop().call_later(_ASK_S, self._probes.ask_guest, index)
        self._speakers[index] = _Speaker(mac, event.time, asking)

    async def follow(self, link: Link) -> Link:
        """Have a device bear the MAC that its guest has changed to, if it may; return it as it is.

        Raises LinkNotFound.
        """
        owner = Owner.from_alias(link.alias) if link.group == GROUP else None
        if owner is None or not owner.learned:
            self.forget(link.index)
            return link
        self._speakers.setdefault(link.index, None)
        if mac := self._changed.pop(link.index, ""):
            try:
                return await self._give(link, owner, mac_address(mac))
            except LinkNotFound:
                raise
            except (LinkError, Problem) as exc:
                self._note_refusal(link, mac, str(exc))
        return link

    async def _give(self, link: Link, owner: Owner, mac: str) -> Link:
        """Give a device another MAC. Raises Problem mac-in-use, LinkError."""
        if why := await self._user(mac):
            raise Problem("mac-in-use", why)
        if link.kind == "macvtap":
            await self._links.set_mac(link.index, mac)
            changed = replace(link, mac=mac)
        else:
            changed = replace(link, alias=replace(owner, mac=mac).to_alias())
            await self._links.set_alias(link.index, changed.alias)
        self._refused.pop(link.index, None)
        log.info("%s: the guest is %s now", link.name, mac)
        return changed

    def _note_refusal(self, link: Link, mac: str, why: str) -> None:
        if self._refused.get(link.index, ("",))[0] != mac:
            log.warning("%s: the guest speaks as %s now and may not: %s", link.name, mac, why)
        self._refused[link.index] = mac, why, self._guests.last_seen(link.index)

    def refused(self, index: int) -> str:
        """Tell in words who has the MAC that a guest speaks with now; "" if it has its own."""
        _mac, why, last_seen = self._refused.get(index, ("", "", 0.0))
        return why if why and self._guests.last_seen(index) <= last_seen else ""

"""The devices that MAC NAT looks at, as the kernel has them now, and since when they are there."""

import asyncio
from collections.abc import Callable, Collection

from ..kernel.links import GROUP, Link, LinkNotFound, Links
from .policy import is_child, is_sociable
from .uplink import UplinkState

# How long after their making macvtaps are left alone where MAC NAT does not need them: the first of
# ours, and others'.
_OWN_S = 0.5
_FOREIGN_S = 2.0
_SEEN = 4096


class Children:
    """Needs a running event loop. enqueue: called for a device whose time has come."""

    def __init__(self, links: Links, enqueue: Callable[[int], None]) -> None:
        self._links = links
        self._enqueue = enqueue
        self._parents: dict[int, int] = {}  # of devices that are no uplink here; 0: no child
        self._met: dict[int, float] = {}  # when macvtaps were first seen

    async def note_all(self) -> None:
        """Take all that is there for old. Raises LinkError."""
        self._met = {link.index: float("-inf") for link in await self._links.dump()}

    async def find(self, index: int) -> Link | None:
        """The device of that index, None if there is none (any more)."""
        try:
            return await self._links.by_index(index)
        except LinkNotFound:
            return None

    async def some(self, among: Collection[int | None] | None) -> list[Link]:
        """Those of the devices that are there; None, also among them: all. Raises LinkError."""
        if among is None or None in among:
            return await self._links.dump()
        found = [await self.find(index) for index in among if index is not None]
        return [link for link in found if link is not None]

    async def children(self, parent: int, among: Collection[int] | None) -> list[Link]:
        """Children of an uplink, among devices or all. Raises LinkError."""
        return [link for link in await self.some(among) if is_child(link, parent)]

    async def parents(self) -> set[int]:
        """All devices that have children, looked up anew. Raises LinkError."""
        self._parents.clear()
        return {link.parent for link in await self._links.dump() if is_child(link)}

    async def parent_of(self, index: int) -> int:
        """What a child stands on; 0 for other devices. It is asked for once. Raises LinkError."""
        if index not in self._parents:
            link = await self.find(index)
            if len(self._parents) > _SEEN:
                self._parents.clear()
                self._met.clear()
            if link is None:
                return 0
            self._parents[index] = link.parent if is_child(link) else 0
        return self._parents[index]

    def observable(self, children: list[Link], active: UplinkState | None) -> list[Link]:
        """Those of an uplink's children that learn is to hear, without MAC NAT.

        Macvtaps of whichever mode, while the host meets one: nobody shall pass for the host. Those
        of others only after a while: libvirt may be about to put an ingress qdisc there, and then
        they have no room for learn. And the first of our own is to last for a moment, as to load
        the programs takes longer than to make it.
        """
        macvtaps = [child for child in children if child.kind == "macvtap"]
        if not (any(map(is_sociable, macvtaps)) or (active and active.meeting)):
            return []
        return [child for child in macvtaps if self._is_due(child, active)]

    def _is_due(self, child: Link, active: UplinkState | None) -> bool:
        """Whether a macvtap is old enough; if not, it is looked at again when it is."""
        loop = asyncio.get_running_loop()
        age = loop.time() - self._met.setdefault(child.index, loop.time())
        wait = (0.0 if active else _OWN_S) if child.group == GROUP else _FOREIGN_S
        if age >= wait or (active and child.index in active.children):
            return True
        loop.call_later(wait - age, self._enqueue, child.index)
        return False

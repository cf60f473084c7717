"""What stands on an uplink, as the kernel has it now, and what should be at work there for it."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from .. import uplink
from ..alias import Owner
from ..bpf.attach import Role
from ..config import MODES, Config
from ..kernel.credentials import process_name
from ..kernel.links import FAMILY, GROUP, Link, LinkNotFound, Links
from .workqueue import Devices

# How long after their making macvtaps are left alone where MAC NAT does not need them: the first of
# ours, and others'.
_OWN_S = 0.5
_FOREIGN_S = 2.0
_SEEN = 4096


class Children:
    """Finds children and parents. Needs a running event loop.

    enqueue is called for a device whose time has come.
    """

    def __init__(self, links: Links, enqueue: Callable[[int], None]) -> None:
        self._links = links
        self._enqueue = enqueue
        self._parents: dict[int, int] = {}  # of devices that are no uplink here; 0: no child
        self._first_seen: dict[int, float] = {}

    async def note_all(self) -> None:
        """Take all that is there for old. Raises LinkError."""
        self._first_seen = {link.index: float("-inf") for link in await self._links.dump()}

    def forget(self, index: int) -> None:
        """Forget a device that is gone: another may have its ifindex next."""
        self._parents.pop(index, None)
        self._first_seen.pop(index, None)

    async def parents(self) -> set[int]:
        """Return all devices that have children, looked up anew. Raises LinkError."""
        there = await self._links.dump()
        self._parents = {link.index: link.parent for link in there if is_child(link)}
        return set(self._parents.values())

    async def stacked(self) -> set[int]:
        """Return the parents whose need may change with another device. Raises LinkError."""
        found = [await self.find(index) for index in {*self._parents.values()} - {0}]
        return {link.index for link in found if link and link.kind in uplink.STACKED}

    async def parent_of(self, index: int) -> int:
        """Return what a child stands on; 0 for other devices. The kernel is asked once.

        Raises LinkError.
        """
        if index not in self._parents:
            link = await self.find(index)
            if len(self._parents) > _SEEN:
                self._parents.clear()
                self._first_seen.clear()
            if link is None:
                return 0
            self._parents[index] = link.parent if is_child(link) else 0
        return self._parents[index]

    async def children(self, parent: int, devices: Devices) -> list[Link]:
        """Return the children of an uplink among devices. Raises LinkError."""
        return [link for link in await self.some(devices) if is_child(link, parent)]

    async def some(self, devices: Devices) -> list[Link]:
        """Return those of the devices that are there. Raises LinkError."""
        if None in devices:
            return await self._links.dump()
        found = [await self.find(index) for index in devices if index is not None]
        return [link for link in found if link is not None]

    async def find(self, index: int) -> Link | None:
        """Return the device of that index, None if there is none (any more)."""
        try:
            return await self._links.by_index(index)
        except LinkNotFound:
            self.forget(index)
            return None

    def due(self, macvtaps: list[Link], heard: Collection[int], *, is_on: bool) -> list[Link]:
        """Return the macvtaps that from_guest may observe now, where there is no MAC NAT.

        Those of others are left alone for a while: libvirt may be about to put an ingress qdisc
        there, and then they have no room for from_guest. And the first of our own is to last for a
        moment, as to load the programs takes longer than to make it: they are loaded where is_on.
        Those that are observed already stay so. Those that are left out are enqueued for later.
        """
        own = 0.0 if is_on else _OWN_S
        return [
            child
            for child in macvtaps
            if self._is_due(child.index, own if child.group == GROUP else _FOREIGN_S, heard)
        ]

    def _is_due(self, index: int, wait: float, heard: Collection[int]) -> bool:
        loop = asyncio.get_running_loop()
        age = loop.time() - self._first_seen.setdefault(index, loop.time())
        if age >= wait or index in heard:
            return True
        loop.call_later(wait - age, self._enqueue, index)
        return False


def is_child(link: Link, parent: int | None = None) -> bool:
    """Tell whether a device counts as a child of parent, or of any without one.

    Macvtaps and macvlans do, whoever made them (libvirt makes its own), and ipvtaps if airtap did:
    others' ipvlans have the uplink's MAC and addresses of their own.
    """
    ours = link.kind == "ipvtap" and link.group == GROUP
    counts = ours or FAMILY.get(link.kind) == "macvtap"
    return counts and link.parent_here and parent in (None, link.parent)


@dataclass(frozen=True)
class Desired:
    """What should be at work on an uplink, for those of its children that were looked at."""

    link: Link
    role: Role
    children: list[Link]

    @property
    def mode(self) -> str:
        """The mode of the children; "" without any."""
        return self.children[0].mode if self.children else ""


def desired(
    link: Link, children: list[Link], config: Config, former: Role | None, *, is_reached: bool
) -> Desired:
    """Decide what should be at work on an uplink for its children. Blocks.

    former is the role that it has, whose kind counts where there are no children. is_reached tells
    whether the host reaches a guest already. Raises Problem no-nl80211.
    """
    former_kind = former.kind if former else "macvtap"
    kind = FAMILY[children[0].kind] if children else former_kind
    role = role_for(link, kind, config)
    if role.observes:
        macvtaps = [child for child in children if child.kind == "macvtap"]
        children = macvtaps if _observes(link, macvtaps, role, config, is_reached) else []
    return Desired(link, role, children)


def role_for(link: Link, kind: str, config: Config) -> Role:
    """Decide what is to be on at an uplink for children of a kind. Blocks.

    Raises Problem no-nl80211.
    """
    translate = gives_its_mac(link, kind, config)
    # Guests on ipvtaps that use the uplink's MAC are none to tell apart by theirs.
    apart = translate or kind == "macvtap"
    return Role(kind, translate, apart and config.parent(link.name).host_access)


def gives_its_mac(link: Link, kind: str, config: Config) -> bool:
    """Tell whether guests on children of a kind get the uplink's MAC. Blocks.

    The configuration says so, or else the need: where the uplink takes one MAC only, and on
    ipvtaps, which have just one. Raises Problem no-nl80211.
    """
    setting = config.parent(link.name).macnat
    if setting != "auto":
        return setting == "on"
    return kind == "ipvtap" or uplink.inspect(link).takes_one_mac


def _observes(
    link: Link, macvtaps: list[Link], role: Role, config: Config, is_reached: bool
) -> bool:
    """Tell whether from_guest is to observe macvtaps, of whichever mode, without MAC NAT. Blocks.

    While the host may reach one of them, for nobody shall pass for the host; is_reached tells
    whether it reaches one already. And where MAC NAT may come, as it announces only whom it knows.
    """
    if role.host_access and (is_reached or any(map(supports_host_access, macvtaps))):
        return True
    automatic = config.parent(link.name).macnat == "auto"
    return automatic and uplink.inspect(link).may_take_one_mac


def owner_of(child: Link) -> str:
    """Return what tells whose card a child is: the same for all cards of one guest; "" if unknown.

    libvirt's guests have a UUID; of others it is known where QEMU itself has asked, as whoever else
    does may do so for several guests.
    """
    owner = Owner.from_alias(child.alias)
    if owner is None or owner.uuid:
        return owner.uuid if owner else ""
    is_qemu = owner.pid > 0 and process_name(owner.pid).startswith("qemu")
    return f"{owner.uid} {owner.pid}" if is_qemu else ""


def supports_host_access(child: Link) -> bool:
    """Tell whether the host may reach a child's guest: on a macvtap or ipvtap of mode bridge.

    The other modes are there to keep guests apart, or to leave all to the switch.
    """
    return child.kind in MODES and child.mode == "bridge"

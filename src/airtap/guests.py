"""The guest devices that exist: how many, whose, and when they go.

Theory of operation. The kernel holds the state; what stands here is an index over it that a
new daemon makes afresh (recover()). A device is ours if it bears our link group. It goes when
nobody holds its tap any more:

- A macvtap outlives its last descriptor, so it is watched. inotify on its node only says
  "look again"; whether to delete is decided by asking the kernel who still holds the tap
  (kernel/tap.py), so an event too many, too few or for another process's open does no harm.
- A tap on a bridge goes with its last descriptor by itself; forget_vanished() notices when
  the numbers matter. Its holder can make it persistent (TUNSETPERSIST, as with
  qemu-bridge-helper's); such a leftover has no carrier, and recover() removes it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .config import Limits
from .errors import Problem
from .kernel import tap
from .kernel.links import GROUP, IFF_LOWER_UP, Link, LinkNotFound, Links
from .kernel.watch import NodeWatch
from .owner import Owner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guest:
    """One device that airtap made. node: a macvtap's; None for a tap on a bridge."""

    index: int
    name: str
    owner: Owner
    node: tap.Node | None


class Guests:
    """All guest devices of this network namespace. Needs a running event loop.

    on_forgotten: called with the ifindex of a device that is off the list.
    """

    def __init__(self, links: Links) -> None:
        self._links = links
        self.on_forgotten: Callable[[int], None] = lambda index: None
        self._by_index: dict[int, Guest] = {}
        self._by_path: dict[str, int] = {}
        self._users: Counter[int] = Counter()
        self._suspects: set[int] = set()
        self._wake = asyncio.Event()
        self._watch = NodeWatch(self._look_again)
        self._reaper = asyncio.create_task(self._reap_forever(), name="reaper")

    async def close(self) -> None:
        """Stop watching. The devices stay; a later daemon recovers them."""
        self._reaper.cancel()
        await asyncio.gather(self._reaper, return_exceptions=True)
        self._watch.close()

    def __len__(self) -> int:
        return len(self._by_index)

    def get(self, index: int) -> Guest | None:
        return self._by_index.get(index)

    @contextmanager
    def admitted(self, uid: int, limits: Limits) -> Iterator[None]:
        """Hold a place for one more device of user uid while it is made.

        Root is no user in this sense: libvirtd asks as root for every domain of the host.
        Raises Problem too-many-devices.
        """
        if self._full(uid, limits):
            self.forget_vanished()
        if full := self._full(uid, limits):
            raise Problem(
                "too-many-devices", full, "stop a guest, or raise [limits] in airtap.toml"
            )
        self._users[uid] += 1
        try:
            yield
        finally:
            self._users[uid] -= 1

    def add(self, guest: Guest) -> None:
        """Count a device, and delete it once its tap is closed for good. Raises OSError."""
        if guest.node is not None:
            self._watch.add(guest.node.path)
            self._by_path[guest.node.path] = guest.index
        self._by_index[guest.index] = guest
        self._users[guest.owner.uid] += 1

    def update(self, guest: Guest) -> None:
        """Note a new owner line of a device on the list."""
        if guest.index in self._by_index:
            self._by_index[guest.index] = guest

    def forget(self, index: int) -> None:
        """Take a device off the list. One that is not on it is success."""
        guest = self._by_index.pop(index, None)
        if guest is None:
            return
        self._users[guest.owner.uid] -= 1
        if guest.node is not None:
            self._watch.remove(guest.node.path)
            self._by_path.pop(guest.node.path, None)
        self.on_forgotten(index)

    def forget_vanished(self) -> None:
        """Take devices off the list that the kernel has no more."""
        existing = tap.device_indexes()
        for index in self._by_index.keys() - existing:
            self.forget(index)

    async def recover(self) -> list[Guest]:
        """Adopt devices of an earlier daemon whose tap is held, delete those whose is not."""
        for link in await self._links.dump():
            if link.group == GROUP and link.index not in self._by_index:
                self._adopt(link)
        await self._reap(set(self._by_index))
        return list(self._by_index.values())

    def _adopt(self, link: Link) -> None:
        # No owner: the daemon died between making the device and writing its owner down.
        owner = Owner.from_alias(link.alias) or Owner(uid=0, pid=0)
        node = tap.macvtap_node(link.name, link.index) if link.kind == "macvtap" else None
        self.add(Guest(link.index, link.name, owner, node))

    def _full(self, uid: int, limits: Limits) -> str:
        if uid != 0 and self._users[uid] >= limits.devices_per_user:
            return f"user {uid} has {self._users[uid]} guest devices, the limit for one user"
        if self._users.total() >= limits.devices:
            return f"there are {self._users.total()} guest devices, the limit for this host"
        return ""

    def _look_again(self, path: str | None) -> None:
        if path is None:
            self._suspects |= self._by_index.keys()
        elif path in self._by_path:
            self._suspects.add(self._by_path[path])
        if self._suspects:
            self._wake.set()

    async def _reap_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            suspects, self._suspects = self._suspects, set()
            try:
                await self._reap(suspects)
            except Exception:
                log.exception("cannot remove devices; they will be looked at again")
                self._suspects |= suspects
                await asyncio.sleep(1)
                self._wake.set()

    async def _reap(self, suspects: set[int]) -> None:
        """Delete those of the suspects whose tap nobody holds."""
        held = tap.held()
        for index in suspects:
            guest = self._by_index.get(index)
            if guest is None:
                continue
            try:
                link = await self._links.by_index(index)
            except LinkNotFound:
                log.info("%s is gone", guest.name)
                self.forget(index)
                continue
            if link.group == GROUP and not _in_use(link, guest, held):
                await self._links.delete(index)
                log.info("%s is removed: its guest is gone", guest.name)
                self.forget(index)


def _in_use(link: Link, guest: Guest, held: set[str]) -> bool:
    if link.kind == "tun":
        return not link.up or bool(link.flags & IFF_LOWER_UP)
    return guest.node is not None and guest.node.inode in held

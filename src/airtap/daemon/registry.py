"""The guest devices that exist: how many, whose, and when they go.

Theory of operation. The kernel holds the state; what stands here is an index over it that a
new daemon makes afresh (recover()). A device is ours if it bears our link group. It goes when
nobody holds its tap any more:

- A macvtap outlives its last descriptor, so it is watched. inotify on its node only says
  "look again"; whether to delete is decided by asking the kernel whether the tap is still held
  (kernel/tap.py), so an event too many, too few or for another process's open does no harm.
- A tap on a bridge goes with its last descriptor by itself; forget_vanished() notices when
  the numbers matter. Its holder can make it persistent (TUNSETPERSIST, as with
  qemu-bridge-helper's); such a leftover has no carrier, and recover() removes it.
- A device made for a libvirt guest goes by Broker.release(), when libvirt's hook says so: libvirt
  opens it by itself, so there is no lock of ours to ask about.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from ..alias import Owner
from ..config import Limits
from ..errors import Problem
from ..kernel import tap
from ..kernel.inotify import NodeWatch
from ..kernel.links import FAMILY, GROUP, IFF_LOWER_UP, Link, LinkNotFound, Links

log = logging.getLogger(__name__)

# When to look again at a device whose tap was held after all. A close is reported before the
# kernel drops the locks of the closed file (fs/file_table.c: __fput), so the first look can be
# too early.
_RETRIES_S = (0.1, 1.0)
_MOST_LOST = 1024


@dataclass(frozen=True)
class Guest:
    """One device that airtap made.

    kind: "macvtap", "ipvtap", or "tun" for a tap on a bridge.
    node: /dev/tapN, if it is to be watched; None for that tap, and for a libvirt guest's device.
    parent: the name of its uplink.
    """

    index: int
    name: str
    kind: str
    owner: Owner
    node: str | None
    parent: str = ""


@dataclass(frozen=True)
class LostDevice:
    """A device that has vanished while its guest ran. since: Unix time."""

    guest: Guest
    since: float


@dataclass
class Reservation:
    """A place among a user's devices, reserved by Registry.reserve()."""

    taken: bool = False


class Registry:
    """All guest devices of this network namespace. Needs a running event loop.

    on_forgotten: called with the ifindex of a device that is off the list.
    """

    def __init__(
        self,
        links: Links,
        on_forgotten: Callable[[int], None] = lambda index: None,
    ) -> None:
        self._links = links
        self._on_forgotten = on_forgotten
        self._by_index: dict[int, Guest] = {}
        self._users: Counter[int] = Counter()
        # Devices that may have to go, each with the waits after which to look again.
        self._candidates: dict[int, tuple[float, ...]] = {}
        self._lost: list[LostDevice] = []
        self._removing: set[int] = set()  # by us: if one is gone, its guest was gone before
        self._wake = asyncio.Event()
        self._watch = NodeWatch(self._on_event)
        self._reaper = asyncio.create_task(self._reap_forever(), name="reaper")

    async def close(self) -> None:
        """Stop watching. The devices stay; a later daemon recovers them."""
        self._reaper.cancel()
        await asyncio.gather(self._reaper, return_exceptions=True)
        self._watch.close()

    def __len__(self) -> int:
        return len(self._by_index)

    @asynccontextmanager
    async def reserve(self, uid: int, limits: Limits) -> AsyncIterator[Reservation]:
        """Reserve a place for one more device of user uid, for add() to take.

        Root is no user in this sense: libvirtd asks as root for every domain of the host.
        Raises Problem too-many-devices, LinkError.
        """
        if self._full(uid, limits):
            await self._make_room(uid, limits)
        if full := self._full(uid, limits):
            hint = "stop a guest, or raise [limits] in airtap.toml"
            raise Problem("too-many-devices", full, hint)
        self._users[uid] += 1
        reservation = Reservation()
        try:
            yield reservation
        finally:
            if not reservation.taken:
                self._users[uid] -= 1

    def add(self, guest: Guest, reservation: Reservation | None) -> None:
        """Count a device, and delete it once its tap is closed for good. Raises OSError.

        reservation: the place reserved for it; None for a device that was there before the daemon.
        """
        if guest.node is not None:
            self._watch.add(guest.node)
        self._by_index[guest.index] = guest
        if reservation is None:
            self._users[guest.owner.uid] += 1
        else:
            reservation.taken = True

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
            self._watch.remove(guest.node)
        self._on_forgotten(index)

    def forget_vanished(self) -> None:
        """Take devices off the list that the kernel has no more."""
        for index in self._by_index.keys() - tap.device_indexes() - self._removing:
            self._lose(index)

    def users_on(self, parent: str) -> set[int]:
        """Return the uids of those who have guests on an uplink that are not libvirt's."""
        guests = self._by_index.values()
        return {one.owner.uid for one in guests if one.parent == parent and not one.owner.uuid}

    def lost_devices(self) -> list[LostDevice]:
        """Devices that vanished under guests which run on without a network, oldest first.

        libvirt's guests are none of these: they get new devices (daemon/dispatcher.py).
        """
        self._lost = [lost for lost in self._lost if _runs(lost.guest.owner.pid)]
        return self._lost

    def _lose(self, index: int) -> None:
        """Forget a device that has gone, though nobody closed its tap."""
        guest = self._by_index.get(index)
        if guest is None:
            return
        self.forget(index)
        owner = guest.owner
        if guest.kind == "tun" or owner.uuid or not _runs(owner.pid):
            log.info("%s is gone", guest.name)
            return
        log.warning(
            "%s is gone with %s: the guest of user %d, pid %d, has no network until it is started"
            " anew",
            guest.name,
            guest.parent,
            owner.uid,
            owner.pid,
        )
        self._lost = [*self.lost_devices(), LostDevice(guest, time.time())][-_MOST_LOST:]

    async def recover(self) -> list[Guest]:
        """Adopt devices of an earlier daemon whose tap is held, delete those whose is not.

        Guests may end meanwhile; a device that cannot be adopted is left to the next look.
        """
        for link in await self._links.dump():
            if link.group == GROUP and link.index not in self._by_index:
                try:
                    self._adopt(link)
                except (Problem, OSError) as exc:
                    log.warning("%s is left alone: %s", link.name, exc)
        await self._reap(dict.fromkeys(self._by_index, _RETRIES_S))
        return list(self._by_index.values())

    def _adopt(self, link: Link) -> None:
        owner = Owner.from_alias(link.alias)
        stands = link.kind in FAMILY and not (owner and owner.uuid)
        node = tap.node_of(link.name, link.index) if stands else None
        if owner is not None and stands and node is None:
            raise Problem("no-tap", f"/dev/tap{link.index} is not its node here")
        # No owner: the daemon died between making the device and writing its owner down.
        owner = owner or Owner(uid=0, pid=0)
        parent = ""
        with suppress(LinkNotFound):
            parent = self._links.name_of(link.master or link.parent)
        self.add(Guest(link.index, link.name, link.kind, owner, node, parent), reservation=None)

    async def _make_room(self, uid: int, limits: Limits) -> None:
        """Remove devices of the user's whose guests have ended, until one more has a place."""
        self.forget_vanished()
        for index in list(self._candidates):
            guest = self._by_index.get(index)
            if guest is not None and guest.owner.uid == uid and self._full(uid, limits):
                await self._look(index, _RETRIES_S)

    def _full(self, uid: int, limits: Limits) -> str:
        if uid != 0 and self._users[uid] >= limits.devices_per_user:
            return f"user {uid} has {self._users[uid]} guest devices, the limit for one user"
        if self._users.total() >= limits.devices:
            return f"there are {self._users.total()} guest devices, the limit for this host"
        return ""

    def _on_event(self, node: str | None) -> None:
        for guest in self._by_index.values():
            if node in (None, guest.node):
                self._enqueue(guest.index, _RETRIES_S)

    def _enqueue(self, index: int, retries: tuple[float, ...]) -> None:
        self._candidates[index] = retries
        self._wake.set()

    async def _reap_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._reap(self._candidates)
            except Exception:
                log.exception("cannot remove devices; they will be looked at again")
                await asyncio.sleep(1)
                self._wake.set()

    async def _reap(self, candidates: dict[int, tuple[float, ...]]) -> None:
        """Delete those of the candidates whose tap nobody holds, and take all out of the dict."""
        while candidates:
            index, retries = next(iter(candidates.items()))
            del candidates[index]
            try:
                await self._look(index, retries)
            except Exception:
                candidates.setdefault(index, retries)
                raise

    async def _look(self, index: int, retries: tuple[float, ...]) -> None:
        """Delete a device if nobody holds its tap; else look again, after the first of retries."""
        guest = self._by_index.get(index)
        if guest is None or index in self._removing:
            return
        try:
            link = await self._links.by_index(index)
        except LinkNotFound:
            self._lose(index)
            return
        if link.group != GROUP:
            return
        if not _in_use(link, guest):
            await self._remove(guest)
        elif retries:
            wait, *rest = retries
            asyncio.get_running_loop().call_later(wait, self._enqueue, index, tuple(rest))

    async def _remove(self, guest: Guest) -> None:
        self._removing.add(guest.index)
        began = time.monotonic()
        try:
            await self._links.delete(guest.index)
        finally:
            self._removing.discard(guest.index)
        log.info("%s is removed: its guest is gone", guest.name)
        self.forget(guest.index)
        # All requests have waited for that; they have as long until the next one of a user's.
        if guest.owner.uid:
            await asyncio.sleep(time.monotonic() - began)


def _runs(pid: int) -> bool:
    return pid > 0 and os.path.exists(f"/proc/{pid}")


def _in_use(link: Link, guest: Guest) -> bool:
    if guest.owner.uuid:
        return True
    if link.kind == "tun":
        return not link.up or bool(link.flags & IFF_LOWER_UP)
    return guest.node is not None and tap.is_held(guest.node)

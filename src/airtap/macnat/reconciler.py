"""The reconciler: makes MAC NAT and host access on every uplink what they should be.

An uplink of macvtaps needs them where it takes one MAC only, and where the host is to reach its
guests; an uplink of ipvtaps always, as they deliver to its guests. "On" is said of an uplink that
has them.

Theory of operation. Level-triggered: a notification only enqueues a device; a start reconciles all.
_reconcile() finds out from the kernel what the uplink is and what stands on it, asks
policy.desired() what should be there, and _apply() makes it so: on while the uplink needs it and
has children; off otherwise. To reconcile again changes nothing where all is well, so it may be done
at any time: after somebody deleted the qdisc, after a crash, after the uplink's MAC changed. An
attach does not wait for the queue: ready_for_child() and add_child() are under the same lock.

The maps are pinned (bpf/pins.py), so a daemon that ends leaves MAC NAT at work.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from pyroute2 import AsyncIPRoute

from ..bpf import pins
from ..bpf.attach import Role
from ..bpf.macnat import open_macnat
from ..config import Config
from ..errors import Problem
from ..kernel.links import Link, LinkNotFound, Links
from ..kernel.nl80211_events import WifiEvents
from ..kernel.rtnl_events import Events
from . import policy
from .binding_cache import BindingCache
from .host_view import HostView
from .lan_macs import gateway_with
from .roaming import UplinkCallbacks
from .uplink import UplinkState, detach_all
from .workqueue import EVERYTHING, Devices, WorkQueue

log = logging.getLogger(__name__)

# How long MAC NAT stays on without a child once one was announced: a guest that is started anew
# finds it there, and to load the programs takes 0.1 s.
_HOLD_S = 300.0


class Reconciler:
    """MAC NAT on all uplinks of this network namespace. Needs a running event loop.

    config gives the configuration that counts now.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        links: Links,
        ipr: AsyncIPRoute,
        callbacks: UplinkCallbacks,
    ) -> None:
        self._config = config
        self._callbacks = callbacks
        self._links = links
        self._ipr = ipr
        self._uplinks: dict[int, UplinkState] = {}
        self._attaching: Counter[int] = Counter()  # attaches under way, by uplink
        self._held_until: dict[int, float] = {}  # for a child that somebody else is to make
        self._bindings = BindingCache()
        self._host = HostView()
        self._children = policy.Children(links, self.enqueue)
        self._changing = asyncio.Lock()
        self._queue = WorkQueue(self._reconcile_devices)
        self._events = Events(self._on_event, self._note_link)
        self._wifi_events = WifiEvents(self.enqueue)

    async def close(self) -> None:
        """Reconcile no more. What is attached goes on."""
        self._events.close()
        self._wifi_events.close()
        await self._queue.close()
        for uplink in self._uplinks.values():
            uplink.close()

    def enqueue(self, index: int | None = None) -> None:
        """Have a device reconciled soon; None stands for all."""
        self._queue.enqueue(index)

    def _on_event(self, index: int | None) -> None:
        """Have a device reconciled at which something changed, and all where routes lead to it.

        Of IPv4 routes that go down with their device nothing is told (net/ipv4/fib_trie.c:
        fib_table_flush).
        """
        self.enqueue(index)  # at once, while all may have to wait
        if index not in self._uplinks and self._host.leads_to(index):
            self.enqueue(None)

    async def recover(self) -> bool:
        """Reconcile all, and remove what is left of uplinks that are gone.

        Returns whether that succeeded; if not, it is tried again.
        """
        async with self._changing:
            try:
                await pins.adopt_former(self._ipr)
                await self._host.network()  # while it can still fail early
                await self._children.note_all()
                await self._reconcile_all()
            except (Problem, OSError) as exc:
                log.error("MAC NAT: %s; trying again", exc)
                self.enqueue()
                return False
            for index, directory in list(pins.pinned()):
                if index not in {*self._uplinks, *self._queue.failing}:
                    await detach_all(self._links, self._ipr, index)
                    pins.remove_pins(directory)
        return True

    @asynccontextmanager
    async def ready_for_child(self, link: Link, kind: str) -> AsyncIterator[bool]:
        """See to it that MAC NAT is on, if link needs it, until its new child is known.

        kind is the child's. Gives whether its guest gets the uplink's MAC. Raises Problem
        no-macnat, parent-busy, LinkError.
        """
        role = await asyncio.to_thread(policy.role_for, link, kind, self._config())
        if not role.translate and kind == "macvtap":  # the host can wait
            yield False
            return
        async with self._changing:
            await self._make_room(link, role)
            await self._switch_on(link, role, self._config().parent(link.name).mode)
            self._attaching[link.index] += 1
        try:
            yield role.translate
        finally:
            self._attaching -= Counter([link.index])  # nothing stays of one that is at 0
            self.enqueue(link.index)

    async def await_child(self, link: Link) -> None:
        """Have MAC NAT on for a macvtap that somebody else is about to make on link.

        Nothing is done where link does not need it. Raises Problem no-macnat, LinkError.
        """
        async with self.ready_for_child(link, "macvtap") as one_mac:
            if one_mac and link.index in self._uplinks:
                loop = asyncio.get_running_loop()
                self._held_until[link.index] = loop.time() + _HOLD_S
                loop.call_later(_HOLD_S + 1, self.enqueue, link.index)

    async def add_child(self, parent: Link, index: int, mac: str | None) -> None:
        """Attach the programs to a new child of parent before it is up. Raises Problem, LinkError.

        Where the LAN may hear all that its guest says, there is no hurry.
        """
        uplink = self._uplinks.get(parent.index)
        if uplink is None or uplink.role.observes:
            return
        async with self._changing:
            if uplink := self._uplinks.get(parent.index):
                await uplink.add_child(index, mac)

    def set_child_mac(self, index: int, mac: str) -> None:
        """Note the MAC of a child whose MAC was to be learned."""
        for uplink in self._uplinks.values():
            if index in uplink.children:
                uplink.set_mac(index, mac)

    def is_needed(self) -> bool:
        """Tell whether MAC NAT or host access is on anywhere."""
        return bool(self._uplinks)

    def at(self, uplink_index: int) -> UplinkState | None:
        """Return what is at work on an uplink; None without our programs."""
        return self._uplinks.get(uplink_index)

    def bearer(self, uplink: Link, mac: str) -> str:
        """Return the name of the device on an uplink whose guest has this MAC, or ""."""
        current = self._uplinks.get(uplink.index)
        return current.bearer(mac) if current else ""

    async def lan_user(self, uplink: int, mac: str) -> str:
        """Tell in words who on the LAN of an uplink (ifindex) uses a MAC; "" for nobody known.

        Raises OSError.
        """
        if (current := self._uplinks.get(uplink)) and (found := current.lan_macs.user(mac)):
            return found
        return await gateway_with(uplink, mac, self._config().parent(self._name(uplink)).gateway)

    async def _reconcile_devices(self, devices: Devices) -> float:
        async with self._changing:
            if None in devices:
                await self._reconcile_all()
            else:
                await self._reconcile_uplinks_of(devices)
            self._wifi_events.join()
            if self._callbacks.is_awaiting():
                for link in await self._children.some(devices):
                    self._callbacks.on_seen(link)
        return self._host.spent()

    async def _reconcile_all(self) -> None:
        self._host.outdate()
        for index in await self._children.parents() | self._uplinks.keys():
            await self._try(index, EVERYTHING)

    async def _reconcile_uplinks_of(self, devices: Devices) -> None:
        by_uplink: dict[int, set[int | None]] = {}
        for device in devices:
            for index in await self._uplinks_of(device or 0):
                by_uplink.setdefault(index, set()).add(device)
        for index, some in by_uplink.items():
            await self._try(index, frozenset(some))

    async def _uplinks_of(self, index: int) -> set[int]:
        """Return a device's uplinks: itself; what it stands on, or stood; else those above it."""
        if index in self._uplinks or index in self._queue.failing:
            return {index}
        found = {parent for parent, uplink in self._uplinks.items() if index in uplink.children}
        found |= {await self._children.parent_of(index)} - {0}
        return found or await self._children.stacked()

    def _note_link(self, index: int, mac: str | None) -> None:
        if mac is None:
            self._children.forget(index)
            return
        for uplink in self._uplinks.values():
            uplink.note_mac(index, mac)

    async def _try(self, index: int, devices: Devices) -> None:
        """Reconcile an uplink; what fails there is tried again there, and no fault of others."""
        try:
            await self._reconcile(index, devices)
        except LinkNotFound:  # it has gone in the middle of that
            self.enqueue(index)
        except (Problem, OSError) as exc:
            if self._queue.back_off(index, str(exc)):
                log.error("%s: MAC NAT and host access: %s", self._name(index), exc)
        else:
            self._queue.forget(index)

    def _name(self, index: int) -> str:
        try:
            return self._links.name_of(index)
        except LinkNotFound:
            return f"device {index}"

    async def _reconcile(self, index: int, devices: Devices) -> None:
        """Make an uplink, and those of its children that are among devices, what they should be.

        All of its children are looked at where it is to have another role than it has.
        """
        link = await self._children.find(index)
        if link is None:
            self._forget(index)
            return
        current = self._uplinks.get(index)
        devices = devices if current else EVERYTHING
        desired = await self._desired(link, devices)
        if current and current.role != desired.role:
            if current.role.kind != desired.role.kind:  # their parent carries one kind
                await self._switch_off(current)
            devices = EVERYTHING
            desired = await self._desired(link, devices)
        await self._apply(desired, devices)

    async def _desired(self, link: Link, devices: Devices) -> policy.Desired:
        """Find out what should be at work on an uplink, for its children among devices."""
        current = self._uplinks.get(link.index)
        children = await self._children.children(link.index, devices)
        former, is_reached = (current.role, current.has_host_access) if current else (None, False)
        decide = partial(policy.desired, is_reached=is_reached)
        found = await asyncio.to_thread(decide, link, children, self._config(), former)
        if found.role.observes:
            heard = current.children if current else ()
            due = self._children.due(found.children, heard, is_on=current is not None)
            return replace(found, children=due)
        return found

    async def _apply(self, desired: policy.Desired, devices: Devices) -> None:
        """Make an uplink, and its children among devices, what is desired."""
        index = desired.link.index
        uplink = self._uplinks.get(index)
        if uplink is None and not desired.children:
            return
        if uplink is None or not devices.isdisjoint({None, index}):
            uplink = await self._switch_on(desired.link, desired.role, desired.mode)
            if await uplink.update_network():
                self._callbacks.on_moved(desired.link.name, partial(self._settle, index))
        await uplink.sync_children(desired.children, devices)
        if not (uplink.children or self._is_held(index)):
            await self._switch_off(uplink)

    def _is_held(self, index: int) -> bool:
        """Tell whether an uplink stays on without a child, as it is to have one."""
        now = asyncio.get_running_loop().time()
        return index in self._attaching or now < self._held_until.get(index, 0.0)

    async def _make_room(self, link: Link, role: Role) -> None:
        """Switch off what was on for children of another kind that are gone.

        Raises Problem parent-busy.
        """
        current = self._uplinks.get(link.index)
        if current is None or current.role.kind == role.kind:
            return
        if link.index in self._attaching:
            what = f"{link.name} is about to carry {current.role.kind} devices"
            raise Problem("parent-busy", what, "a parent carries one kind of them")
        if not current.children:
            await self._switch_off(current)

    async def _switch_on(self, link: Link, role: Role, mode: str) -> UplinkState:
        """Have an uplink on for a role. mode is that of its children, "" to leave it as it is."""
        current = self._uplinks.get(link.index)
        uplink = current or await self._open(link, role)
        try:
            await uplink.set_up(link, role, mode, self._config().parent(link.name))
        except BaseException:
            if current is None:
                uplink.close()
            raise
        self._uplinks[link.index] = uplink
        return uplink

    async def _open(self, link: Link, role: Role) -> UplinkState:
        # In a thread: the verifier takes 0.1 s over the programs.
        nat = await asyncio.to_thread(open_macnat, pins.pin_directory(link.index))
        links, ipr, host, bindings = self._links, self._ipr, self._host, self._bindings
        return UplinkState(link, role, nat, links, ipr, host, bindings, self.enqueue)

    async def _switch_off(self, uplink: UplinkState) -> None:
        await uplink.take_down()
        self._held_until.pop(uplink.link.index, None)
        self._uplinks.pop(uplink.link.index).close(remove=True)

    def _forget(self, index: int) -> None:
        """Forget an uplink that is gone. It is no error that it was not on."""
        self._held_until.pop(index, None)
        if uplink := self._uplinks.pop(index, None):
            log.info("%s is gone", uplink.link.name)
            uplink.close(remove=True)
            self._callbacks.on_lost(uplink.link.name)

    def _settle(self, index: int) -> None:
        if uplink := self._uplinks.get(index):
            uplink.roaming.settle()

"""The programs of MAC NAT and host access: on which uplinks, for which children, kept so.

An uplink of macvtaps needs them where it takes one MAC only, and where the host is to meet its
guests; an uplink of ipvtaps always, as they deliver to its guests. "On" is said of an uplink that
has them.

Theory of operation. Level-triggered: a notification, a request or a start of the daemon only puts
a device on a list to look at. _look_at() finds out from the kernel what the uplink is and what
stands on it, and makes MAC NAT what it should be (macnat/policy.py): on while the uplink needs it
and has children; off otherwise. Looking again changes nothing where all is well, so it may be done
at any time: after somebody deleted the qdisc, after a crash, after the uplink's MAC changed.

The maps are pinned (bpf/pins.py), so a daemon that ends leaves MAC NAT at work.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from pyroute2 import AsyncIPRoute

from ..bpf import pins
from ..bpf.attach import detach
from ..bpf.macnat import open_macnat
from ..bpf.role import Role
from ..config import MODES, Config
from ..errors import Problem
from ..kernel import nl80211
from ..kernel.addresses import Subnet, host_addresses
from ..kernel.links import FAMILY, IFF_RUNNING, Link, LinkNotFound, Links
from ..kernel.nl80211_events import WifiEvents
from ..kernel.rtnl_events import Events
from . import address_probe
from .binding_cache import BindingCache
from .children import Children
from .policy import is_child, role_for
from .uplink import UplinkState
from .workqueue import WorkQueue

log = logging.getLogger(__name__)

# How long MAC NAT stays on without a child once one was announced: a guest that is started anew
# finds it there, and to load the programs takes 0.1 s.
_AWAIT_S = 300.0


@dataclass(frozen=True)
class UplinkCallbacks:
    """Who is told of uplinks that move, go and come back.

    on_moved is called with the name of an uplink that is on another network now, and with what to
    call once its guests have been seen to. on_lost is called with the name of an uplink that is
    gone. on_seen is called with each device that has changed while is_awaiting says that one is
    expected back.
    """

    on_moved: Callable[[str, Callable[[], None]], None]
    on_lost: Callable[[str], None]
    on_seen: Callable[[Link], None]
    is_awaiting: Callable[[], bool]


class Reconciler:
    """MAC NAT on all uplinks of this network namespace. Needs a running event loop.

    config: gives the configuration that counts now.
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
        self._former = BindingCache()
        self._devices = Children(links, self.enqueue)
        self._changing = asyncio.Lock()
        self._lookout = WorkQueue(self._look_at_some)
        self._events = Events(self.enqueue)
        self._wifi_events = WifiEvents(self.enqueue)
        self._asking = asyncio.create_task(self._ask_forever(), name="mac nat: addresses")

    async def close(self) -> None:
        """Stop looking. What is attached goes on."""
        self._events.close()
        self._wifi_events.close()
        await self._lookout.close()
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)
        for active in self._uplinks.values():
            active.close()

    def enqueue(self, index: int | None = None) -> None:
        """Have a look at a device soon; None: at all."""
        self._lookout.enqueue(index)

    async def recover(self) -> bool:
        """Look at all, and remove what is left of uplinks that are gone.

        Returns whether that succeeded; if not, it is tried again.
        """
        async with self._changing:
            try:
                await host_addresses(self._ipr, 0)  # opens the socket while it can still fail early
                await self._devices.note_all()
                await self._look_at_all()
            except (Problem, OSError) as exc:
                log.error("MAC NAT: %s; trying again", exc)
                self.enqueue()
                return False
            for index, directory in list(pins.pinned()):
                if index not in {*self._uplinks, *self._lookout.failing}:
                    await clear(self._links, self._ipr, index)
                    pins.remove_pins(directory)
        return True

    @asynccontextmanager
    async def ready_for_child(self, link: Link, kind: str) -> AsyncIterator[bool]:
        """See to it that MAC NAT is on, if link needs it, until its new child is known.

        kind: of the child. Gives whether its guest gets the uplink's MAC. Raises Problem
        no-macnat, LinkError.
        """
        role = await asyncio.to_thread(role_for, link, kind, self._config())
        if not role.translate and kind == "macvtap":  # the host can wait
            yield False
            return
        async with self._changing:
            active, _ = await self._switch_on(link, role, self._config().parent(link.name).mode)
            active.expected += 1
        try:
            yield role.translate
        finally:
            active.expected -= 1
            self.enqueue(link.index)

    async def await_child(self, link: Link) -> None:
        """Have MAC NAT on for a macvtap that somebody else is about to make on link.

        Nothing is done where link does not need it. Raises Problem no-macnat, LinkError.
        """
        async with self.ready_for_child(link, "macvtap") as one_mac:
            if one_mac and (active := self._uplinks.get(link.index)):
                active.await_child(_AWAIT_S)
                loop = asyncio.get_running_loop()
                loop.call_later(_AWAIT_S + 1, self.enqueue, link.index)

    async def add_child(self, parent: Link, index: int, mac: str | None) -> None:
        """Guard and learn on a new child of parent before it is up. Raises Problem, LinkError.

        Where the LAN may hear all that its guest says, there is no hurry.
        """
        active = self._uplinks.get(parent.index)
        if active is None or active.role.observes:
            return
        async with self._changing:
            if active := self._uplinks.get(parent.index):
                await active.guard(index, mac)

    def set_child_mac(self, index: int, mac: str) -> None:
        """Note the MAC of a child whose MAC was to be learned."""
        for active in self._uplinks.values():
            if index in active.children:
                active.know(index, mac)

    def is_needed(self) -> bool:
        return bool(self._uplinks)

    def at(self, uplink_index: int) -> UplinkState | None:
        """What is at work on an uplink; None without our programs."""
        return self._uplinks.get(uplink_index)

    def bearer(self, uplink: Link, mac: str) -> str:
        """The name of the guest device on an uplink whose guest has this MAC, or ""."""
        active = self._uplinks.get(uplink.index)
        for index, known in active.children.items() if active else ():
            if known == mac:
                with suppress(LinkNotFound):
                    return self._links.name_of(index)
        return ""

    async def _ask_forever(self) -> None:
        while True:
            await asyncio.sleep(address_probe.IDLE_S / 2)
            for active in self._uplinks.values():
                try:
                    active.inquiries.ask_for_idle()
                except OSError as exc:
                    log.error("MAC NAT: %s", exc)

    async def _look_at_some(self, suspects: set[int | None]) -> None:
        async with self._changing:
            if None in suspects:
                await self._look_at_all()
            else:
                await self._look_at_uplinks_of(suspects)
            await self._greet(suspects)

    async def _look_at_uplinks_of(self, suspects: set[int | None]) -> None:
        by_uplink: dict[int, set[int]] = {}
        for index in suspects:
            if index is not None and (parent := await self._uplink_of(index)):
                by_uplink.setdefault(parent, set()).add(index)
        for parent, devices in by_uplink.items():
            await self._try(parent, devices)

    async def _try(self, index: int, devices: set[int] | None) -> None:
        """_look_at(); what fails at one uplink is tried again there, and no fault of others."""
        try:
            await self._look_at(index, devices)
        except LinkNotFound:  # it has gone in the middle of that
            self.enqueue(index)
        except (Problem, OSError) as exc:
            if self._lookout.failed(index, str(exc)):
                log.error("%s: MAC NAT and host access: %s", self._name(index), exc)
        else:
            self._lookout.succeeded(index)

    def _name(self, index: int) -> str:
        try:
            return self._links.name_of(index)
        except LinkNotFound:
            return f"device {index}"

    async def _greet(self, suspects: set[int | None]) -> None:
        """Look whether an uplink that had gone is among the devices."""
        self._wifi_events.join()
        if not self._callbacks.is_awaiting():
            return
        for link in await self._devices.some(suspects):
            self._callbacks.on_seen(link)

    async def _uplink_of(self, index: int) -> int:
        """The uplink that a change at a device concerns: itself, or what it stands on; 0: none."""
        if index in self._uplinks or index in self._lookout.failing:
            return index
        for parent, active in self._uplinks.items():
            if index in active.children:
                return parent
        return await self._devices.parent_of(index)

    async def _look_at_all(self) -> None:
        for parent in await self._devices.parents() | self._uplinks.keys():
            await self._try(parent, None)

    async def _look_at(self, index: int, devices: set[int] | None) -> None:
        """Make MAC NAT on one uplink what it should be.

        devices: what is to be looked at, of the uplink itself and its children; None for all.
        """
        active = self._uplinks.get(index)
        link = await self._devices.find(index)
        if link is None:
            self._lose(index)
            return
        if active is None:
            devices = None
        children = await self._devices.children(index, devices)
        kind = FAMILY[children[0].kind] if children else active.role.kind if active else "macvtap"
        if active and active.role.kind != kind:  # the former ones are gone, or these could not be
            await self._switch_off(active)
            await self._look_at(index, None)
            return
        role = await asyncio.to_thread(role_for, link, kind, self._config())
        if role.observes:
            children = self._devices.observable(children, active) if role.on_parent else []
        if active and active.role != role and devices is not None:
            await self._look_at(index, None)
        elif active or children:
            await self._maintain(link, role, children, devices)

    async def _maintain(
        self, link: Link, role: Role, children: list[Link], devices: set[int] | None
    ) -> None:
        """Make an uplink on for its children, as long as there are any."""
        active = self._uplinks.get(link.index)
        if active is None or devices is None or link.index in devices:
            mode = children[0].mode if children else ""
            active, subnets = await self._switch_on(link, role, mode)
            await self._locate(active, subnets)
        await active.keep(children, devices)
        if not active.is_needed():
            await self._switch_off(active)

    def _lose(self, index: int) -> None:
        if active := self._uplinks.pop(index, None):
            log.info("%s is gone", active.link.name)
            active.close(remove=True)
            self._callbacks.on_lost(active.link.name)

    async def _switch_on(
        self, link: Link, role: Role, mode: str
    ) -> tuple[UplinkState, frozenset[Subnet]]:
        """Programs on an uplink for a role, with all that must be known before a frame passes.

        mode: of its children; "" to leave it as it is. Returned with it: the subnets that the
        host is in there.
        """
        active = await self._vacated(link, role) or await self._open(link, role)
        new = link.index not in self._uplinks
        other = new or active.role != role
        try:
            former = active.nat.config.parent_mac(), active.nat.config.translates()
            subnets = await active.set_up(link, role, mode)
            if other:
                await self._take_off(link, role)
            if former != (link.mac, role.translate):
                active.announce(link, translate=role.translate)
        except BaseException:
            if new:
                active.close()
            raise
        self._uplinks[link.index] = active
        if other:
            log.info("%s is on for %s (%s)", role, link.name, role.kind)
        active.link, active.role = link, role
        return active, subnets

    async def _open(self, link: Link, role: Role) -> UplinkState:
        # In a thread: the verifier takes 0.1 s over the programs.
        nat = await asyncio.to_thread(open_macnat, pins.pin_directory(link.index))
        return UplinkState(link, role, nat, self._links, self._ipr, self._former, self.enqueue)

    async def _locate(self, active: UplinkState, subnets: frozenset[Subnet]) -> None:
        """Do what is to be done if an uplink is on another network. subnets: of the host there."""
        link = active.link
        if link.flags & IFF_RUNNING and active.locate(
            await asyncio.to_thread(_ssid, link), subnets
        ):
            log.info("%s is on another network now", link.name)
            self._callbacks.on_moved(link.name, partial(self._settle, link.index))

    def _settle(self, index: int) -> None:
        if active := self._uplinks.get(index):
            active.settle()

    async def _vacated(self, link: Link, role: Role) -> UplinkState | None:
        """What is on at an uplink; None if that was for children of another kind that are gone.

        Raises Problem parent-busy.
        """
        active = self._uplinks.get(link.index)
        if active is None or active.role.kind == role.kind:
            return active
        if active.expected:
            what = f"{link.name} is about to carry {active.role.kind} devices"
            raise Problem("parent-busy", what, "a parent carries one kind of them")
        if active.children:
            return active
        await self._switch_off(active)
        return None

    async def _take_off(self, link: Link, role: Role) -> None:
        """Take what has no place in a role off an uplink and its children."""
        await detach(self._ipr, link.index, keep=role.on_parent)
        for child in await self._links.dump():
            if is_child(child, link.index):
                keeps = role.translate or child.kind in MODES
                await detach(self._ipr, child.index, role.on_child if keeps else ())

    async def _switch_off(self, active: UplinkState) -> None:
        await clear(self._links, self._ipr, active.link.index)
        if active.role.translate and active.children:
            active.announce(active.link, translate=False)
        self._uplinks.pop(active.link.index).close(remove=True)
        log.info("%s is off for %s", active.role, active.link.name)


async def clear(links: Links, ipr: AsyncIPRoute, index: int) -> None:
    """Take the programs off an uplink and its children, of whichever daemon they are.

    What is not there, the uplink among it, is success. Raises LinkError.
    """
    children = [link.index for link in await links.dump() if is_child(link, index)]
    for device in (*children, index):
        await detach(ipr, device)


def _ssid(link: Link) -> bytes:
    """The name of a station's network; b"" for none, and for one that hides it."""
    try:
        name = nl80211.station_ssid(link.index) if nl80211.is_wifi(link.name) else None
    except OSError as exc:
        log.warning("cannot ask for the network of %s: %s", link.name, exc)
        name = None
    return (name or b"").strip(b"\0")

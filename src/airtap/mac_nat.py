"""The programs of MAC NAT: on which uplinks, for which children, kept so.

An uplink of macvtaps needs them where it takes one MAC only, an uplink of ipvtaps always, as they
deliver to its guests. "On" is said of an uplink that has them.

Theory of operation. Level-triggered: a notification, a request or a start of the daemon only puts
a device on a list to look at. _look_at() finds out from the kernel what the uplink is and what
stands on it, and makes MAC NAT what it should be: on while the uplink needs it and has children;
off otherwise. Macvtaps and macvlans count whoever made them (libvirt makes its own), ipvtaps where
airtap did: others' ipvlans have the uplink's MAC and addresses of their own. Looking again changes
nothing where all is well, so it may be done at any time: after somebody deleted the qdisc, after
a crash, after the uplink's MAC changed.

The maps are pinned (kernel/macnat.py), so a daemon that ends leaves MAC NAT at work.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from pyroute2 import AsyncIPRoute

from . import inquiries, uplink
from .config import Config
from .errors import Problem
from .former import Former
from .kernel import macnat
from .kernel.addresses import host_addresses
from .kernel.events import Events
from .kernel.libbpf import BpfError
from .kernel.links import FAMILY, GROUP, Link, LinkError, LinkNotFound, Links
from .mac_nat_uplink import Uplink
from .owner import Owner, guest_mac

log = logging.getLogger(__name__)

# How long to gather notifications: one change of NetworkManager's causes a dozen.
_GATHER_S = 0.02
_RETRY_S = 1.0
_SEEN = 4096
# How long MAC NAT stays on without a child once one was announced: a guest that is started anew
# finds it there, and to load the programs takes 0.4 s.
_AWAIT_S = 300.0


class MacNat:
    """MAC NAT on all uplinks of this network namespace. Needs a running event loop.

    config: gives the configuration that counts now.
    """

    def __init__(self, config: Callable[[], Config], links: Links, ipr: AsyncIPRoute) -> None:
        self._config = config
        self._links = links
        self._ipr = ipr
        self._uplinks: dict[int, Uplink] = {}
        self._former = Former()
        self._seen: dict[int, int] = {}  # devices that are no uplink here: ifindex to parent
        self._suspects: set[int | None] = set()
        self._wake = asyncio.Event()
        self._changing = asyncio.Lock()
        self._events = Events(self.look_again)
        self._tasks = [
            asyncio.create_task(self._look_forever(), name="mac nat"),
            asyncio.create_task(self._ask_forever(), name="mac nat: addresses"),
        ]

    async def close(self) -> None:
        """Stop looking. What is attached goes on."""
        self._events.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for active in self._uplinks.values():
            active.close()

    def look_again(self, index: int | None = None) -> None:
        """Have a look at a device soon; None: at all."""
        self._suspects.add(index)
        self._wake.set()

    async def recover(self) -> None:
        """Look at all, and remove what is left of uplinks that are gone."""
        async with self._changing:
            try:
                await self._look_at_all()
            except (Problem, LinkError, BpfError) as exc:
                log.error("MAC NAT: %s; trying again", exc)
                self.look_again()
                return
            for index, directory in list(macnat.pinned()):
                if index not in self._uplinks:
                    await self._clear(index)
                    macnat.remove_pins(directory)

    async def _clear(self, index: int) -> None:
        """Take MAC NAT off an uplink and its children, of whichever daemon it is."""
        children = [link.index for link in await self._links.dump() if _is_child(link, index)]
        for device in (*children, index):
            with suppress(LinkNotFound):
                await macnat.detach(self._ipr, device)

    @asynccontextmanager
    async def ready_for_child(self, link: Link, kind: str) -> AsyncIterator[bool]:
        """See to it that MAC NAT is on, if link needs it, until its new child is known.

        kind: of the child. Gives whether its guest gets the uplink's MAC. Raises Problem
        no-macnat, LinkError.
        """
        one_mac = await gives_its_mac(link, kind, self._config())
        if not one_mac and kind == "macvtap":
            yield False
            return
        async with self._changing:
            mode = self._config().parent(link.name).mode
            active = await self._switch_on(link, kind, mode, one_mac)
            active.expected += 1
        try:
            yield one_mac
        finally:
            active.expected -= 1
            self.look_again(link.index)

    async def await_child(self, link: Link) -> None:
        """Have MAC NAT on for a macvtap that somebody else is about to make on link.

        Nothing is done where link does not need it. Raises Problem no-macnat, LinkError.
        """
        async with self.ready_for_child(link, "macvtap") as one_mac:
            if one_mac and (active := self._uplinks.get(link.index)):
                active.await_child(_AWAIT_S)
                loop = asyncio.get_running_loop()
                loop.call_later(_AWAIT_S + 1, self.look_again, link.index)

    async def add_child(self, parent: Link, index: int, mac: str | None) -> None:
        """Guard and learn on a new child of parent before it is up. Raises Problem, LinkError."""
        async with self._changing:
            if active := self._uplinks.get(parent.index):
                await self._add_child(active, index, mac)

    def set_child_mac(self, index: int, mac: str) -> None:
        """Note the MAC of a child whose MAC was to be learned."""
        for active in self._uplinks.values():
            if index in active.children:
                active.know(index, mac)

    def learned(self, uplink_index: int) -> list[macnat.Learned]:
        """The addresses that guests of an uplink have used; [] without MAC NAT."""
        active = self._uplinks.get(uplink_index)
        return active.nat.addresses() if active else []

    def counters(self, uplink_index: int) -> dict[int, macnat.GuestCounters]:
        """What the guards of an uplink dropped, by the guest's ifindex; {} without MAC NAT."""
        active = self._uplinks.get(uplink_index)
        return active.nat.counters() if active else {}

    def is_needed(self) -> bool:
        return bool(self._uplinks)

    def is_on(self, uplink_index: int) -> bool:
        """Whether guests behind an uplink get its MAC."""
        active = self._uplinks.get(uplink_index)
        return active is not None and active.one_mac

    def bearer(self, uplink: Link, mac: str) -> str:
        """The name of the guest device on an uplink whose guest has this MAC, or ""."""
        active = self._uplinks.get(uplink.index)
        for index, known in active.children.items() if active else ():
            if known == mac:
                with suppress(LinkNotFound):
                    return self._links.name_of(index)
        return ""

    async def _look_forever(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            self._wake.clear()
            suspects, self._suspects = self._suspects, set()
            try:
                async with self._changing:
                    await self._look_at_some(suspects)
            except (Problem, LinkError, BpfError, OSError) as exc:
                log.error("MAC NAT: %s; trying again", exc)
                self._suspects |= suspects
                await asyncio.sleep(_RETRY_S)
                self._wake.set()

    async def _ask_forever(self) -> None:
        while True:
            await asyncio.sleep(inquiries.IDLE_S / 2)
            for active in self._uplinks.values():
                try:
                    active.ask_for_idle()
                except BpfError as exc:
                    log.error("MAC NAT: %s", exc)

    async def _look_at_some(self, suspects: set[int | None]) -> None:
        if None in suspects:
            await self._look_at_all()
            return
        by_uplink: dict[int, set[int]] = {}
        for index in suspects:
            if index is not None and (parent := await self._uplink_of(index)):
                by_uplink.setdefault(parent, set()).add(index)
        for parent, devices in by_uplink.items():
            await self._look_at(parent, devices)

    async def _uplink_of(self, index: int) -> int:
        """The uplink that a change at a device concerns: itself, or what it stands on; 0: none."""
        if index in self._uplinks:
            return index
        for parent, active in self._uplinks.items():
            if index in active.children:
                return parent
        if index not in self._seen:
            link = await self._link(index)
            if len(self._seen) > _SEEN:
                self._seen.clear()
            if link is None:
                return 0
            self._seen[index] = link.parent if _is_child(link) else 0
        return self._seen[index]

    async def _link(self, index: int) -> Link | None:
        try:
            return await self._links.by_index(index)
        except LinkNotFound:
            return None

    async def _look_at_all(self) -> None:
        self._seen.clear()
        dump = await self._links.dump()
        for parent in {link.parent for link in dump if _is_child(link)} | self._uplinks.keys():
            await self._look_at(parent, None)

    async def _look_at(self, index: int, devices: set[int] | None) -> None:
        """Make MAC NAT on one uplink what it should be.

        devices: what is to be looked at, of the uplink itself and its children; None for all.
        """
        active = self._uplinks.get(index)
        link = await self._link(index)
        if link is None:
            if active:
                log.info("%s is gone, and MAC NAT with it", active.link.name)
                self._uplinks.pop(index).close(remove=True)
            return
        if active is None:
            devices = None
        children = await self._children(index, devices)
        kind = FAMILY[children[0].kind] if children else active.kind if active else "macvtap"
        if active and active.kind != kind:  # the former ones are gone, or these could not be
            await self._switch_off(active)
            await self._look_at(index, None)
            return
        one_mac = await gives_its_mac(link, kind, self._config())
        if kind == "macvtap" and not one_mac:
            if active:
                await self._switch_off(active)
            return
        if (children and active is None) or (active and (devices is None or index in devices)):
            mode = children[0].mode if children else None
            active = await self._switch_on(link, kind, mode, one_mac)
        if active:
            await self._keep(active, children, devices)
            if not active.is_needed():
                await self._switch_off(active)

    async def _children(self, parent: int, among: set[int] | None) -> list[Link]:
        """Children of an uplink, among devices or all."""
        if among is None:
            links = await self._links.dump()
        else:
            found = [await self._link(index) for index in among]
            links = [link for link in found if link is not None]
        return [link for link in links if _is_child(link, parent)]

    async def _switch_on(self, link: Link, kind: str, mode: str | None, one_mac: bool) -> Uplink:
        """MAC NAT on an uplink, with all that must be known before a frame passes.

        kind, mode: of its children; None to leave the mode as it is. one_mac: gives_its_mac().
        """
        active = self._uplinks.get(link.index)
        if active and active.kind != kind:
            if active.expected:
                what = f"{link.name} is about to carry {active.kind} devices"
                raise Problem("parent-busy", what, "a parent carries one kind of them")
            if not active.children:
                await self._switch_off(active)
                active = None
        new = active is None
        if active is None:  # in a thread: the verifier takes 0.4 s over the programs
            nat = await asyncio.to_thread(macnat.open_macnat, macnat.pin_directory(link.index))
            active = Uplink(link, kind, one_mac, nat, self._former, self.look_again)
        nat = active.nat
        try:
            nat.set_kind(kind, mode)
            former = nat.parent_mac()
            addresses = await host_addresses(self._ipr, link.index)
            nat.set_host_addresses(addresses.own | addresses.gateways, addresses.broadcasts)
            if former != link.mac:
                nat.set_parent_mac(link.mac)
                active.announce(link)
            await nat.attach_parent(self._ipr, link.index)
        except BaseException:
            if new:
                active.close()
            raise
        if new:
            self._uplinks[link.index] = active
            log.info("MAC NAT is on for %s (%s)", link.name, kind)
        active.link, active.one_mac = link, one_mac
        return active

    async def _keep(self, active: Uplink, children: list[Link], among: set[int] | None) -> None:
        """Make the guests of an uplink, among devices or all, those that are there."""
        known = active.nat.guests()
        gone = (known.keys() | active.children.keys()) - {link.index for link in children}
        for index in gone if among is None else gone & among:
            active.forget(index)
        for link in children:
            try:
                if link.index not in active.children:
                    await self._prepare_foreign(link)
                await self._add_child(
                    active, link.index, await self._guest_mac(active, link, known)
                )
            except LinkNotFound:
                continue  # its own notification follows
            except (LinkError, BpfError) as exc:  # no fault of its siblings
                log.error("%s: its guest is not heard: %s", link.name, exc)

    async def _prepare_foreign(self, link: Link) -> None:
        """Give a macvtap that others made (libvirt) what broker.py gives ours."""
        if link.kind == "macvtap" and link.group != GROUP:
            self._links.keep_host_off(link.name)
            await self._links.set_allmulti(link.index)

    async def _guest_mac(self, active: Uplink, link: Link, known: dict[int, str]) -> str | None:
        """The MAC of a child's guest; None if it is a device of ours that still learns it.

        known: MACs that learn has. An ipvtap's is written into the alias, where status finds it.
        """
        if active.kind == "ipvtap" and not active.one_mac:
            return link.mac
        owner = Owner.from_alias(link.alias) if link.group == GROUP else None
        mac = known.get(link.index, macnat.UNKNOWN_MAC)
        if active.kind == "ipvtap" and owner and owner.learning and mac != macnat.UNKNOWN_MAC:
            owner = replace(owner, learning=False, mac=mac)
            await self._links.set_alias(link.index, owner.to_alias())
            log.info("%s: the guest is %s", link.name, mac)
        return guest_mac(link.mac, owner)

    async def _add_child(self, active: Uplink, index: int, mac: str | None) -> None:
        # It may have been learned since the kernel was asked.
        mac = mac or active.children.get(index)
        if index not in active.children or active.children[index] != mac:
            active.know(index, mac)
        await active.nat.attach_child(self._ipr, index)

    async def _switch_off(self, active: Uplink) -> None:
        await self._clear(active.link.index)
        self._uplinks.pop(active.link.index).close(remove=True)
        log.info("MAC NAT is off for %s", active.link.name)


async def gives_its_mac(link: Link, kind: str, config: Config) -> bool:
    """Whether guests on children of a kind get the uplink's MAC: as configured, else as needed.

    Needed is it where the uplink takes one MAC only, and on ipvtaps, which have just one.
    """
    setting = config.parent(link.name).macnat
    if setting != "auto":
        return setting == "on"
    return kind == "ipvtap" or (await uplink.inspect(link)).type == "wifi-station"


def _is_child(link: Link, parent: int | None = None) -> bool:
    if FAMILY.get(link.kind) == "ipvtap":
        counts = link.kind == "ipvtap" and link.group == GROUP
    else:
        counts = link.kind in FAMILY
    return counts and link.parent_here and parent in (None, link.parent)

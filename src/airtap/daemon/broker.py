"""How a guest gets its device: the decisions and the steps behind every request.

attach() is where to start reading.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from pyroute2 import AsyncIPRoute

from .. import acl, uplink
from ..alias import Owner, may_manage
from ..config import Config
from ..errors import Problem, reason
from ..ipc.requests import AttachRequest, ReleaseRequest
from ..kernel.credentials import Peer, requester, with_rights_of
from ..kernel.links import GROUP, Link, LinkNotFound, Links
from ..macnat.reconciler import Reconciler
from ..macnat.roaming import UplinkCallbacks
from ..names import device_name, mac_address
from .dispatcher import Dispatcher
from .libvirt_hooks import LibvirtHooks
from .mac_learning import MacLearning
from .registry import Guest, Registry
from .taps import DeviceSpec, GuestDevices

log = logging.getLogger(__name__)


class Broker:
    """Makes, lists and removes guest devices for peers of the daemon's socket."""

    def __init__(
        self, config: Config, links: Links, ipr: AsyncIPRoute, dispatcher: Dispatcher
    ) -> None:
        self.config = config

        def current() -> Config:
            return self.config

        callbacks = UplinkCallbacks(
            on_moved=self._moved,
            on_lost=dispatcher.uplink_lost,
            on_seen=dispatcher.uplink_seen,
            is_awaiting=dispatcher.is_awaiting,
        )
        self.mac_nat = Reconciler(current, links, ipr, callbacks)
        self._dispatcher = dispatcher
        self._links = links
        self.learning = MacLearning(links, self._mac_learned, self.mac_nat.lan_user)
        self.registry = Registry(links, on_forgotten=self.learning.stop)
        self._devices = GuestDevices(current, links, self.registry, self.mac_nat, self.learning)
        self.hooks = LibvirtHooks(current, links, self.registry, self.mac_nat, self._devices)

    def _moved(self, uplink: str, then: Callable[[], None]) -> None:
        self._dispatcher.renew(uplink, self.registry.users_on(uplink), then)

    async def recover(self) -> None:
        """Take over from an earlier daemon, whatever ended it. Raises Problem, OSError."""
        for guest in await self.registry.recover():
            log.info("%s is adopted: its guest runs", guest.name)
            if guest.kind == "macvtap" and guest.owner.learning:
                try:
                    self.learning.start(guest)
                except OSError as exc:  # its guest has just ended
                    log.info("%s: cannot learn its MAC: %s", guest.name, reason(exc))
        if await self.mac_nat.recover():
            self._dispatcher.resync()

    async def close(self) -> None:
        """Stop watching. The devices stay; a later daemon recovers them."""
        await self.learning.close()
        await self.mac_nat.close()
        await self.registry.close()

    def is_needed(self) -> bool:
        """Whether there is a guest of ours, or an uplink to keep MAC NAT on for anybody's."""
        self.registry.forget_vanished()
        return len(self.registry) > 0 or self.mac_nat.is_needed()

    def _mac_learned(self, guest: Guest, mac: str) -> None:
        self.registry.update(guest)
        self.mac_nat.set_child_mac(guest.index, mac)

    async def attach(self, request: AttachRequest, peer: Peer) -> tuple[str, int]:
        """Make a device for a guest of peer: (name, descriptor of its tap).

        What is asked for is judged, the parent is inspected, and a place reserved; then
        GuestDevices.create() creates the link, opens its tap and watches it. The caller owns the
        descriptor; the device goes when its last copy is closed. If a step fails, what the steps
        before it did is undone. Raises Problem: bad-name, bad-mac, access-denied and other acl-*,
        no-such-device, bad-kind, bad-parent, parent-busy, bad-mode, mac-in-use, too-many-devices,
        no-device, no-kind, no-tap, no-macnat.
        """
        name = await uplink.choose(self._links, self.config, device_name(request.br))
        mac = None if request.mac is None else mac_address(request.mac)
        link = await self._permitted(name, request.br, peer)
        parent = await asyncio.to_thread(uplink.inspect, link)
        child = None if parent.type == "bridge" else await uplink.a_child(self._links, link)
        settings = uplink.with_kind(parent, self.config.parent(link.name), request.kind)
        kind = uplink.child_kind(parent, settings, child)
        owner = Owner(peer.uid, requester(peer.pid))
        async with self.registry.reserve(peer.uid, self.config.limits) as reservation:
            spec = DeviceSpec(link, kind, mac, owner, request.vnet_hdr)
            guest, descriptor = await self._devices.create(spec, reservation)
        assert descriptor is not None
        log.info("%s on %s is made for user %d", guest.name, link.name, peer.uid)
        return guest.name, descriptor

    async def _permitted(self, name: str, asked: str, peer: Peer) -> Link:
        """The device called name, if the ACL lets peer use it.

        The ACL judges the names by which the kernel knows the device. An allow counts for
        the name of the request (after aliases) and the device's own; a deny for all of them.
        """
        try:
            link = await self._links.by_name(name)
        except LinkNotFound:
            link = None
        # An include may be the user's own, and slow or large: of each user one is read at a time,
        # as one request is at work.
        rules = await with_rights_of(peer, partial(acl.load, self.config.acl))
        names = {name} if link is None else {name, link.name}
        if not rules.allows(names, also_known_as=link.altnames if link else frozenset()):
            shown = name if name == asked else f"{name} (alias {asked})"
            raise Problem(
                "access-denied",
                f"access denied: {self.config.acl} does not allow user {peer.uid} to use {shown}",
                f"an administrator can add 'allow {name}' there, unless a deny stands against it",
            )
        if link is None:
            raise uplink.absent(name)
        return link

    async def release(self, request: ReleaseRequest, peer: Peer) -> None:
        """Remove a guest device, also while its guest runs.

        Root may remove any that airtap made, others their own. Raises Problem bad-name,
        no-such-device, not-ours, access-denied.
        """
        name = device_name(request.device)
        try:
            link = await self._links.by_name(name)
        except LinkNotFound as exc:
            raise Problem("no-such-device", f"there is no network device {name}") from exc
        if link.group != GROUP:
            raise Problem("not-ours", f"{name} was not made by airtap, so it is left alone")
        owner = Owner.from_alias(link.alias)
        if not may_manage(peer.uid, owner):
            raise Problem("access-denied", f"{name} was not made for user {peer.uid}")
        if request.uuid is not None and (owner is None or owner.uuid != request.uuid):
            raise Problem("not-ours", f"{name} was not made for domain {request.uuid[:64]}")
        await self._links.delete(link.index)
        self.registry.forget(link.index)
        log.info("%s is removed for user %d", name, peer.uid)

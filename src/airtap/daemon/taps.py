"""Macvtaps and ipvtaps for guests: each is made whole, or not at all."""

import errno
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from .. import uplink
from ..alias import Owner
from ..config import Config
from ..errors import Problem
from ..kernel import tap
from ..kernel.links import Link, LinkError, LinkExists, LinkNotFound, Links
from ..macnat.reconciler import Reconciler
from .mac_learning import MacLearning
from .registry import Guest, Registry, Reservation

log = logging.getLogger(__name__)

# How often to try another name or ifindex for a new device. Each try skips what was taken.
_TRIES = 16
_PREFIX = "airtap"


@dataclass(frozen=True)
class Wanted:
    """A device for a guest, to be made on parent.

    kind: macvtap or ipvtap. mac: the guest's, None to learn it from its first frame.
    name: of the device, "" for the next free one.
    """

    parent: Link
    kind: str
    mac: str | None
    owner: Owner
    name: str = ""


class GuestDevices:
    """Makes guests' devices on parents. config: gives the configuration that counts now."""

    def __init__(
        self,
        config: Callable[[], Config],
        links: Links,
        guests: Registry,
        mac_nat: Reconciler,
        learning: MacLearning,
    ) -> None:
        self._config = config
        self._links = links
        self._guests = guests
        self._mac_nat = mac_nat
        self._learning = learning
        self._next_number = 0

    async def make(
        self, wanted: Wanted, place: Reservation, open_node: Callable[[str], int] | None
    ) -> tuple[Guest, int | None]:
        """Make a device, up, with the guest's MAC or learning it.

        open_node: opens its tap, while it is still down; the caller owns the descriptor. None for
        a device that its user opens (libvirt). If a step fails, what the steps before it did is
        undone. Raises Problem: mac-in-use, wrong-mac, parent-busy, no-device, no-tap, no-macnat.
        """
        parent, kind = wanted.parent, wanted.kind
        mode = self._config().parent(parent.name).mode
        own_mac = wanted.mac if kind == "macvtap" else None
        async with (
            self._mac_nat.ready_for_child(parent, kind) as one_mac,
            AsyncExitStack() as undo,
        ):
            owner = self._owner(wanted, mode, one_mac)
            try:
                name, index, node = await self._create(wanted, mode, own_mac)
                undo.push_async_callback(self._links.delete, index)
                await self._links.set_alias(index, owner.to_alias())
                self._links.keep_host_off(name)
                fd = None
                if open_node:
                    fd = open_node(node)
                    undo.callback(os.close, fd)
                watched = node if open_node else None
                guest = Guest(index, name, kind, owner, watched, parent.name)
                self._guests.add(guest, place)
                undo.callback(self._guests.forget, index)
                # An ipvtap whose guest neither has nor learns a MAC: it uses the parent's.
                known = None if owner.learning else owner.mac or own_mac or parent.mac
                await self._mac_nat.add_child(parent, index, known)
                if not parent.up:
                    await self._links.set_up(parent.index)
                await self._links.set_up(index)
                if kind == "macvtap" and wanted.mac is None:
                    self._learning.start(guest)
                elif mode == "passthru" and own_mac is not None:  # the kernel gave it the parent's
                    await self._links.set_mac(index, own_mac)
            except LinkNotFound as exc:
                what = f"{parent.name} or its new child vanished meanwhile"
                raise Problem("no-device", what) from exc
            except LinkError as exc:
                raise await self._refused(parent, kind, mode, own_mac, exc) from exc
            except OSError as exc:
                what = f"cannot set up the new device on {parent.name}: {exc}"
                raise Problem("no-device", what) from exc
            undo.pop_all()
        return guest, fd

    def _owner(self, wanted: Wanted, mode: str, one_mac: bool) -> Owner:
        """Whose a new child is, and which MAC its guest has."""
        parent, mac = wanted.parent, wanted.mac
        owner = replace(wanted.owner, learning=mac is None)
        if wanted.kind == "ipvtap" and not one_mac:  # its guest must use the parent's MAC
            if owner.uuid and mac != parent.mac:
                raise Problem(
                    "wrong-mac",
                    f"with MAC NAT off, a guest on an ipvtap of {parent.name} must have its MAC,"
                    f" {parent.mac}",
                    f"set it in the guest, or macnat for {parent.name} in airtap.toml",
                )
            return replace(owner, learning=False)
        if mac is None:
            return owner
        if mac == parent.mac and mode != "passthru":
            raise Problem("mac-in-use", f"{mac} is the MAC address of {parent.name} itself")
        if wanted.kind == "macvtap":
            return owner
        if other := self._mac_nat.bearer(parent, mac):
            raise Problem("mac-in-use", f"{mac} is the MAC address of {other} on {parent.name}")
        return replace(owner, mac=mac)

    async def _create(self, wanted: Wanted, mode: str, mac: str | None) -> tuple[str, int, str]:
        """Create a child whose /dev/tap<ifindex> is its own: (name, index, node).

        Names and numbers can be taken: by others in this namespace, and the node's name by
        a device of any other.
        """
        parent = wanted.parent
        wanted_index = 0
        for _ in range(_TRIES):
            name = wanted.name or self._next_name()
            try:
                await self._links.add_child(
                    wanted.kind, name, parent.index, mode, mac, wanted_index
                )
            except LinkExists:
                self._next_number = tap.free_number(_PREFIX)
                wanted_index = wanted_index and tap.free_index(above=wanted_index)
                continue
            index = self._links.index_of(name)
            try:
                node = tap.node_of(name, index)
            except Problem:
                await self._links.delete(index)
                raise
            if node is not None:
                return name, index, node
            await self._links.delete(index)
            wanted_index = tap.free_index(above=index)
            log.info("/dev/tap%d is another device's; trying index %d", index, wanted_index)
        raise Problem("no-device", f"no free name or /dev/tapN for a device on {parent.name}")

    def _next_name(self) -> str:
        name = f"{_PREFIX}{self._next_number}"
        self._next_number += 1
        return name

    async def _refused(
        self, parent: Link, kind: str, mode: str, mac: str | None, error: LinkError
    ) -> Problem:
        if mac is not None and error.errno in (errno.EADDRINUSE, errno.EBUSY):
            for link in await self._links.dump():
                if link.parent == parent.index and link.mac == mac and link.up:
                    return Problem(
                        "mac-in-use", f"{mac} is the MAC address of {link.name} on {parent.name}"
                    )
        return await uplink.explain_refusal(self._links, parent, kind, mode, error)

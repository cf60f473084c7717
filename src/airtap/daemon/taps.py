"""Devices for guests: macvtaps, ipvtaps, and taps on bridges. Each is made whole, or not at all."""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import count

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
class DeviceSpec:
    """A device that a guest is to get.

    uplink: the parent of a macvtap or ipvtap, the bridge of a tap.
    kind: macvtap, ipvtap or tap.
    mac: the guest's; None to learn it from its first frame. A tap has no use for it.
    vnet_hdr: whether frames carry a struct virtio_net_hdr; None where libvirt opens the device.
    name: of a macvtap or ipvtap; "" for the next free one.
    """

    uplink: Link
    kind: str
    mac: str | None
    owner: Owner
    vnet_hdr: bool | None
    name: str = ""

    @property
    def own_mac(self) -> str | None:
        """The MAC to create the device with: an ipvtap bears its parent's."""
        return self.mac if self.kind == "macvtap" else None


@dataclass(eq=False)
class GuestDevices:
    """Makes guests' devices. _config gives the configuration that counts now."""

    _config: Callable[[], Config]
    _links: Links
    _registry: Registry
    _mac_nat: Reconciler
    _learning: MacLearning
    _numbers: Iterator[int] = field(default_factory=count, init=False)

    async def create(self, spec: DeviceSpec, reservation: Reservation) -> tuple[Guest, int | None]:
        """Create a device, up, with the guest's MAC or learning it; watch it until its guest ends.

        Returns it with the descriptor of its tap, which the caller owns; None where libvirt opens
        it. If a step fails, what the steps before it did is undone. Raises Problem: mac-in-use,
        wrong-mac, parent-busy, no-device, no-kind, no-tap, no-macnat.
        """
        if spec.kind == "tap":
            return await self._create_port(spec, reservation)
        mode = self._config().parent(spec.uplink.name).mode
        async with (
            self._mac_nat.ready_for_child(spec.uplink, spec.kind) as one_mac,
            AsyncExitStack() as undo,
        ):
            spec = replace(spec, owner=self._owner(spec, mode, one_mac))
            try:
                guest, descriptor = await self._create_child(spec, mode, reservation, undo)
            except OSError as exc:
                raise await self._as_problem(spec, mode, exc) from exc
            undo.pop_all()
        return guest, descriptor

    async def _create_port(self, spec: DeviceSpec, reservation: Reservation) -> tuple[Guest, int]:
        """A tap as a port of a bridge, made as qemu-bridge-helper makes it."""
        bridge, owner = spec.uplink, spec.owner
        async with AsyncExitStack() as undo:
            descriptor, name = tap.open_tap(bool(spec.vnet_hdr))
            undo.callback(os.close, descriptor)
            try:
                index = self._links.index_of(name)
                # A bridge takes the lowest of its ports' MACs as its own unless it has one
                # set (net/bridge/br_stp_if.c); 0xfe keeps ours from being that.
                mac = "fe" + (await self._links.by_index(index)).mac[2:]
                await self._links.join_bridge(
                    index, bridge.index, bridge.mtu, mac, owner.to_alias()
                )
            except LinkError as exc:
                what = f"cannot make {name} a port of bridge {bridge.name}: {exc}"
                raise Problem("no-device", what) from exc
            guest = Guest(index, name, kind="tun", owner=owner, node=None, parent=bridge.name)
            self._registry.add(guest, reservation)
            undo.pop_all()
        return guest, descriptor

    async def _create_child(
        self, spec: DeviceSpec, mode: str, reservation: Reservation, undo: AsyncExitStack
    ) -> tuple[Guest, int | None]:
        """Create a macvtap or ipvtap in the order that docs/architecture.md gives reasons for.

        Raises OSError, Problem; undo then has what is to be undone.
        """
        parent = spec.uplink
        if spec.own_mac and (why := await self._mac_nat.lan_user(parent.index, spec.own_mac)):
            raise Problem("mac-in-use", why, "give the guest another MAC address")
        name, index, node = await self._add_link(spec, mode)
        undo.push_async_callback(self._links.delete, index)
        await self._links.set_alias(index, spec.owner.to_alias())
        self._links.keep_host_off(name)
        descriptor = None
        if spec.vnet_hdr is not None:
            descriptor = tap.open_node(node, spec.vnet_hdr)
            undo.callback(os.close, descriptor)
        watched = None if descriptor is None else node
        guest = Guest(index, name, spec.kind, spec.owner, watched, parent.name)
        self._registry.add(guest, reservation)
        undo.callback(self._registry.forget, index)
        # An ipvtap whose guest neither has nor learns a MAC: it uses the parent's.
        mac = None if spec.owner.learning else spec.owner.mac or spec.own_mac or parent.mac
        await self._mac_nat.add_child(parent, index, mac)
        await self._bring_up(spec, guest, mode)
        return guest, descriptor

    async def _bring_up(self, spec: DeviceSpec, guest: Guest, mode: str) -> None:
        if not spec.uplink.up:
            await self._links.set_up(spec.uplink.index)
        await self._links.set_up(guest.index)
        if spec.kind == "macvtap" and spec.mac is None:
            self._learning.start(guest)
        elif mode == "passthru" and spec.own_mac is not None:  # the kernel gave it the parent's
            try:
                await self._links.set_mac(guest.index, spec.own_mac)
            except LinkError as exc:
                raise uplink.mac_not_taken(spec.uplink.name, spec.own_mac, exc) from exc

    def _owner(self, spec: DeviceSpec, mode: str, one_mac: bool) -> Owner:
        """Whose a new child is, and which MAC its guest has."""
        parent, mac = spec.uplink, spec.mac
        owner = replace(spec.owner, learning=mac is None)
        if spec.kind == "ipvtap" and not one_mac:  # its guest must use the parent's MAC
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
        if spec.kind == "macvtap":
            return owner
        if other := self._mac_nat.bearer(parent, mac):
            raise Problem("mac-in-use", f"{mac} is the MAC address of {other} on {parent.name}")
        return replace(owner, mac=mac)

    async def _add_link(self, spec: DeviceSpec, mode: str) -> tuple[str, int, str]:
        """Create a link whose /dev/tap<ifindex> is its own: (name, index, node).

        Names and numbers can be taken: by others in this namespace, and the node's name by
        a device of any other.
        """
        parent = spec.uplink
        wanted_index = 0
        for _ in range(_TRIES):
            name = spec.name or f"{_PREFIX}{next(self._numbers)}"
            try:
                await self._links.add_child(
                    spec.kind, name, parent.index, mode, spec.own_mac, wanted_index
                )
            except LinkExists:
                self._numbers = count(tap.free_number(_PREFIX))
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

    async def _as_problem(self, spec: DeviceSpec, mode: str, error: OSError) -> Problem:
        """Say why a macvtap or ipvtap could not be made."""
        parent, mac = spec.uplink, spec.own_mac
        if isinstance(error, LinkNotFound):
            return Problem("no-device", f"{parent.name} or its new child vanished meanwhile")
        if not isinstance(error, LinkError):
            what = f"cannot set up the new device on {parent.name}: {error}"
            return Problem("no-device", what)
        if mac is not None and error.errno in (errno.EADDRINUSE, errno.EBUSY):
            for link in await self._links.dump():
                if link.parent == parent.index and link.mac == mac and link.up:
                    what = f"{mac} is the MAC address of {link.name} on {parent.name}"
                    return Problem("mac-in-use", what)
        return await uplink.explain_refusal(self._links, parent, spec.kind, mode, error)

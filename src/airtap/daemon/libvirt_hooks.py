"""Serves libvirt's hooks, which have uplinks prepared, and devices of guests created and removed.

libvirt makes macvtaps by itself; for those only MAC NAT has to be on in time. For an interface of
type ethernet with managed='no' it takes a device that is there: create_device() makes it before the
guest starts, Broker.release() removes it after the end. All of this is for root alone, as libvirt's
system daemon is, and no ACL is asked.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from .. import uplink
from ..alias import Owner
from ..config import MODES, Config
from ..errors import Problem
from ..ipc import requests
from ..kernel.links import FAMILY, GROUP, Link, LinkNotFound, Links
from ..macnat.policy import gives_its_mac
from ..macnat.reconciler import Reconciler
from ..names import device_name, domain_uuid, mac_address
from .registry import Registry
from .taps import DeviceSpec, GuestDevices

log = logging.getLogger(__name__)

_UNFIT = ("bridge", "other")


@dataclass(eq=False)
class LibvirtHooks:
    """Serves libvirt's hooks. _config gives the configuration that counts now."""

    _config: Callable[[], Config]
    _links: Links
    _registry: Registry
    _mac_nat: Reconciler
    _devices: GuestDevices

    async def prepare_uplink(self, request: requests.PrepareUplinkRequest) -> None:
        """Have MAC NAT on where a parent needs it, as a macvtap of libvirt's is about to come.

        Whatever is no concern of airtap's is success. Raises Problem parent-busy, no-macnat.
        """
        link = await self._find(request.parent)
        if link is None:
            return
        inspected = await asyncio.to_thread(uplink.inspect, link)
        if inspected.type in _UNFIT:
            return
        config = self._config()
        if not await asyncio.to_thread(gives_its_mac, link, "macvtap", config):
            return
        settings = replace(config.parent(link.name), kind="macvtap")
        uplink.child_kind(inspected, settings, await uplink.a_child(self._links, link))
        await self._mac_nat.await_child(link)

    async def create_device(self, request: requests.CreateDeviceRequest) -> None:
        """Make the device of a guest's network card, for libvirt to open.

        One of that name left from an earlier run of the same guest makes room. Raises Problem:
        bad-name, bad-mac, bad-uuid, bad-kind, no-such-device, name-taken, too-many-devices, and
        those of uplink.child_kind() and GuestDevices.create().
        """
        name = device_name(request.device)
        owner = Owner(0, 0, uuid=domain_uuid(request.uuid), domain=request.domain)
        mac = mac_address(request.mac)
        kind = request.kind
        if kind not in MODES:
            raise Problem("bad-kind", f"{kind[:64]!r} is neither {' nor '.join(MODES)}")
        config = self._config()
        device = await uplink.choose(self._links, config, device_name(request.parent))
        link = await self._find(device)
        if link is None:
            raise Problem(
                "no-such-device",
                f"{uplink.absent(device).message} for {name} to stand on",
                f"airtap domain connect {request.domain} puts the guest on another",
            )
        await self._make_room(name, owner)
        settings = replace(config.parent(link.name), kind=kind)
        child = await uplink.a_child(self._links, link)
        inspected = await asyncio.to_thread(uplink.inspect, link)
        if uplink.child_kind(inspected, settings, child) == "tap":
            raise Problem("bad-parent", f"{link.name} is a bridge and takes no {kind}")
        async with self._registry.reserve(owner.uid, config.limits) as reservation:
            spec = DeviceSpec(link, kind, mac, owner, vnet_hdr=None, name=name)
            await self._devices.create(spec, reservation)
        log.info("%s on %s is made for domain %s", name, link.name, request.domain)

    async def _make_room(self, name: str, owner: Owner) -> None:
        link = await self._find(name)
        if link is None:
            return
        former = Owner.from_alias(link.alias)
        if link.group != GROUP or former is None or not former.uuid:
            raise Problem("name-taken", f"there is a network device {name} already")
        if former.uuid != owner.uuid:
            raise Problem(
                "name-taken",
                f"{name} is in use by domain {former.domain}",
                f"for a copy of a guest: airtap domain connect {owner.domain} gives it its own",
            )
        await self._links.delete(link.index)
        self._registry.forget(link.index)

    async def set_owner(self, request: requests.SetOwnerRequest) -> None:
        """Note in a macvtap or ipvtap whose it is, for status; other devices are left alone."""
        uuid = domain_uuid(request.uuid)
        link = await self._find(request.device)
        if link is None or link.kind not in MODES:
            return
        owner = Owner.from_alias(link.alias)
        if owner is None and (link.alias or link.mac != request.mac.lower()):
            return
        if link.group == GROUP and (owner is None or owner.uuid != uuid):
            return  # a bridge helper's, which goes by itself, or made for another guest
        owner = replace(owner or Owner(0, 0), uuid=uuid, domain=request.domain)
        await self._links.set_alias(link.index, owner.to_alias())

    async def map_devices(self, request: requests.MapDevicesRequest) -> requests.Message:
        """For devices named in a guest of elsewhere, the one that stands for it on this host.

        An alias counts first; what is lacking here is replaced by the first device of the
        configuration that can carry guests, else by that of the default route. Names that need no
        replacement, or have none, are left out. Returned with these, the "parents", are "aliases":
        those that stand for another device that is here, and may stay in a mark, as
        create_device() asks for what they stand for.
        """
        config = self._config()
        default = await self._default_uplink()
        found, aliases = {}, []
        for name in request.names:
            target = await uplink.choose(self._links, config, name)
            if await self._find(target) is None:
                target = default
            elif name in config.aliases or config.is_choice(name):
                aliases.append(name)
            if target and target != name:
                log.info("a guest of elsewhere goes from %s to %s", name, target)
                found[name] = target
        return {"parents": found, "aliases": aliases}

    async def _default_uplink(self) -> str:
        """A device named in the configuration, else of the default route, that can carry guests."""
        routed = await uplink.default_route(self._links)
        for name in (*self._config().parents, *routed):
            link = await self._find(name)
            if link is None or link.kind in FAMILY:
                continue
            if (await asyncio.to_thread(uplink.inspect, link)).type not in _UNFIT:
                return link.name
        return ""

    async def _find(self, name: str) -> Link | None:
        """The device of that name, None for none and for what cannot be a name."""
        try:
            return await self._links.by_name(device_name(name))
        except (LinkNotFound, Problem):
            return None

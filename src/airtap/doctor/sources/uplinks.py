"""Reads uplinks and the guests' devices on them: links, qdiscs and filters, sysctls, nodes."""

import os
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pyroute2 import AsyncIPRoute

from ...alias import Owner
from ...bpf import attach
from ...bpf.attach import Filter, Role
from ...config import MODES, Config, Parent
from ...errors import Problem
from ...kernel import tap
from ...kernel.addresses import Subnet, host_addresses
from ...kernel.links import FAMILY, GROUP, Link, LinkError, link_errors
from ...macnat.policy import gives_its_mac, is_child, role_for, supports_host_access
from ...uplink import Uplink, inspect
from . import namespaces
from .managers import Managers
from .namespaces import Stranger

_SYSCTLS = {
    "disable_ipv6": "ipv6/conf/{}/disable_ipv6",
    "arp_ignore": "ipv4/conf/{}/arp_ignore",
    "rp_filter": "ipv4/conf/{}/rp_filter",
    "forwarding4": "ipv4/conf/{}/forwarding",
    "forwarding6": "ipv6/conf/{}/forwarding",
}
_HIGHEST = ("arp_ignore", "rp_filter")
_BRIDGE_SYSCTLS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")


@dataclass(frozen=True)
class DeviceSnapshot:
    """A guest's device.

    owner: None for devices that others made, such as libvirt.
    node: of its tap, and wrong_node: whether the node of that name is another device's.
    held: whether a process has it open; None if that was not asked, or cannot be told.
    addresses: those that the host has on it.
    manager: who configures it, and by which evidence.
    """

    link: Link
    owner: Owner | None
    node: str
    wrong_node: bool
    held: bool | None
    sysctls: Mapping[str, int]
    addresses: tuple[str, ...]
    manager: tuple[str, str]
    qdisc: str
    filters: tuple[Filter, ...]

    @property
    def name(self) -> str:
        return self.link.name


@dataclass(frozen=True)
class UplinkSnapshot:
    """A device that guests stand on, or are to.

    asked: whether it was named on the command line.
    one_of_several: whether an alias names others beside it.
    children: macvlans and ipvlans on it here, and strangers: those elsewhere.
    role: what should be on it for the guests that are there, None without any.
    ports: of a bridge, those of no guest that take one MAC only.
    networks: those that the host reaches there without a router.
    """

    inspected: Uplink
    settings: Parent
    asked: bool
    one_of_several: bool
    devices: tuple[DeviceSnapshot, ...]
    children: tuple[Link, ...]
    strangers: tuple[Stranger, ...]
    role: Role | None
    needs_macnat: bool
    qdisc: str
    filters: tuple[Filter, ...]
    driver: str
    sysctls: Mapping[str, int]
    ports: tuple[str, ...] = ()
    networks: frozenset[Subnet] = frozenset()

    @property
    def link(self) -> Link:
        return self.inspected.link

    @property
    def name(self) -> str:
        return self.inspected.link.name

    @property
    def child(self) -> Link | None:
        """What uplink.a_child() finds."""
        return self.children[0] if self.children else None


async def make_reader(
    ipr: AsyncIPRoute, links: Collection[Link], config: Config, managers: Managers, *, guarded: bool
) -> "UplinkReader":
    """Dump what is around uplinks, for their reader. Raises LinkError."""
    addresses: dict[int, tuple[str, ...]] = {}
    with link_errors("dump addresses"):
        async for message in await ipr.addr("dump"):
            if message["family"] in (socket.AF_INET, socket.AF_INET6):
                address = str(message.get("local") or message.get("address"))
                addresses[message["index"]] = (*addresses.get(message["index"], ()), address)
    strangers, left = await namespaces.read()
    unseen = f"{left} of the network namespaces" if left else ""
    qdiscs = await attach.qdiscs(ipr)
    return UplinkReader(ipr, links, config, managers, guarded, qdiscs, addresses, strangers, unseen)


@dataclass(frozen=True)
class UplinkReader:
    """Reads uplinks as they are at one moment, from what was dumped at once.

    links: those of Links.dump().
    guarded: whether airtapd sees to devices that nobody holds.
    qdiscs, addresses: by ifindex.
    strangers: those of all uplinks.
    unseen: what could not be looked at, for people; "" for nothing.
    """

    ipr: AsyncIPRoute
    links: Collection[Link]
    config: Config
    managers: Managers
    guarded: bool
    qdiscs: Mapping[int, str]
    addresses: Mapping[int, tuple[str, ...]]
    strangers: Collection[Stranger]
    unseen: str

    async def uplink(self, link: Link, *, asked: bool) -> UplinkSnapshot:
        """Read an uplink and the devices on it. Raises Problem no-nl80211, LinkError."""
        inspected = inspect(link)
        settings = self.config.parent(link.name)
        on_it = [each for each in self.links if each.parent == link.index and each.parent_here]
        children = tuple(each for each in on_it if each.kind in FAMILY)
        taps = [each for each in self.links if each.master == link.index and each.group == GROUP]
        guests = [each for each in children if each.kind in MODES] + taps
        return UplinkSnapshot(
            inspected=inspected,
            settings=settings,
            asked=asked,
            one_of_several=_one_of_several(link.name, self.config),
            devices=tuple(await self._devices(guests)),
            children=children,
            strangers=tuple(each for each in self.strangers if each.parent == link.index),
            role=self._role(inspected, children),
            needs_macnat=self._needs_macnat(inspected),
            qdisc=self.qdiscs.get(link.index, ""),
            filters=tuple(await attach.filters(self.ipr, link.index)),
            driver=_driver(link.name),
            sysctls=_sysctls(link.name) | (_bridge_sysctls() if link.kind == "bridge" else {}),
            ports=self._one_mac_ports(inspected),
            networks=(await host_addresses(link.index)).on_link,
        )

    def _role(self, inspected: Uplink, children: Collection[Link]) -> Role | None:
        """Return what should be on an uplink for the guests that are there."""
        guests = [each for each in children if is_child(each)]
        if not guests or inspected.type in ("bridge", "other"):
            return None
        role = role_for(inspected.link, FAMILY[guests[0].kind], self.config)
        meets = role.host_access and any(map(supports_host_access, guests))
        return None if role.observes and not meets else replace(role, host_access=meets)

    def _needs_macnat(self, inspected: Uplink) -> bool:
        if inspected.type in ("bridge", "other"):
            return False
        settings = self.config.parent(inspected.link.name)
        kind = "ipvtap" if settings.kind == "ipvtap" else "macvtap"
        return gives_its_mac(inspected.link, kind, self.config)

    def _one_mac_ports(self, inspected: Uplink) -> tuple[str, ...]:
        if inspected.type != "bridge":
            return ()
        ports = [inspect(each) for each in self.links if each.master == inspected.link.index]
        return tuple([port.link.name for port in ports if self._may_need_macnat(port)])

    def _may_need_macnat(self, port: Uplink) -> bool:
        automatic = self.config.parent(port.link.name).macnat == "auto"
        return self._needs_macnat(port) or (automatic and port.may_take_one_mac)

    async def _devices(self, guests: Collection[Link]) -> list[DeviceSnapshot]:
        found = []
        for link in guests:
            with suppress(LinkError):  # it has gone meanwhile
                found.append(await self._device(link))
        return found

    async def _device(self, link: Link) -> DeviceSnapshot:
        node, wrong = _node(link) if link.kind in MODES else ("", False)
        return DeviceSnapshot(
            link=link,
            owner=Owner.from_alias(link.alias) if link.group == GROUP else None,
            node=node,
            wrong_node=wrong,
            held=_is_held(node) if self._doubts(link) and node and not wrong else None,
            sysctls=_sysctls(link.name),
            addresses=self.addresses.get(link.index, ()),
            manager=self.managers.holder(link.index),
            qdisc=self.qdiscs.get(link.index, ""),
            filters=tuple(await attach.filters(self.ipr, link.index)),
        )

    def _doubts(self, link: Link) -> bool:
        """Return whether a check asks who holds a device.

        To ask gives a guest's device a second queue, so it is not asked without need.
        """
        return link.group == GROUP and not (link.up and self.guarded)


def names(links: Collection[Link], config: Config) -> set[str]:
    """Return the uplinks that carry guests, and parents of the configuration."""
    by_index = {link.index: link.name for link in links}
    carriers = {link.parent for link in links if link.kind in MODES and link.parent_here}
    carriers |= {link.master for link in links if link.group == GROUP and link.kind == "tun"}
    return {by_index[index] for index in carriers & by_index.keys()} | set(config.parents)


def _one_of_several(name: str, config: Config) -> bool:
    aliases = [targets for targets in config.aliases.values() if name in targets]
    return any(len(targets) > 1 for targets in aliases)


def _node(link: Link) -> tuple[str, bool]:
    path = f"/dev/tap{link.index}"
    try:
        found = tap.node_of(link.name, link.index)
    except Problem:  # it has gone, or /sys shows another namespace
        return "", False
    return path, found is None


def _is_held(node: str) -> bool | None:
    if os.geteuid() != 0:
        return None
    try:
        return tap.is_held(node)
    except OSError:
        return None


def _driver(name: str) -> str:
    try:
        return os.path.basename(os.readlink(f"/sys/class/net/{name}/device/driver"))
    except OSError:
        return ""


def _sysctls(name: str) -> dict[str, int]:
    """Return a device's sysctls; of one of which the kernel takes the highest, all's if that is
    higher."""
    found = {}
    for key, path in _SYSCTLS.items():
        own, everywhere = [_number(f"/proc/sys/net/{path.format(each)}") for each in (name, "all")]
        if own is not None:
            found[key] = max(own, everywhere or 0) if key in _HIGHEST else own
    return found


def _bridge_sysctls() -> dict[str, int]:
    values = {key: _number(f"/proc/sys/net/bridge/{key}") for key in _BRIDGE_SYSCTLS}
    return {key: value for key, value in values.items() if value is not None}


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None

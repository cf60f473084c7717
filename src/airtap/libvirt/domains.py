"""Domains in a libvirt daemon, their network cards, and whether those can lead to the LAN."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import uplink
from ..config import Config, Parent
from ..errors import Problem
from ..kernel.links import Link, open_links
from ..uplink import Uplink
from ..uris import is_remote, is_session
from . import networks
from .connection import binding, problems
from .parents import takes_one_mac
from .scan import Domain, Interface, scan_domain

# virDomainState, in virsh's words.
_STATES = (
    "no state",
    "running",
    "idle",
    "paused",
    "in shutdown",
    "shut off",
    "crashed",
    "pmsuspended",
)
# With these, libvirt 9.0 starts no guest on a macvtap that it makes. It takes some of them for a
# network all the same, as only the start shows what that network is.
_NOT_ON_MACVTAP = ("<vlan>", "<port>", "<filterref>", "floor=")
# Nor with these on a device of airtapd's. <outbound> would be an ingress qdisc where MAC NAT has
# its clsact: "Exclusivity flag on, cannot modify".
_NOT_ON_PREPARED = ("<vlan>", "<outbound>")
# Nor with this on a macvtap that MAC NAT guards, for the same reason.
_NOT_WITH_MAC_NAT = "<inbound>"
# Ports of a bridge that are guests' own and lead nowhere else.
_OF_GUESTS = ("tun", "macvtap", "ipvtap")


@dataclass(frozen=True)
class Nic:
    """A network card, as it will be at the next start of its domain.

    number: from 1. kind: network, bridge, macvtap (libvirt's type direct), ipvtap, or another of
    libvirt's types. name: of that network, bridge or parent device, or "". mode: of libvirt's
    macvtap. prepared: airtapd makes its device. connected: by airtap, which can undo it. parts:
    what it has, as "<filterref>". device: that airtapd makes, or ""; own: whether the note of it
    bears this card's MAC, as it does not in a clone.
    """

    number: int
    mac: str
    kind: str
    name: str
    mode: str = ""
    prepared: bool = False
    connected: bool = False
    parts: frozenset[str] = frozenset()
    device: str = ""
    own: bool = True


@dataclass(frozen=True)
class Entry:
    """A domain as it stands in libvirt."""

    name: str
    uuid: str
    state: str
    persistent: bool
    nics: list[Nic]


@dataclass(frozen=True)
class Device:
    """A device of the host. ports: of a bridge, those that are no guests'."""

    uplink: Uplink
    ports: tuple[Uplink, ...] = ()


@dataclass(frozen=True)
class Host:
    """What verdict() has to know. devices: by the names that network cards and networks have."""

    settings: Config
    session: bool
    networks: Mapping[str, networks.Entry]
    devices: Mapping[str, Device]


def entries(connection: Any) -> list[Entry]:
    """Every domain, by name. Raises Problem libvirt-error, bad-xml."""
    with problems("list domains"):
        found = [_entry(handle) for handle in connection.listAllDomains()]
    return sorted((entry for entry in found if entry), key=lambda entry: entry.name)


def nics(domain: Domain) -> list[Nic]:
    """The network cards of a domain's XML."""
    connected = {mark.mac for mark in domain.marks}
    found = []
    for number, nic in enumerate(domain.interfaces, 1):
        kind, name, mode = nic.type, nic.source.get(nic.type, ""), ""
        mark = domain.mark_of(nic)
        if mark:
            kind, name = mark.kind, mark.parent
        elif nic.type == "direct":
            kind, name, mode = "macvtap", nic.source.get("dev", ""), nic.source.get("mode", "")
        elif nic.type == "ethernet":
            name = nic.target
        found.append(
            Nic(
                number,
                nic.mac,
                kind,
                name,
                mode,
                prepared=mark is not None,
                connected=nic.mac in connected,
                parts=parts(nic),
                device=mark.device if mark else "",
                own=mark is None or mark.mac == nic.mac,
            )
        )
    return found


def parts(nic: Interface) -> frozenset[str]:
    """What a card has that libvirt cannot bring to every kind of device."""
    bandwidth = nic.element.all("bandwidth")
    found = [*nic.element.children, *(limit for each in bandwidth for limit in each.children)]
    floor = {"floor="} if nic.element.first("bandwidth", "inbound").get("floor") else set()
    return frozenset({f"<{element.name}>" for element in found} | floor)


def look_up(connection: Any, name: str) -> Any:
    """The domain of that name or UUID. Raises Problem no-domain, libvirt-error."""
    with problems(f"look for domain {name}"):
        handles = connection.listAllDomains()
        known = {handle.UUIDString(): handle for handle in handles}
        known |= {handle.name(): handle for handle in handles}
        handle = known.get(name) or known.get(name.lower())
        if handle is None:
            raise Problem(
                "no-domain",
                f"there is no domain {name} at {connection.getURI()}",
                "see: airtap domain list",
            )
    return handle


def find(connection: Any, name: str) -> Any:
    """The domain of that name or UUID, if it has a definition that can be changed.

    Raises Problem no-domain, not-persistent, libvirt-error.
    """
    handle = look_up(connection, name)
    with problems(f"look for domain {name}"):
        if not handle.isPersistent():
            raise Problem(
                "not-persistent",
                f"domain {name} is transient: it ends with its guest, and has no definition that"
                " its next start would follow",
                "virsh define makes it persistent; or connect its definition where it is kept",
            )
    return handle


def definition(handle: Any, *, secrets: bool) -> str:
    """The XML that a domain's next start follows. secrets: with the passwords of its graphics.

    Raises Problem libvirt-error.
    """
    libvirt = binding()
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | (libvirt.VIR_DOMAIN_XML_SECURE if secrets else 0)
    with problems(f"read domain {handle.name()}"):
        xml: str = handle.XMLDesc(flags)
    return xml


def redefine(connection: Any, xml: str, name: str) -> Any:
    """Give a domain another definition. A running guest goes on as it is.

    Returns the domain. Raises Problem libvirt-error.
    """
    libvirt = binding()
    with problems(f"define domain {name}"):
        return connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def delays(handle: Any) -> str:
    """Why a domain's new definition does not count at once, "" if it does."""
    with problems(f"inspect domain {handle.name()}"):
        if handle.isActive():
            return "it runs: this counts from its next start, to reboot inside is not enough"
        if handle.hasManagedSaveImage():
            return "it is saved and resumes as it was: this counts from the start after that"
    return ""


def expect_parent(parent: Uplink, kind: str) -> None:
    """Raise Problem bad-parent, parent-busy if a device cannot carry macvtaps or ipvtaps."""
    if uplink.child_kind(parent, Parent(kind=kind), None) == "tap":
        name = parent.link.name
        raise Problem(
            "bad-parent",
            f"{name} is a bridge, the guests of which no {kind} can reach",
            f"guests join the bridge itself: <interface type='bridge'><source bridge='{name}'/>",
        )


def look_around(connection: Any, cards: Iterable[Nic], settings: Config) -> Host | None:
    """What verdict() has to know of the host; None for the libvirt of another host.

    Raises Problem libvirt-error, no-nl80211.
    """
    if is_remote(connection.getURI()):
        return None
    known = {entry.network.name: entry for entry in networks.entries(connection)}
    session = is_session(connection.getURI())
    cards = list(cards)
    names = {nic.name for nic in cards} | {entry.network.parent for entry in known.values()}
    # Of aliases only airtapd knows: where it makes the device, it finds the parent.
    aliases = names if session else {nic.name for nic in cards if nic.prepared}
    return Host(settings, session, known, asyncio.run(_devices(names, aliases, settings)))


async def _devices(names: set[str], aliases: set[str], settings: Config) -> dict[str, Device]:
    async with open_links() as links:
        wanted = {name: name for name in names}
        wanted |= {name: await uplink.choose(links, settings, name) for name in aliases}
        here = await links.dump()
        by_name = {name: link for link in here for name in (link.name, *link.altnames)}
        return {
            name: await _device(by_name[device], here)
            for name, device in wanted.items()
            if device in by_name
        }


async def _device(link: Link, here: Iterable[Link]) -> Device:
    inspected = await uplink.inspect(link)
    if inspected.type != "bridge":
        return Device(inspected)
    ports = [port for port in here if port.master == link.index and port.kind not in _OF_GUESTS]
    return Device(inspected, tuple([await uplink.inspect(port) for port in ports]))


def verdict(nic: Nic, host: Host | None) -> tuple[bool | None, str]:
    """Whether a guest can get through by a network card, and the condition or reason, or "".

    True: to the LAN, or behind NAT. False: it cannot, or cannot even start. None: not known here,
    or not meant to.
    """
    if host is None:
        return None, ""
    if nic.kind == "user":
        return True, "behind NAT"
    if nic.kind == "network":
        return _on_network(nic, host)
    if nic.kind == "bridge":
        return _on_bridge(nic.name, host)
    if nic.kind in ("macvtap", "ipvtap"):
        return _on_parent(nic, host)
    return None, ""


def _on_network(nic: Nic, host: Host) -> tuple[bool | None, str]:
    entry = host.networks.get(nic.name)
    if entry is None:
        return False, f"there is no network {nic.name}"
    if not entry.active:
        return False, f"network {nic.name} is not active"
    kind, parent = entry.network.kind, entry.network.parent
    if kind in ("bridge", "session"):
        return _on_bridge(parent, host)
    if kind == "macvtap" and parent:
        return _on_parent(replace(nic, kind=kind, name=parent), host)
    if kind == "nat":
        lacking = parent and parent not in host.devices
        return (False, f"there is no device {parent}") if lacking else (True, "behind NAT")
    return None, kind


def _on_bridge(name: str, host: Host) -> tuple[bool | None, str]:
    device = host.devices.get(name)
    if device is None:
        return False, f"there is no bridge {name}"
    if device.uplink.link.kind == "openvswitch":
        return None, "Open vSwitch"
    if device.uplink.type != "bridge":
        if not host.session:
            return False, f"{name} is no bridge"
        return _on_parent(Nic(0, "", "macvtap", name, prepared=True), host)
    for port in device.ports:
        if takes_one_mac(port, host.settings):
            return False, f"port {port.link.name} of {name} takes one MAC only"
    return (True, "") if device.ports else (None, f"{name} has no uplink")


def _on_parent(nic: Nic, host: Host) -> tuple[bool | None, str]:
    device = host.devices.get(nic.name)
    if device is None:
        return False, f"there is no device {nic.name}"
    if host.session and not nic.prepared:
        return False, f"the libvirt of a session makes no {nic.kind}"
    parent, link = device.uplink, device.uplink.link
    try:
        if uplink.child_kind(parent, Parent(kind=nic.kind), None) == "tap":
            return False if nic.prepared else None, f"{link.name} is a bridge"
    except Problem as problem:
        return False, problem.message
    if host.settings.parent(link.name).macnat == "off":
        if nic.kind == "ipvtap" and nic.mac != link.mac:
            return False, f"with macnat off, its MAC has to be that of {link.name}"
        if nic.kind == "macvtap" and parent.type == "wifi-station":
            return False, f"{link.name} takes one MAC only, and macnat is off"
    translated = takes_one_mac(parent, host.settings)
    for part in _unfit(nic, translated):
        if part in nic.parts:
            return False, f"libvirt starts no guest on {nic.kind} with {part} here"
    needs_airtapd = nic.prepared or translated
    return True, "with airtapd" if needs_airtapd else ""


def _unfit(nic: Nic, translated: bool) -> tuple[str, ...]:
    """Parts with which libvirt starts no guest on a parent. translated: by MAC NAT."""
    if nic.prepared:
        return _NOT_ON_PREPARED
    return (*_NOT_ON_MACVTAP, *([_NOT_WITH_MAC_NAT] if translated else []))


def _entry(handle: Any) -> Entry | None:
    """None if the domain has gone meanwhile."""
    libvirt = binding()
    name, uuid = handle.name(), handle.UUIDString()
    try:
        xml = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        state = handle.state()[0]
        persistent = bool(handle.isPersistent())
    except libvirt.libvirtError as exc:
        if exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    try:
        cards = nics(scan_domain(xml.encode()))
    except Problem as problem:
        raise Problem(problem.code, f"domain {name}: {problem.message}", problem.hint) from problem
    known = _STATES[state] if state < len(_STATES) else _STATES[0]
    return Entry(name, uuid, known, persistent, cards)

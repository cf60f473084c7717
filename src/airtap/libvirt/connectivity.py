"""Whether a domain's NIC can lead to the LAN, by what is there on the host.

The functions that ask the host block: they run a loop of their own.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .. import uplink
from ..config import Config, Parent
from ..errors import Problem
from ..kernel.links import Link, LinkError, LinkNotFound, Links, open_links
from ..uplink import Uplink
from ..uris import is_remote, is_session
from . import networks
from .nic import Nic

# Whether a guest gets through, and the condition or reason, or "". True: to the LAN, or behind NAT.
# False: it cannot, or cannot even start. None: that is not known here, or not meant to be.
Verdict = tuple[bool | None, str]
T = TypeVar("T")

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
class HostDevice:
    """A device of the host. ports are those of a bridge that are no guests'."""

    uplink: Uplink
    ports: tuple[Uplink, ...] = ()


@dataclass(frozen=True)
class Host:
    """What check() has to know. devices are found by the names that NICs and networks have."""

    settings: Config
    session: bool
    networks: Mapping[str, networks.ListedNetwork]
    devices: Mapping[str, HostDevice]


def inspect_host(connection: Any, nics: Iterable[Nic], settings: Config) -> Host | None:
    """Return what check() has to know of the host; None for the libvirt of another host.

    Raises Problem libvirt-error, no-device, no-nl80211.
    """
    if is_remote(connection.getURI()):
        return None
    known = {entry.network.name: entry for entry in networks.entries(connection)}
    session = is_session(connection.getURI())
    nics = list(nics)
    names = {nic.name for nic in nics} | {entry.network.parent for entry in known.values()}
    # Of aliases only airtapd knows: where it makes the device, it finds the parent.
    aliases = names if session else {nic.name for nic in nics if nic.prepared}
    wanted = {name: choose(name, settings) if name in aliases else name for name in names}
    here = devices()
    found = {name: _device(here[device], here) for name, device in wanted.items() if device in here}
    return Host(settings, session, known, found)


def _device(link: Link, here: Mapping[str, Link]) -> HostDevice:
    inspected = uplink.inspect(link)
    if inspected.type != "bridge":
        return HostDevice(inspected)
    ports = {port.index: port for port in here.values() if port.master == link.index}
    outward = [port for port in ports.values() if port.kind not in _OF_GUESTS]
    return HostDevice(inspected, tuple(map(uplink.inspect, outward)))


def check(nic: Nic, host: Host | None) -> Verdict:
    """Return whether a guest can get through by a NIC."""
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


def _on_network(nic: Nic, host: Host) -> Verdict:
    entry = host.networks.get(nic.name)
    if entry is None:
        return False, f"there is no network {nic.name}"
    if not entry.active:
        return False, f"network {nic.name} is not active"
    kind, parent = entry.network.kind, entry.network.parent
    if kind in ("bridge", "session"):
        return _on_bridge(parent, host)
    if kind == "macvtap" and parent:
        there = replace(nic, kind=kind, name=parent, mode=entry.network.mode)
        return _on_parent(there, host)
    if kind == "nat":
        lacking = parent and parent not in host.devices
        return (False, f"there is no device {parent}") if lacking else (True, "behind NAT")
    return None, kind


def _on_bridge(name: str, host: Host) -> Verdict:
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


def _on_parent(nic: Nic, host: Host) -> Verdict:
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
    if why := _mac_trouble(nic, parent, host.settings.parent(link.name)):
        return False, why
    translated = takes_one_mac(parent, host.settings)
    for part in _unfit(nic, translated):
        if part in nic.parts:
            return False, f"libvirt starts no guest on {nic.kind} with {part} here"
    needs_airtapd = nic.prepared or translated
    return True, "with airtapd" if needs_airtapd else ""


def _mac_trouble(nic: Nic, parent: Uplink, settings: Parent) -> str:
    """Return why a parent has no use for a NIC's MAC, "" if it has."""
    name, is_its_own = parent.link.name, nic.mac == parent.link.mac
    mode = settings.mode if nic.prepared else nic.mode
    if mode in ("passthrough", "passthru") and parent.keeps_its_mac and nic.mac and not is_its_own:
        return f"{name} cannot take its MAC, as mode {mode} wants"
    if settings.macnat == "off" and nic.kind == "ipvtap" and not is_its_own:
        return f"with macnat off, its MAC has to be that of {name}"
    if settings.macnat == "off" and nic.kind == "macvtap" and parent.may_take_one_mac:
        return f"{name} takes one MAC only, and macnat is off"
    return ""


def _unfit(nic: Nic, translated: bool) -> tuple[str, ...]:
    """Return the parts with which libvirt starts no guest on a parent.

    translated: MAC NAT is on there.
    """
    if nic.prepared:
        return _NOT_ON_PREPARED
    return (*_NOT_ON_MACVTAP, *([_NOT_WITH_MAC_NAT] if translated else []))


# Devices of the host as parents.


def ask_kernel(question: Callable[[Links], Coroutine[Any, Any, T]]) -> T:
    """Return the answer to a question about the host's devices. Raises what it raises."""

    async def ask() -> T:
        async with open_links() as links:
            return await question(links)

    return asyncio.run(ask())


def devices() -> dict[str, Link]:
    """Return the host's devices, by all their names."""
    here = ask_kernel(Links.dump)
    return {name: link for link in here for name in (link.name, *link.altnames)}


def inspect(name: str) -> Uplink:
    """Return what the device called name is as a parent.

    Raises Problem no-such-device, no-nl80211.
    """
    try:
        return uplink.inspect(ask_kernel(lambda links: links.by_name(name)))
    except LinkNotFound as exc:
        raise uplink.absent(name) from exc


def choose(name: str, settings: Config) -> str:
    """Return the device that name, which may be an alias, stands for. Raises Problem no-device."""
    try:
        return ask_kernel(lambda links: uplink.choose(links, settings, name))
    except LinkError as exc:
        raise Problem("no-device", f"cannot tell what {name} stands for: {exc}") from exc


def expect_parent(parent: Uplink, kind: str, instead: str = "") -> None:
    """Raise Problem bad-parent, parent-busy if a device cannot carry macvtaps or ipvtaps.

    instead: what to do with a bridge; "" for an interface of that type.
    """
    if uplink.child_kind(parent, Parent(kind=kind), None) == "tap":
        name = parent.link.name
        what = f"{name} is a bridge, the guests of which no {kind} can reach"
        join = f"<interface type='bridge'><source bridge='{name}'/>"
        raise Problem("bad-parent", what, instead or f"guests join the bridge itself: {join}")


def takes_one_mac(parent: Uplink, settings: Config) -> bool:
    """Return whether guests on this parent need airtapd's MAC NAT."""
    wish = settings.parent(parent.link.name).macnat
    return wish == "on" or (wish == "auto" and parent.may_take_one_mac)

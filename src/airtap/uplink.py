"""What an uplink is, and which device a guest gets behind it."""

import errno
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from .config import DEFAULT_ROUTE, MODES, Config, Parent
from .errors import Problem
from .kernel import nl80211
from .kernel.links import (
    ARPHRD_ETHER,
    FAMILY,
    GROUP,
    IFF_LOOPBACK,
    IFF_LOWER_UP,
    Link,
    LinkError,
    LinkNotFound,
    Links,
    lowers,
    rtnetlink,
)
from .kernel.routes import default_devices

# Masters that take a port's rx_handler, of which a device has one. A VRF does not.
_RX_HANDLER_MASTERS = ("bridge", "bond", "team", "openvswitch", "hsr", "batadv")
# What sends Ethernet frames as they are by the devices below.
STACKED = ("bond", "team", "vlan")
# Those of Wi-Fi that send or hear with their own MAC only.
_ONE_MAC = ("wifi-station", "wifi-adhoc")


@dataclass(frozen=True)
class Uplink:
    """A device that guests are to be attached to.

    type: "wifi-station", "wifi-4addr", "wifi-ap", "wifi-mesh", "wifi-adhoc", "ethernet", "bridge"
    or "other". A bond, team or VLAN that sends by a station now, or ad hoc, has that one's.
    station: the one below a bond, team or VLAN, by which it may not send now.
    """

    link: Link
    type: str
    station: Link | None = None

    @property
    def takes_one_mac(self) -> bool:
        """Whether it takes frames from its own MAC only, as far as is known without settings."""
        return self.type in _ONE_MAC

    @property
    def may_take_one_mac(self) -> bool:
        """The same, now or as soon as it sends by another of its ports."""
        return self.takes_one_mac or self.station is not None

    @property
    def keeps_its_mac(self) -> bool:
        """Whether a guest in mode passthru needs the MAC that it has: Wi-Fi on a network takes no
        other (net/mac80211/iface.c: ieee80211_can_powered_addr_change), nor what sends by it."""
        return self.type.startswith("wifi") or self.may_take_one_mac


async def choose(links: Links, config: Config, name: str) -> str:
    """The device that name stands for now; where it may be several, the first that is up.

    Up takes a carrier too, which an unplugged eth0 that is IFF_UP has not. If none is up, it is
    the first that is there, and else the first that the alias names, for absent() to say so.
    Raises LinkError.
    """
    targets = config.candidates(name)
    if not config.is_choice(name):
        return targets[0]
    there = []
    for device in await devices(links, targets):
        with suppress(LinkNotFound):
            if is_up(await links.by_name(device)):
                return device
            there.append(device)
    return (*there, *targets)[0]


def is_up(link: Link) -> bool:
    """Whether a device is up and has carrier: a cable that is plugged in, a network joined."""
    return link.up and bool(link.flags & IFF_LOWER_UP)


async def devices(links: Links, targets: Iterable[str]) -> list[str]:
    """Targets of aliases, there or not, and the device for DEFAULT_ROUTE. Raises LinkError."""
    found: list[str] = []
    for target in targets:
        found += await default_route(links) if target == DEFAULT_ROUTE else [target]
    return found


async def default_route(links: Links) -> list[str]:
    """The devices of the host's default routes, the best first. Raises LinkError.

    Only those that carry Ethernet frames: a VPN's tunnel is passed over for what it runs on.
    """
    async with rtnetlink() as ipr:  # of its own: a socket takes one dump at a time
        indexes = await default_devices(ipr)
    found = []
    for index in indexes:
        with suppress(LinkNotFound):  # gone meanwhile
            link = await links.by_index(index)
            if link.arptype == ARPHRD_ETHER and link.kind not in FAMILY:
                found.append(link.name)
    return found


def absent(device: str) -> Problem:
    """The Problem no-such-device of what choose() came to, and the kernel does not know."""
    if device == DEFAULT_ROUTE:
        what = "no default route of this host leads through Ethernet or Wi-Fi"
        return Problem("no-such-device", what, "see: ip route")
    return Problem("no-such-device", f"there is no network device {device}", "see: ip link")


def inspect(link: Link) -> Uplink:
    """Find out what a device is as an uplink. Blocks. Raises Problem no-nl80211, no-device."""
    if link.flags & IFF_LOOPBACK or link.arptype != ARPHRD_ETHER:
        return Uplink(link, "other")
    if link.kind == "bridge":
        return Uplink(link, "bridge")
    if link.kind in STACKED:
        return _inspect_stack(link)
    return Uplink(link, nl80211.uplink_type(link.name, link.index) or "ethernet")


def _inspect_stack(link: Link) -> Uplink:
    """Find out what a bond, team or VLAN is by what is below.

    Any port of a team may be its active one, which is teamd's affair; and any of a bond's that has
    none yet.
    """
    try:
        ports = [inspect(each) for each in lowers(link.name)]
    except LinkError as exc:
        raise Problem("no-device", f"cannot tell what {link.name} stands on: {exc}") from exc
    stations = [port for port in ports if port.may_take_one_mac]
    for port in stations:
        if port.takes_one_mac and link.active_port in (0, port.link.index):
            return Uplink(link, port.type, port.station or port.link)
    return Uplink(link, "ethernet", stations[0].station or stations[0].link if stations else None)


def is_guest(link: Link) -> bool:
    """Macvtaps and ipvtaps are, whoever made them (libvirt makes its own); taps are if we did."""
    return link.kind in MODES or link.group == GROUP


async def a_child(links: Links, parent: Link) -> Link | None:
    """One of the macvlan or ipvlan devices on a parent, if there are any to be seen.

    Those that were moved to another network namespace are not. All are of one family, and
    ipvlans of one mode, so any of them will do.
    """
    for name in links.uppers(parent.name):
        with suppress(LinkNotFound):
            link = await links.by_name(name)
            if link.kind in FAMILY:
                return link
    return None


def with_kind(uplink: Uplink, settings: Parent, kind: str | None) -> Parent:
    """The settings of an uplink for a guest that wants a kind of device; None: any.

    Raises Problem bad-kind, bad-parent (a bridge), bad-mode (the host would lose the uplink to a
    guest that is there to try it).
    """
    if kind is None:
        return settings
    name = uplink.link.name
    if kind not in MODES:
        raise Problem("bad-kind", f"{kind[:64]!r} is neither {' nor '.join(MODES)}")
    if uplink.type == "bridge":
        raise Problem("bad-parent", f"{name} is a bridge and takes no {kind}")
    if settings.mode == "passthru":
        raise Problem(
            "bad-mode",
            f"a guest in mode passthru, which airtap.toml sets for {name}, would take {name} from"
            " the host",
        )
    return replace(settings, kind=kind)


def child_kind(uplink: Uplink, settings: Parent, child: Link | None) -> str:
    """Decide what device a guest behind an uplink gets.

    child: what a_child() found.
    Returns one of:
    "tap": the uplink is a bridge, a tap becomes its port.
    "macvtap", "ipvtap": the uplink becomes the parent of one, in the mode of the settings: the
    kind that is configured, else what goes with child, else a macvtap.
    Raises Problem bad-parent (no Ethernet frames, or stacked on the real parent),
    parent-busy (a port of something, or children of the other kind or of another mode), bad-mode.
    """
    link = uplink.link
    if uplink.type == "bridge":
        return "tap"
    if uplink.type == "other":
        raise Problem("bad-parent", f"{link.name} carries no Ethernet frames for guests")
    # The kernel would quietly put a macvtap on the device below instead, which the ACL never saw
    # (drivers/net/macvlan.c: macvlan_common_newlink, ipvlan_main.c: ipvlan_link_new).
    if link.kind in FAMILY:
        what = f"{link.name} is itself a {link.kind}"
        raise Problem("bad-parent", what, "use the device that it stands on")
    if link.slave_kind in _RX_HANDLER_MASTERS:
        what = f"{link.name} is a port of a {link.slave_kind}"
        raise Problem("parent-busy", what, f"use the {link.slave_kind} instead")
    kind = settings.kind
    if kind == "auto":
        kind = FAMILY[child.kind] if child else "macvtap"
    if child:
        _expect_company(link, kind, settings.mode, child)
    if settings.mode not in MODES[kind]:
        raise Problem(
            "bad-mode",
            f"{kind} devices have no mode {settings.mode}, which airtap.toml sets for {link.name}",
            f"set one of {', '.join(MODES[kind])} there",
        )
    return kind


def _expect_company(parent: Link, kind: str, mode: str, child: Link) -> None:
    """Raise Problem parent-busy if a child of this kind and mode cannot join one that is there."""
    family = FAMILY[child.kind]
    if family != kind:
        raise Problem(
            "parent-busy",
            f"{parent.name} cannot carry {kind} devices: held by {child.name} ({child.kind}),"
            " and a parent carries macvtap or ipvtap children, never both",
            f'stop what uses {child.name}, or set kind = "{family}" or "auto"'
            f" for {parent.name} in airtap.toml",
        )
    if kind == "ipvtap" and child.mode != mode:
        raise Problem(
            "parent-busy",
            f"{child.name} on {parent.name} is in mode {child.mode}, not {mode}, and all"
            " ipvlan devices of a parent share one mode",
            f"stop what uses {child.name}"
            + ("" if child.mode == "l3" else f', or set mode = "{child.mode}" in airtap.toml'),
        )


def mac_not_taken(parent: str, mac: str, error: OSError) -> Problem:
    """The Problem wrong-mac of a parent that mode passthru could not give a guest's MAC."""
    return Problem(
        "wrong-mac",
        f"mode passthru gives {parent} the guest's MAC, {mac}, which it does not take: {error}",
        f"set another mode for {parent} in airtap.toml, or give the guest the MAC of {parent}",
    )


async def explain_refusal(
    links: Links, parent: Link, kind: str, mode: str, error: LinkError
) -> Problem:
    """Say why the kernel would not put a device on a parent, after it has refused."""
    siblings = [
        link
        for link in await links.dump()
        if link.parent == parent.index and link.parent_here and link.kind in FAMILY
    ]
    names = ", ".join(f"{link.name} ({link.kind})" for link in siblings[:5])
    if error.errno == errno.EBUSY:
        unseen = "what cannot be seen here: macvlan or ipvlan devices in another network namespace?"
        return Problem(
            "parent-busy",
            f"{parent.name} cannot carry {kind} devices: held by {names or unseen}",
            "a parent carries macvtap or ipvtap children, never both",
        )
    if error.errno == errno.EINVAL and siblings:
        return Problem(
            "parent-busy",
            f"{parent.name} already carries {names}, and a device in mode passthru is alone",
            "" if mode == "passthru" else f"{parent.name} is in use in mode passthru",
        )
    hint = f"load the module {kind}" if error.errno == errno.EOPNOTSUPP else ""
    code = "no-kind" if hint else "no-device"
    return Problem(code, f"cannot make a device of kind {kind} on {parent.name}: {error}", hint)

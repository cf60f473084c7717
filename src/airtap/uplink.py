"""What an uplink is, and which device a guest gets behind it."""

import errno
from dataclasses import dataclass

from .config import Parent
from .errors import Problem
from .kernel import wifi
from .kernel.links import ARPHRD_ETHER, IFF_LOOPBACK, Link, LinkError, Links

# Kinds of device that stand on another one. The kernel would quietly put a macvtap on that
# other one instead (drivers/net/macvlan.c: macvlan_common_newlink), which the ACL never saw.
_STACKED = ("macvlan", "macvtap", "ipvlan", "ipvtap")
# Masters that take a port's rx_handler, of which a device has one. A VRF does not.
_RX_HANDLER_MASTERS = ("bridge", "bond", "team", "openvswitch", "hsr", "batadv")


@dataclass(frozen=True)
class Uplink:
    """A device that guests are to be attached to.

    type: "wifi-station", "wifi-4addr", "wifi-ap", "ethernet", "bridge" or "other".
    """

    link: Link
    type: str


async def inspect(link: Link) -> Uplink:
    """Find out what a device is as an uplink. Raises Problem no-nl80211."""
    if link.flags & IFF_LOOPBACK or link.arptype != ARPHRD_ETHER:
        return Uplink(link, "other")
    if link.kind == "bridge":
        return Uplink(link, "bridge")
    return Uplink(link, await wifi.uplink_type(link.name, link.index) or "ethernet")


def child_kind(uplink: Uplink, settings: Parent) -> str:
    """Decide what device a guest behind an uplink gets.

    "tap": the uplink is a bridge, a tap becomes its port.
    "macvtap": the uplink becomes the parent of a macvtap, in the mode of the settings.
    Raises Problem bad-parent (no Ethernet frames, or stacked on the real parent),
    parent-busy (a port of something) or not-supported (what this version cannot do).
    """
    link = uplink.link
    if uplink.type == "bridge":
        return "tap"
    if uplink.type == "other":
        raise Problem("bad-parent", f"{link.name} carries no Ethernet frames for guests")
    if link.kind in _STACKED:
        raise Problem(
            "bad-parent",
            f"{link.name} is itself a {link.kind}",
            "use the device that it stands on",
        )
    if link.slave_kind in _RX_HANDLER_MASTERS:
        raise Problem(
            "parent-busy",
            f"{link.name} is a port of a {link.slave_kind}",
            f"use the {link.slave_kind} instead",
        )
    if settings.kind == "ipvtap":
        raise Problem(
            "not-supported",
            f"kind = ipvtap is configured for {link.name}, and this version has macvtap only",
        )
    return "macvtap"


async def explain_refusal(links: Links, parent: Link, mode: str, error: LinkError) -> Problem:
    """Say why the kernel would not put a macvtap on a parent, after it has refused."""
    siblings = [
        link
        for link in await links.dump()
        if link.parent == parent.index and link.parent_here and link.kind in _STACKED
    ]
    names = ", ".join(f"{link.name} ({link.kind})" for link in siblings[:5])
    if error.errno == errno.EBUSY:
        holder = f"held by {names}" if siblings else "held by another user of its rx_handler"
        return Problem(
            "parent-busy",
            f"{parent.name} cannot carry macvtap devices: {holder}",
            "a parent carries macvtap or ipvtap children, never both" if siblings else "",
        )
    if error.errno == errno.EINVAL and siblings:
        return Problem(
            "parent-busy",
            f"{parent.name} already carries {names}, and a device in mode passthru is alone",
            "" if mode == "passthru" else f"{parent.name} is in use in mode passthru",
        )
    hint = "load the module macvtap" if error.errno == errno.EOPNOTSUPP else ""
    return Problem("no-device", f"cannot make a macvtap on {parent.name}: {error}", hint)

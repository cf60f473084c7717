"""Whether guests can stand on an uplink, and frames pass it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ... import uplink as uplinks
from ...config import MODES
from ...errors import Problem
from ...kernel.links import FAMILY, IFF_LOWER_UP
from ..finding import PROBLEM, WARNING, Finding, ok, parent_table, problem, sysctl_of, warning, word
from ..sources.daemon import DaemonSnapshot
from ..sources.managers import Managers
from ..sources.netfilter import Chain
from ..sources.uplinks import UplinkSnapshot
from ..sources.user import User

_IFF_PROMISC = 0x100  # include/uapi/linux/if.h
# Out-of-tree Realtek drivers with a bridge of their own in the driver (BR_EXT).
_BR_EXT = ("r8188eu", "rtl8188eu", "8188eu", "rtl88x2bu", "88x2bu", "8821cu", "rtl8821cu", "8812au")
# What stands behind these forgets frames from other MACs, unless it was told otherwise.
_ONE_MAC = {
    "vmxnet3": "ESXi (forged transmits)",
    "hv_netvsc": "Hyper-V (MAC address spoofing)",
    "mana": "Azure",
    "ena": "EC2",
    "gve": "Google's cloud",
    "ipheth": "an iPhone",
    "rndis_host": "a telephone",
    "cdc_mbim": "a mobile network",
}
# The same of a virtual machine's network card, which stands on a bridge more often than not.
_VIRTUAL = ("virtio_net", "xen-netfront")

_ALLOWS = {
    "wifi-station": "takes one MAC only: guests need MAC NAT",
    "wifi-4addr": "a station with 4-address frames: takes any MAC",
    "wifi-ap": "an access point: takes any MAC",
    "wifi-mesh": "a mesh point: takes any MAC",
    "wifi-adhoc": "hears frames to one MAC only: guests need MAC NAT",
    "ethernet": "takes any MAC, unless its switch does not",
    "bridge": "guests get a tap as its port",
}


@dataclass(frozen=True)
class Context:
    """What is around an uplink.

    chains: those of nftables, None if they could not be read.
    wanted: by uplink, who wants which kind of device on it: (guest, kind).
    connect: see Guests.
    """

    daemon: DaemonSnapshot
    user: User
    managers: Managers
    chains: Sequence[Chain] | None
    wanted: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    connect: str = ""


def type_of(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell of which type an uplink is, and what follows for guests.

    Yields ok.
    """
    type = uplink.inspected.type
    what = _ALLOWS.get(type, "is none that guests can use")
    if uplink.needs_macnat and type == "ethernet":
        what = "takes one MAC only, by airtap.toml: guests need MAC NAT"
    elif station := uplink.inspected.station:
        now = "" if uplink.inspected.takes_one_mac else "takes any MAC, but not once it "
        what = f"{now}sends by {station.name}, which takes one MAC only: guests need MAC NAT then"
    yield ok("uplink-type", uplink.name, what=f"{type}: {what}", evidence=uplink.link.mac)


def carrier(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell whether the uplink is up and has a carrier.

    Yields ok; problem link-down or no-carrier; warning link-down or no-carrier, where nobody uses
    it now.
    """
    link = uplink.link
    used = uplink.asked or uplink.devices
    level = PROBLEM if used else WARNING
    if link.up and link.flags & IFF_LOWER_UP:
        yield ok("carrier", link.name, what="is up")
    elif uplink.one_of_several and not used:
        yield ok("carrier", link.name, what="is not up; an alias names others beside it")
    elif not link.up:
        yield Finding(
            level=level,
            id="link-down",
            subject=link.name,
            what="is down",
            evidence=f"ip link show {link.name}: no UP",
            remedy=f"ip link set dev {word(link.name)} up",
        )
    else:
        wifi = uplink.inspected.type.startswith("wifi")
        associates = uplink.inspected.type in ("wifi-station", "wifi-4addr")
        itself = associates and not uplink.inspected.station
        yield Finding(
            level=level,
            id="no-carrier",
            subject=link.name,
            what="is not associated with an access point" if itself else "has no carrier",
            evidence=f"/sys/class/net/{link.name}/carrier: 0",
            remedy="join the Wi-Fi network" if wifi else f"plug in the cable of {link.name}",
        )


def holder(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell what an attach to the uplink would get, or would be refused with.

    Yields ok; problem parent-busy, bad-parent or bad-mode.
    """
    try:
        kind = uplinks.child_kind(uplink.inspected, uplink.settings, uplink.child)
    except Problem as refused:
        yield problem(
            refused.code,
            uplink.name,
            what=refused.message,
            evidence=_held_by(uplink),
            remedy=_way_out(uplink, refused),
        )
    else:
        what = f"guests get a device of kind {kind}"
        yield ok("parent", uplink.name, what=what, evidence=_held_by(uplink))


def _held_by(uplink: UplinkSnapshot) -> str:
    link = uplink.link
    children = ", ".join(f"{child.name} ({child.kind})" for child in uplink.children[:8])
    master = f"port of a {link.slave_kind}" if link.slave_kind else ""
    return "; ".join(filter(None, (master, f"on it: {children}" if children else "")))


def _way_out(uplink: UplinkSnapshot, refused: Problem) -> str:
    link = uplink.link
    if link.slave_kind and refused.code == "parent-busy":
        return f"use the {link.slave_kind} instead, or: ip link set dev {word(link.name)} nomaster"
    child = uplink.child
    if child and refused.code == "parent-busy":
        family = FAMILY[child.kind]
        if family != uplink.settings.kind != "auto":
            return f'airtap.toml, {parent_table(link.name)}: kind = "{family}"'
        if child.mode in MODES[family]:
            return f'airtap.toml, {parent_table(link.name)}: mode = "{child.mode}"'
    return refused.hint or "choose another uplink"


def strangers(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell whether a container has devices on the uplink beside which guests can get none.

    Yields ok; problem parent-held-elsewhere.
    """
    if not uplink.strangers or uplink.inspected.type == "bridge":  # guests get taps there
        return
    shown = ", ".join(f"{each.name} ({each.kind}, {each.where})" for each in uplink.strangers[:8])
    held = FAMILY[uplink.strangers[0].kind]  # a parent has one family
    wanted = uplink.settings.kind
    if wanted == "auto":
        wanted = FAMILY[uplink.child.kind] if uplink.child else "macvtap"
    if held == wanted:
        what = "containers have devices of the same kind on it"
        yield ok("strangers", uplink.name, what=what, evidence=shown)
        return
    yield problem(
        "parent-held-elsewhere",
        uplink.name,
        what=f"a container has devices on it beside which guests can get no {wanted}",
        evidence=shown,
        remedy=f'airtap.toml, {parent_table(uplink.name)}: kind = "{held}"; or end that container',
    )


def kinds_agree(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell whether guests and networks of libvirt and airtap.toml want one kind of device.

    Yields warning kinds-mixed.
    """
    wanted = list(context.wanted.get(uplink.name, ()))
    setting = uplink.settings.kind
    configured = [("airtap.toml", setting)] if wanted and setting != "auto" else []
    if len({kind for _, kind in (*wanted, *configured)}) < 2:
        return
    yield warning(
        "kinds-mixed",
        uplink.name,
        what="both macvtaps and ipvtaps are wanted on it: who starts second is refused",
        evidence=", ".join(f"{who}: {kind}" for who, kind in (*configured, *wanted)[:16]),
        remedy=_agreement(uplink.name, wanted, setting, context.connect),
    )


def _agreement(name: str, wanted: Sequence[tuple[str, str]], setting: str, connect: str) -> str:
    """Return what makes all want one kind: macvtap, where a network does, as it gives no other."""
    network = any(who.startswith("network ") for who, _ in wanted)
    kind = "macvtap" if network or setting == "auto" else setting
    odd = next((who for who, its in wanted if its != kind), "")
    if not odd:
        return f'airtap.toml, {parent_table(name)}: kind = "{kind}"'
    return f"airtap domain connect {word(odd)} --parent {word(name)} --kind {kind}{connect}"


def bridged(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell which ports of a bridge lead to a LAN that takes one MAC only.

    Yields problem bridge-on-one-mac.
    """
    for port in uplink.ports:
        yield problem(
            "bridge-on-one-mac",
            uplink.name,
            what=f"its port {port} takes one MAC only: the LAN does not hear its guests",
            evidence=f"port {port}: a Wi-Fi station, or macnat in airtap.toml",
            remedy=f"take {port} out of {uplink.name}, and use it itself: br={port}",
        )


def driver(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell what is known of the uplink's driver.

    Yields ok; warning driver-arp-offload, driver-br-ext or driver-one-mac.
    """
    name, link = uplink.driver, uplink.link
    takes_any = uplink.inspected.type == "ethernet" and not uplink.needs_macnat
    one_mac = f'airtap.toml, {parent_table(link.name)}: macnat = "on"'
    carried = FAMILY[uplink.child.kind] if uplink.child else ""
    if name == "brcmfmac" and not link.flags & _IFF_PROMISC:
        yield warning(
            "driver-arp-offload",
            link.name,
            what="the adapter's firmware answers ARP itself, and guests may not be found",
            evidence=f"driver {name}, and the device is not promiscuous",
            remedy=f"ip link set dev {word(link.name)} promisc on",
        )
    elif name in _BR_EXT and "ipvtap" in (uplink.settings.kind, carried):
        yield warning(
            "driver-br-ext",
            link.name,
            what="this Realtek driver bends frames of ipvlan devices (BR_EXT)",
            evidence=f"driver {name}",
            remedy=f'airtap.toml, {parent_table(link.name)}: kind = "macvtap"',
        )
    elif name in _ONE_MAC and takes_any:
        yield warning(
            "driver-one-mac",
            link.name,
            what=f"{_ONE_MAC[name]} is known to take one MAC only: guests may be deaf and mute",
            evidence=f"driver {name}, and no MAC NAT",
            remedy=one_mac,
        )
    elif name in _VIRTUAL and takes_any:
        what = f"this host is a virtual machine; if its own host takes one MAC only: {one_mac}"
        yield ok("driver", link.name, what=what)
    elif name:
        yield ok("driver", link.name, what=f"no trouble is known of the driver {name}")


def arp(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell whether the host answers ARP requests on the uplink.

    Reverse path filters, strict ones too, do no harm.

    Yields problem arp-ignore, where guests are to meet the host; warning arp-ignore elsewhere.
    """
    own = sysctl_of("ipv4", uplink.name, "arp_ignore")
    if uplink.sysctls.get("arp_ignore", 0) >= 8:
        yield Finding(
            level=PROBLEM if uplink.role and uplink.role.host_access else WARNING,
            id="arp-ignore",
            subject=uplink.name,
            what="the host answers no ARP request there, so neither guests nor the LAN find it",
            evidence=f"{own} or net.ipv4.conf.all.arp_ignore: 8",
            remedy=f"sysctl -w net.ipv4.conf.all.arp_ignore=0 {own}=0",
        )


def ipv6(uplink: UplinkSnapshot, _context: Context) -> Iterator[Finding]:
    """Tell whether the host itself has IPv6 on the uplink.

    Yields ok.
    """
    if uplink.sysctls.get("disable_ipv6"):
        yield ok("ipv6", uplink.name, what="the host has no IPv6 there; guests may have it")


def acl(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell whether the ACL allows the uplink to the user.

    Yields ok; problem acl-denied; warning acl-denied for root by sudo, who names the uplink.
    """
    user = context.user
    rules = user.rules
    if isinstance(rules, Problem):
        return
    if rules.allows({uplink.name}, uplink.link.altnames):
        what = f"the ACL allows it to {user.name}"
        yield ok("acl", uplink.name, what=what, evidence=user.acl_path)
        return
    names = {uplink.name, *uplink.link.altnames}
    denied = rules.deny_all or bool(names & rules.deny)
    path = word(user.acl_path, "the ACL")
    remedy = f"echo {word(f'allow {uplink.name}')} >> {path}"
    if denied:
        remedy = f"take the line that denies {uplink.name} (or all) out of {path}"
    if not user.root:
        remedy = f"as root: {remedy}"
    what = (
        f"the ACL does not allow it to {user.name}: libvirt's system guests need no rule, others do"
    )
    evidence = f"{user.acl_path}: {'a deny' if denied else 'no allow'} for {uplink.name}"
    if not user.root:
        yield problem("acl-denied", uplink.name, what=what, evidence=evidence, remedy=remedy)
    elif user.sudo and uplink.asked:
        yield warning("acl-denied", uplink.name, what=what, evidence=evidence, remedy=remedy)
    else:
        yield ok("acl", uplink.name, what=what, evidence=evidence)

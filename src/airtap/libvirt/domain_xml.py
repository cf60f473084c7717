"""Rewriting the network cards of a domain's XML. Pure: neither libvirt nor lxml is needed.

Nothing is parsed and written again: new text is put into the old (splice.py), so all else stays as
it was, byte for byte, and what people get to see as a diff is short.
https://libvirt.org/formatdomain.html#network-interfaces is the format; what the QEMU driver takes
of it is in libvirt's domain_validate.c and qemu_validate.c.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..errors import Problem
from .metadata import marked, unmarked
from .reader import Domain, Element, Interface, scan_domain
from .xml_edit import Edit, in_attribute, lead, spliced, tag, value_at, without

# The type that a card gets by the kind of connection that is wanted.
_TYPES = {"network": "network", "macvtap": "direct", "ipvtap": "ethernet"}

# The types that may be connected. Others have no tap (hostdev, vdpa, vhostuser) or no LAN (udp).
_KNOWN = ("network", "bridge", "direct", "ethernet", "user")

# What a card loses with its new type: whatever is of the old connection, and what libvirt does not
# take for the new one (it refuses mtu, coalesce and port, and silently drops filterref). Every
# other child stays as it is; for <target> see _leaves().
_SLIRP = {"ip", "route", "portForward"}
_OLD = {"source", "virtualport", "script", "downscript", "backend", "backenddomain"} | _SLIRP
_LEAVING = {
    "network": _OLD,
    "direct": _OLD | {"mtu", "coalesce", "port", "filterref"},
    "ethernet": _OLD | {"coalesce", "port"},
}

# With one of these, a card is left alone by for_this_host(), whose work nobody looks at: a macvtap
# neither tags, nor filters, nor isolates, and libvirt forbids an MTU on it as well as to lose one.
_STAYING = ("vlan", "filterref", "port", "mtu")

# Names that libvirt gives to taps, and takes out again of what it defines.
_GENERATED = re.compile(r"(vnet|macvtap|macvlan)[0-9]+")


@dataclass(frozen=True)
class Wanted:
    """What a network card is to be connected to.

    kind: network, macvtap or ipvtap. name: the network, or the parent device. mode: of a macvtap,
    in libvirt's word. alias: name is an alias, so airtapd makes the device, of either kind, at each
    start on what the alias then stands for.
    """

    kind: str
    name: str
    mode: str = "bridge"
    alias: bool = False

    @property
    def type(self) -> str:
        """Of libvirt's card."""
        return "ethernet" if self.alias else _TYPES[self.kind]


def prepared_device(uuid: str, mac: str) -> str:
    """The name of the device that airtapd makes for a domain's card at each of its starts."""
    return "airtap-" + hashlib.sha256(f"{uuid} {mac}".lower().encode()).hexdigest()[:8]


def connect(xml: str, nic: Interface, wanted: Wanted) -> str:
    """A domain's XML with the card of nic's MAC connected as wanted, and marked.

    The mark holds the card as it was; connecting it once more keeps that of the first time.
    Raises Problem bad-xml, no-such-nic, not-supported (a card that we do not understand, or that
    cannot be connected so), bad-name (nothing that can stand in XML).
    """
    document = xml.encode(errors="surrogatepass")
    domain = scan_domain(document)
    card = _understood(domain, nic, wanted)
    marks = [mark for mark in domain.marks if mark.mac == card.mac]
    original = marks[0].original if marks else document[card.start : card.end].decode()
    note = {"mac": card.mac}
    if wanted.kind == "network":
        link = {"network": wanted.name}
    elif wanted.type == "direct":
        link = {"dev": wanted.name, "mode": wanted.mode}
    else:
        device = prepared_device(domain.uuid, card.mac)
        link = {"dev": device, "managed": "no"}
        note |= {"device": device, "parent": wanted.name, "kind": wanted.kind}
    _expect_printable(wanted.name)
    document = spliced(document, _connected(document, card, wanted.type, link))
    return marked(document, note, original).decode()


def disconnect(xml: str, mac: str) -> str:
    """A domain's XML with the card of that MAC as it was before connect(), and no mark of it.

    Where the card is gone, only the mark goes. Raises Problem bad-xml, not-connected (there is no
    mark), bad-mark (it does not hold this card), not-supported (two cards have the MAC).
    """
    mac = mac.lower()
    document = xml.encode(errors="surrogatepass")
    domain = scan_domain(document)
    marks = [mark for mark in domain.marks if mark.mac == mac]
    if not marks:
        raise Problem("not-connected", f"no network card {mac} was connected by airtap")
    card = _card(domain, mac)
    device = marks[0].device
    if not card and device and any(nic.target == device for nic in domain.interfaces):
        raise Problem(
            "not-connected",
            f"the network card on {device} has had its MAC address changed from {mac}",
            "set it back, and disconnect then",
        )
    if card:
        document = _put_back(document, card, marks[0].original.encode())
    return unmarked(document, mac).decode()


def for_this_host(xml: bytes, parents: Mapping[str, str], aliases: Collection[str] = ()) -> bytes:
    """A stored or arriving domain's XML with its cards on devices of this host.

    parents: for names of devices_named(), this host's device instead. Cards on them become, or
    stay, macvtaps that libvirt makes, but for those of which airtapd makes the device on one of
    the aliases. Marks stay. Raises Problem bad-xml, bad-name.
    """
    domain = scan_domain(xml)
    edits: list[Edit] = []
    for nic in domain.interfaces:
        name = _replaceable(domain, nic)
        if name not in parents or (nic.type == "ethernet" and name in aliases):
            continue
        parent = _expect_printable(parents[name])
        if nic.type != "direct":
            edits += _connected(xml, nic, "direct", {"dev": parent, "mode": "bridge"})
        elif parent != name:
            edits += _moved(xml, nic, parent)
    return spliced(xml, edits)


def devices_named(domain: Domain) -> set[str]:
    """The devices below a domain's cards that for_this_host() can replace."""
    return {_replaceable(domain, nic) for nic in domain.interfaces} - {""}


# Which card, and may it be touched?


def _card(domain: Domain, mac: str) -> Interface | None:
    """The card of a MAC. Raises Problem not-supported if several have it."""
    cards = [nic for nic in domain.interfaces if nic.mac == mac]
    if len(cards) > 1:
        raise Problem(
            "not-supported",
            f"{len(cards)} network cards of the domain have the MAC address {mac}",
            "give each its own",
        )
    return cards[0] if cards else None


def _understood(domain: Domain, nic: Interface, wanted: Wanted) -> Interface:
    """The card of nic's MAC, if we can connect it. Raises Problem no-such-nic, not-supported."""
    if not nic.mac:
        raise Problem(
            "not-supported",
            f"a network card of type '{nic.type}' has no MAC address to know it by",
            "add one to it: <mac address='52:54:00:...'/>",
        )
    card = _card(domain, nic.mac)
    if card is None:
        raise Problem("no-such-nic", f"the domain has no network card {nic.mac}")
    refusal = _refusal(domain, card, wanted)
    if refusal:
        why, hint = refusal
        raise Problem("not-supported", f"network card {card.mac} {why}", hint)
    return card


def _refusal(domain: Domain, card: Interface, wanted: Wanted) -> tuple[str, str] | None:
    """Why a card cannot be connected as wanted, and what would help."""
    if card.type not in _KNOWN:
        known = ", ".join(_KNOWN)
        return f"is of type '{card.type}'", f"airtap connects cards of type {known}; add one"
    if card.element.all("vlan"):
        return (
            "has a <vlan>, and neither macvtap nor ipvtap tags frames",
            "take the <vlan> out; a VLAN device of the host can be the parent",
        )
    if wanted.kind != "network" and card.element.first("bandwidth", "inbound").get("floor"):
        return (
            "has a guaranteed bandwidth, which libvirt gives on its own networks only",
            "take floor= out of its <bandwidth>",
        )
    if not domain.name or not domain.uuid:
        return "is in a domain without a name or a UUID", "define it with both"
    return None


def _replaceable(domain: Domain, nic: Interface) -> str:
    """The device below a card, "" if it has none that for_this_host() could replace."""
    if any(nic.element.all(child) for child in _STAYING):
        return ""
    if nic.type == "bridge":
        return nic.source.get("bridge", "")
    if nic.type == "direct":
        return nic.source.get("dev", "")
    mark = domain.mark_of(nic)
    return mark.parent if mark else ""


def _expect_printable(name: str) -> str:
    """Raises Problem bad-name."""
    if not name.isprintable():
        raise Problem("bad-name", f"libvirt cannot write the name {name[:64]!a}")
    return name


# Cards.


def _connected(xml: bytes, nic: Interface, new: str, link: Mapping[str, str]) -> list[Edit]:
    """Give a card another type, and link as its <target> if that is ethernet, else <source>."""
    start, end = value_at(xml, nic.element, "type")
    quote = xml[end : end + 1].decode()
    text = tag("target" if new == "ethernet" else "source", link, quote, "/>")
    leaving = [child for child in nic.element.children if _leaves(child, new)]
    old = next((child for child in leaving if child.name in ("source", "target")), None)
    if old:
        place = old.start, old.end, text
    else:
        mac = nic.element.first("mac")
        place = mac.end, mac.end, lead(xml, mac) + text
    gone = [without(xml, child) for child in leaving if child is not old]
    return [(start, end, new.encode()), place, *gone]


def _moved(xml: bytes, nic: Interface, parent: str) -> list[Edit]:
    """Put a macvtap onto another parent; its mode and all else stay."""
    start, end = value_at(xml, nic.element.first("source"), "dev")
    targets = [child for child in nic.element.all("target") if _leaves(child, "direct")]
    text = in_attribute(parent).encode()
    return [(start, end, text), *(without(xml, target) for target in targets)]


def _leaves(child: Element, new: str) -> bool:
    """Whether a child of a card goes when the card gets a type.

    A <target> that the user named stays, unless the name is that of a device that was not
    libvirt's to make: it exists.
    """
    if child.name != "target":
        return child.name in _LEAVING[new]
    if new == "ethernet" or child.get("managed") == "no":
        return True
    return _GENERATED.fullmatch(child.get("dev")) is not None


def _put_back(xml: bytes, card: Interface, original: bytes) -> bytes:
    """Replace a card by what it was. Raises Problem bad-mark: anybody may write metadata."""
    document = spliced(xml, [(card.start, card.end, original)])
    try:
        cards = scan_domain(document).interfaces
    except Problem:
        cards = []
    this = (card.start, card.start + len(original), card.mac)
    if this not in [(nic.start, nic.end, nic.mac) for nic in cards]:
        raise Problem("bad-mark", f"the metadata does not tell what network card {card.mac} was")
    return document

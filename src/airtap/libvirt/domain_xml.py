"""The NICs of a domain's XML connected to the LAN and back. libvirt itself is not needed.

Nothing is parsed and written again: new text is put into the old (xml_edit.py), so all else stays
as it was, byte for byte, and what people get to see as a diff is short. What the new text is comes
from the administrator's or airtap's templates of an <interface>.
"""

import hashlib
from dataclasses import dataclass

from ..errors import Problem
from .interface_edit import expect_printable, linked
from .metadata import marked, unmarked
from .reader import Domain, Interface, scan_domain
from .templates import nic_link
from .xml_edit import spliced

# The type that a card gets by the kind of connection that is wanted.
_TYPES = {"network": "network", "macvtap": "direct", "ipvtap": "ethernet"}

# The types that may be connected. Others have no tap (hostdev, vdpa, vhostuser) or no LAN (udp).
_KNOWN = ("network", "bridge", "direct", "ethernet", "user")


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
    cannot be connected so), bad-name (nothing that can stand in XML), bad-template.
    """
    document = xml.encode(errors="surrogatepass")
    domain = scan_domain(document)
    card = _understood(domain, nic, wanted)
    marks = [mark for mark in domain.marks if mark.mac == card.mac]
    original = marks[0].original if marks else document[card.start : card.end].decode()
    note = {"mac": card.mac}
    if wanted.type == "ethernet":
        device = prepared_device(domain.uuid, card.mac)
        note |= {"device": device, "parent": wanted.name, "kind": wanted.kind}
    link = _link(wanted, card.mac, note.get("device", ""))
    document = spliced(document, linked(document, card, wanted.type, link))
    return marked(document, note, original).decode()


def _link(wanted: Wanted, mac: str, device: str) -> dict[str, str]:
    """The attributes of the <source> or <target> that connects a card as wanted."""
    name = expect_printable(wanted.name)
    if wanted.type == "network":
        return nic_link("interface-network", "network", "source", {"NETWORK": name, "MAC": mac})
    if wanted.type == "direct":
        values = {"PARENT": name, "MODE": wanted.mode, "MAC": mac}
        return nic_link("interface-macvtap", "direct", "source", values)
    return nic_link("interface-ipvtap", "ethernet", "target", {"DEVICE": device, "MAC": mac})


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

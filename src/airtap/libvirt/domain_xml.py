"""The NICs of a domain's XML connected to the LAN and back. libvirt itself is not needed.

Nothing is parsed and written again: new text is put into the old (xml_edit.py), so all else stays
as it was, byte for byte, and what people get to see as a diff is short. What the new text is comes
from the administrator's or airtap's templates of an <interface>.
"""

import hashlib
from dataclasses import dataclass

from ..errors import Problem
from . import metadata
from .interface_edit import expect_printable, linked
from .reader import Domain, Interface, scan_domain
from .templates import nic_link
from .xml_edit import spliced

# The type that a NIC gets by the kind of connection that is wanted.
_TYPES = {"network": "network", "macvtap": "direct", "ipvtap": "ethernet"}

# The types that may be connected. Others have no tap (hostdev, vdpa, vhostuser) or no LAN (udp).
_KNOWN = ("network", "bridge", "direct", "ethernet", "user")


@dataclass(frozen=True)
class Attachment:
    """What a NIC is to be connected to.

    kind: network, macvtap or ipvtap.
    name: the network, or the parent device.
    mode: that of a macvtap, in libvirt's word.
    alias: name is an alias, so airtapd makes the device, of either kind, at each start on what the
        alias then stands for.
    """

    kind: str
    name: str
    mode: str = "bridge"
    alias: bool = False

    @property
    def type(self) -> str:
        """Of libvirt's NIC."""
        return "ethernet" if self.alias else _TYPES[self.kind]


def prepared_device(uuid: str, mac: str) -> str:
    """Return the name of the device that airtapd makes for a domain's NIC at each of its starts."""
    return "airtap-" + hashlib.sha256(f"{uuid} {mac}".lower().encode()).hexdigest()[:8]


def connect(xml: str, nic: Interface, wanted: Attachment) -> str:
    """Return a domain's XML with the NIC of nic's MAC connected as wanted, and that noted.

    The metadata holds the NIC as it was; connecting it once more keeps that of the first time.
    Raises Problem bad-xml, no-such-nic, not-supported (a NIC that we do not understand, or that
    cannot be connected so), bad-name (nothing that can stand in XML), bad-template.
    """
    document = xml.encode(errors="surrogatepass")
    domain = scan_domain(document)
    interface = _understood(domain, nic, wanted)
    noted = [each for each in domain.nic_metadata if each.mac == interface.mac]
    original = noted[0].original if noted else document[interface.start : interface.end].decode()
    note = {"mac": interface.mac}
    if wanted.type == "ethernet":
        device = prepared_device(domain.uuid, interface.mac)
        note |= {"device": device, "parent": wanted.name, "kind": wanted.kind}
    attributes = link(wanted, interface.mac, note.get("device", ""))
    document = spliced(document, linked(document, interface, wanted.type, attributes))
    return metadata.add(document, note, original).decode()


def link(wanted: Attachment, mac: str, device: str) -> dict[str, str]:
    """Return the attributes of the <source> or <target> that connects a NIC as wanted.

    device: what airtapd is to make for it, if it does.
    Raises Problem bad-name, bad-template.
    """
    name = expect_printable(wanted.name)
    if wanted.type == "network":
        return nic_link("interface-network", "network", "source", {"NETWORK": name, "MAC": mac})
    if wanted.type == "direct":
        values = {"PARENT": name, "MODE": wanted.mode, "MAC": mac}
        return nic_link("interface-macvtap", "direct", "source", values)
    return nic_link("interface-ipvtap", "ethernet", "target", {"DEVICE": device, "MAC": mac})


def disconnect(xml: str, mac: str) -> str:
    """Return a domain's XML with the NIC of that MAC as it was before connect(), nothing noted.

    Where the NIC is gone, only the note goes. Raises Problem bad-xml, not-connected (nothing is
    noted), bad-mark (not this NIC is), not-supported (two NICs have the MAC).
    """
    mac = mac.lower()
    document = xml.encode(errors="surrogatepass")
    domain = scan_domain(document)
    noted = [each for each in domain.nic_metadata if each.mac == mac]
    if not noted:
        raise Problem("not-connected", f"no network card {mac} was connected by airtap")
    interface = _of_mac(domain, mac)
    device = noted[0].device
    if not interface and device and any(nic.target == device for nic in domain.interfaces):
        what = f"the network card on {device} has had its MAC address changed from {mac}"
        raise Problem("not-connected", what, "set it back, and disconnect then")
    if interface:
        document = _put_back(document, interface, noted[0].original.encode())
    return metadata.remove(document, mac).decode()


# Which NIC, and may it be touched?


def _of_mac(domain: Domain, mac: str) -> Interface | None:
    """Return the NIC of a MAC. Raises Problem not-supported if several have it."""
    interfaces = [nic for nic in domain.interfaces if nic.mac == mac]
    if len(interfaces) > 1:
        what = f"{len(interfaces)} network cards of the domain have the MAC address {mac}"
        raise Problem("not-supported", what, "give each its own")
    return interfaces[0] if interfaces else None


def _understood(domain: Domain, nic: Interface, wanted: Attachment) -> Interface:
    """Return the NIC of nic's MAC, if we can connect it.

    Raises Problem no-such-nic, not-supported.
    """
    if not nic.mac:
        what = f"a network card of type '{nic.type}' has no MAC address to know it by"
        raise Problem("not-supported", what, "add one to it: <mac address='52:54:00:...'/>")
    interface = _of_mac(domain, nic.mac)
    if interface is None:
        raise Problem("no-such-nic", f"the domain has no network card {nic.mac}")
    refusal = _refusal(domain, interface, wanted)
    if refusal:
        why, hint = refusal
        raise Problem("not-supported", f"network card {interface.mac} {why}", hint)
    return interface


def _refusal(domain: Domain, interface: Interface, wanted: Attachment) -> tuple[str, str] | None:
    """Return why a NIC cannot be connected as wanted, and what would help."""
    if interface.type not in _KNOWN:
        known = ", ".join(_KNOWN)
        return f"is of type '{interface.type}'", f"airtap connects cards of type {known}; add one"
    if interface.element.all("vlan"):
        return (
            "has a <vlan>, and neither macvtap nor ipvtap tags frames",
            "take the <vlan> out; a VLAN device of the host can be the parent",
        )
    if wanted.kind != "network" and interface.element.first("bandwidth", "inbound").get("floor"):
        return (
            "has a guaranteed bandwidth, which libvirt gives on its own networks only",
            "take floor= out of its <bandwidth>",
        )
    if not domain.name or not domain.uuid:
        return "is in a domain without a name or a UUID", "define it with both"
    return None


def _put_back(xml: bytes, interface: Interface, original: bytes) -> bytes:
    """Replace a NIC by what it was. Raises Problem bad-mark: anybody may write metadata."""
    document = spliced(xml, [(interface.start, interface.end, original)])
    try:
        interfaces = scan_domain(document).interfaces
    except Problem:
        interfaces = []
    this = (interface.start, interface.start + len(original), interface.mac)
    if this not in [(nic.start, nic.end, nic.mac) for nic in interfaces]:
        what = f"the metadata does not tell what network card {interface.mac} was"
        raise Problem("bad-mark", what)
    return document

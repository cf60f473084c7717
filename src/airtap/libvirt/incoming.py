"""Guests that come from a file or another host: their NICs put on devices of this host.

libvirt's hooks run this, so it is pure, and needs neither libvirt nor lxml.
"""

from collections.abc import Collection, Mapping

from .interface_edit import expect_printable, linked, moved
from .reader import Domain, Interface, scan_domain
from .xml_edit import Edit, spliced

# With one of these, a NIC is left alone by for_this_host(), whose work nobody looks at: a macvtap
# neither tags, nor filters, nor isolates, and libvirt forbids an MTU on it as well as to lose one.
_STAYING = ("vlan", "filterref", "port", "mtu")


def for_this_host(xml: bytes, parents: Mapping[str, str], aliases: Collection[str] = ()) -> bytes:
    """Return a stored or arriving domain's XML with its NICs on devices of this host.

    parents: for names of devices_named(), this host's device instead. NICs on them become, or
    stay, macvtaps that libvirt makes, but for those of which airtapd makes the device on one of
    the aliases. Metadata stays. Raises Problem bad-xml, bad-name.
    """
    domain = scan_domain(xml)
    edits: list[Edit] = []
    for nic in domain.interfaces:
        name = _replaceable(domain, nic)
        if name not in parents or (nic.type == "ethernet" and name in aliases):
            continue
        parent = expect_printable(parents[name])
        if nic.type != "direct":
            edits += linked(xml, nic, "direct", {"dev": parent, "mode": "bridge"})
        elif parent != name:
            edits += moved(xml, nic, parent)
    return spliced(xml, edits)


def devices_named(domain: Domain) -> set[str]:
    """Return the devices below a domain's NICs that for_this_host() can replace."""
    return {_replaceable(domain, nic) for nic in domain.interfaces} - {""}


def _replaceable(domain: Domain, nic: Interface) -> str:
    """Return the device below a NIC, "" if it has none that for_this_host() could replace."""
    if any(nic.element.all(child) for child in _STAYING):
        return ""
    if nic.type == "bridge":
        return nic.source.get("bridge", "")
    if nic.type == "direct":
        return nic.source.get("dev", "")
    noted = domain.metadata_of(nic)
    return noted.parent if noted else ""

"""The edits that give a NIC in a domain's XML another link to the host. Pure.

https://libvirt.org/formatdomain.html#network-interfaces is the format; what the QEMU driver takes
of it is in libvirt's domain_validate.c and qemu_validate.c.
"""

import re
from collections.abc import Mapping

from ..errors import Problem
from .reader import Element, Interface
from .xml_edit import Edit, in_attribute, lead, tag, value_at, without

# What a NIC loses with its new type: whatever is of the old connection, and what libvirt does not
# take for the new one (it refuses mtu, coalesce and port, and silently drops filterref). Every
# other child stays as it is; for <target> see _leaves().
_SLIRP = {"ip", "route", "portForward"}
_OLD = {"source", "virtualport", "script", "downscript", "backend", "backenddomain"} | _SLIRP
_LEAVING = {
    "network": _OLD,
    "direct": _OLD | {"mtu", "coalesce", "port", "filterref"},
    "ethernet": _OLD | {"coalesce", "port"},
}

# Names that libvirt gives to taps, and takes out again of what it defines.
_GENERATED = re.compile(r"(vnet|macvtap|macvlan)[0-9]+")


def linked(xml: bytes, nic: Interface, new: str, link: Mapping[str, str]) -> list[Edit]:
    """Give a NIC another type, and link as its <target> if that is ethernet, else <source>."""
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


def moved(xml: bytes, nic: Interface, parent: str) -> list[Edit]:
    """Put a macvtap onto another parent; its mode and all else stay."""
    start, end = value_at(xml, nic.element.first("source"), "dev")
    targets = [child for child in nic.element.all("target") if _leaves(child, "direct")]
    text = in_attribute(parent).encode()
    return [(start, end, text), *(without(xml, target) for target in targets)]


def _leaves(child: Element, new: str) -> bool:
    """Return whether a child of a NIC goes when the NIC gets a type.

    A <target> that the user named stays, unless the name is that of a device that was not
    libvirt's to make: it exists.
    """
    if child.name != "target":
        return child.name in _LEAVING[new]
    if new == "ethernet" or child.get("managed") == "no":
        return True
    return _GENERATED.fullmatch(child.get("dev")) is not None


def expect_printable(name: str) -> str:
    """Raises Problem bad-name."""
    if not name.isprintable():
        raise Problem("bad-name", f"libvirt cannot write the name {name[:64]!a}")
    return name

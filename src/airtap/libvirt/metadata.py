"""What airtap notes in a domain's <metadata> of the NICs that it connected.

It holds the NIC as it was, as text. Each step finds its elements anew, in what the step before
has made.
"""

import re
from collections.abc import Mapping

from .reader import NAMESPACE, scan_domain
from .xml_edit import appended, in_text, inner, lead, name_of, spliced, tag, without

_OURS = f"{NAMESPACE}}}domain"
_HEADS = ("name", "uuid", "genid", "title", "description")  # what libvirt has before <metadata>
_BLANK_METADATA = re.compile(r"<metadata\s*(/>|>\s*</metadata\s*>)", re.ASCII)


def add(xml: bytes, note: Mapping[str, str], original: str) -> bytes:
    """Add what is noted of a NIC, or replace what was noted of that MAC.

    note: the attributes. original: the <interface> as it was before airtap connected it.
    """
    domain = scan_domain(xml)
    old = [noted.element for noted in domain.nic_metadata if noted.mac == note["mac"]]
    if old:
        nic = _nic(name_of(xml, old[0]), note, original)
        return spliced(xml, [(old[0].start, old[0].end, nic)])
    metadata = domain.element.first("metadata")
    before = xml[metadata.start : metadata.end].decode()
    if not before:
        head = [child for child in domain.element.children if child.name in _HEADS][-1]
        xml = spliced(xml, [(head.end, head.end, lead(xml, head) + b"<metadata/>")])
    if not domain.element.all("metadata", _OURS):
        blank = {"empty": before} if _BLANK_METADATA.fullmatch(before) else {}
        ours = tag("airtap:domain", {"xmlns:airtap": NAMESPACE} | blank, '"', "/>")
        xml = appended(xml, ("metadata",), ours)
    name = name_of(xml, scan_domain(xml).element.first("metadata", _OURS))
    name = f"{name.removesuffix('domain')}nic"  # with the prefix that our namespace has there
    return appended(xml, ("metadata", _OURS), _nic(name, note, original))


def remove(xml: bytes, mac: str) -> bytes:
    """Remove what was noted of a MAC, and with the last the elements that add() had to add."""
    noted = [each for each in scan_domain(xml).nic_metadata if each.mac == mac]
    xml = spliced(xml, [without(xml, each.element) for each in noted])
    ours = scan_domain(xml).element.first("metadata", _OURS)
    if inner(xml, ours).strip():
        return xml
    xml = spliced(xml, [without(xml, ours)])
    metadata = scan_domain(xml).element.first("metadata")
    if inner(xml, metadata).strip():
        return xml
    before = ours.get("empty")
    if _BLANK_METADATA.fullmatch(before):
        return spliced(xml, [(metadata.start, metadata.end, before.encode())])
    return spliced(xml, [without(xml, metadata)])


def _nic(name: str, note: Mapping[str, str], original: str) -> bytes:
    text = in_text(original).encode()
    return tag(name, note, '"', ">") + text + f"</{name}>".encode()

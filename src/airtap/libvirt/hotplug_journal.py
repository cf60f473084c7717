"""The journal of hotplug: what is to be plugged into running guests, in their live metadata.

To replace a NIC takes its guest's own work: it has to release the old one (ACPI), which may take
until its next reset. So what is to come in its place is noted before. The note goes when the new
NIC is in, or with the guest; until then `airtap domain replug` finds it, also after the process
that wrote it was killed.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ..config import Config
from ..errors import Problem
from ..kernel.links import Link
from .connection import binding, problems
from .live_nics import from_interface, live_xml
from .nic import LiveNic
from .reader import NAMESPACE, Domain, NicMetadata, scan_domain
from .xml import parse, serialize

_JOURNAL = "urn:airtap:replug:1"
# Names that libvirt gives to macvtaps that it makes.
_GENERATED = re.compile(r"macvtap[0-9]+")


@dataclass(frozen=True)
class JournalEntry:
    """A NIC to be plugged in, as xml has it, on a device of parent.

    old: the NIC that has to go first, None if it has gone.
    was: ifindex of the old one's device, 0 if that was gone.
    back: what is plugged in instead if this fails.
    """

    nic: LiveNic
    parent: str
    xml: str
    old: LiveNic | None
    was: int = 0
    back: "JournalEntry | None" = None


def new_interface(nic: LiveNic, parent: str = "") -> str:
    """Return the <interface> by which a NIC is plugged in anew, on another parent if one is named.

    All that the guest sees of it stays: MAC, model, addresses.
    """
    root = parse(nic.xml.encode())
    if nic.prepared:
        return serialize(root)
    source, target = root.find("source"), root.find("target")
    if _GENERATED.fullmatch(target.get("dev")):
        root.remove(target)
    if parent:
        kept = {"dev": parent, "mode": source.get("mode")}
    elif source.get("network"):  # libvirt shows what it has made of it
        root.set("type", "network")
        kept = {key: source.get(key) for key in ("network", "portgroup")}
    else:
        return serialize(root)
    source.attrib.clear()
    source.attrib.update({key: value for key, value in kept.items() if value})
    return serialize(root)


def address(xml: str) -> dict[str, str]:
    """Return where in its guest a NIC is, which its <address> says."""
    found = parse(xml.encode()).find("address")
    return {} if found is None else dict(found.attrib)


def entry_to_move(nic: LiveNic, parent: str, here: Mapping[str, Link]) -> JournalEntry:
    """Return the entry that brings a NIC to another parent, or leaves it where it was."""
    back = JournalEntry(nic, nic.name, new_interface(nic), None)
    device = here.get(nic.target)
    was = device.index if device else 0
    return JournalEntry(nic, parent, new_interface(nic, parent), nic, was, back)


def read(guest: Any, domain: Domain) -> list[JournalEntry]:
    """Return what a guest's metadata says is to be plugged in.

    Nonsense is skipped: whoever may define a guest may write there.
    """
    entries = []
    for note in domain.element.all("metadata", f"{_JOURNAL}}}cards", f"{_JOURNAL}}}card"):
        with suppress(Problem, ValueError):
            document = f"<domain><devices>{note.text}</devices></domain>".encode()
            [interface] = scan_domain(document).interfaces
            noted = NicMetadata(note)
            known = noted if noted.device else None
            nic = from_interface(guest, domain, interface, known, note.text)
            nic = replace(nic, kind=noted.kind, name=noted.parent)
            entries.append(JournalEntry(nic, noted.parent, note.text, None, int(note.get("was"))))
    return entries


def write(guest: Any, mac: str, entry: JournalEntry | None) -> bool:
    """Note what is to be plugged in for a MAC, or that nothing is. Returns whether something was.

    Raises Problem libvirt-error.
    """
    notes = read(guest, scan_domain(live_xml(guest).encode()))
    others = [note for note in notes if note.nic.mac != mac]
    root = parse(b"<cards/>")
    for each in [*others, *([entry] if entry else [])]:
        element = root.makeelement("card", mac=each.nic.mac, was=str(each.was))
        element.attrib.update({"parent": each.parent, "kind": each.nic.kind})
        if each.nic.prepared:
            element.set("device", each.nic.target)
        element.text = each.xml
        root.append(element)
    if notes or entry:
        _set_metadata(guest, serialize(root) if len(root) else None, "airtap-replug", _JOURNAL)
    return len(others) < len(notes)


def update_metadata(nic: LiveNic, parent: str, settings: Config) -> None:
    """Have the live metadata of a NIC name the device that it stands on now, for the next replug.

    One that names an alias of several stays.
    """
    libvirt = binding()
    with problems(f"read the metadata of domain {nic.domain}"):
        text = nic.guest.metadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_LIVE
        )
    root = parse(text.encode())
    for element in root:
        before = element.get("parent")
        if element.get("device") == nic.target and not settings.is_choice(before):
            element.set("parent", parent)
            if before != parent:
                _set_metadata(nic.guest, serialize(root), "airtap", NAMESPACE)


def _set_metadata(guest: Any, xml: str | None, prefix: str, namespace: str) -> None:
    libvirt = binding()
    kind, live = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE
    with problems(f"change the metadata of domain {guest.name()}"):
        guest.setMetadata(kind, xml, prefix, namespace, live)

"""What is to be plugged into running guests, and the notes of it in their live metadata.

To replace a card takes its guest's own work: it has to release the old one (ACPI), which may take
until its next reset. So what is to come in its place is noted before. The note goes when the new
card is in, or with the guest; until then `airtap domain replug` finds it, also after the process
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
from .live_nics import Card, from_interface, live_xml
from .reader import NAMESPACE, Domain, Mark, scan_domain
from .xml import parse, serialize

_NOTES = "urn:airtap:replug:1"
# Names that libvirt gives to macvtaps that it makes.
_GENERATED = re.compile(r"macvtap[0-9]+")


@dataclass(frozen=True)
class Plan:
    """A card to be plugged in, as xml has it, on a device of parent.

    old: the card that has to go first, None if it has gone. was: ifindex of the old one's
    device, 0 if that was gone. back: what is plugged in instead if this fails.
    """

    card: Card
    parent: str
    xml: str
    old: Card | None
    was: int = 0
    back: "Plan | None" = None


def plugged(card: Card, parent: str = "") -> str:
    """The <interface> by which a card is plugged in anew, on another parent if one is named.

    All that the guest sees of it stays: MAC, model, addresses.
    """
    root = parse(card.xml.encode())
    if card.prepared:
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


def place(xml: str) -> dict[str, str]:
    """Where in its guest a card is: what its <address> says."""
    address = parse(xml.encode()).find("address")
    return {} if address is None else dict(address.attrib)


def moved(card: Card, parent: str, here: Mapping[str, Link]) -> Plan:
    """The plan that brings a card to another parent, or leaves it where it was."""
    back = Plan(card, card.parent, plugged(card), None)
    device = here.get(card.device)
    was = device.index if device else 0
    return Plan(card, parent, plugged(card, parent), card, was, back)


def read(guest: Any, domain: Domain) -> list[Plan]:
    """What a guest's metadata says is to be plugged in. Nonsense is skipped: who may write that?"""
    plans = []
    for note in domain.element.all("metadata", f"{_NOTES}}}cards", f"{_NOTES}}}card"):
        with suppress(Problem, ValueError):
            document = f"<domain><devices>{note.text}</devices></domain>".encode()
            [nic] = scan_domain(document).interfaces
            mark = Mark(note)
            card = from_interface(guest, domain, nic, mark if mark.device else None, note.text)
            card = replace(card, kind=mark.kind, parent=mark.parent)
            plans.append(Plan(card, mark.parent, note.text, None, int(note.get("was"))))
    return plans


def write(guest: Any, mac: str, plan: Plan | None) -> bool:
    """Note what is to be plugged in for a MAC, or that nothing is. Returns whether something was.

    Raises Problem libvirt-error.
    """
    notes = read(guest, scan_domain(live_xml(guest).encode()))
    others = [note for note in notes if note.card.mac != mac]
    root = parse(b"<cards/>")
    for each in [*others, *([plan] if plan else [])]:
        element = root.makeelement("card", mac=each.card.mac, was=str(each.was))
        element.attrib.update({"parent": each.parent, "kind": each.card.kind})
        if each.card.prepared:
            element.set("device", each.card.device)
        element.text = each.xml
        root.append(element)
    if notes or plan:
        _set_metadata(guest, serialize(root) if len(root) else None, "airtap-replug", _NOTES)
    return len(others) < len(notes)


def mark(card: Card, parent: str, settings: Config) -> None:
    """Have the live mark of a card name the device that it stands on now, for the next replug.

    One that names an alias of several stays.
    """
    libvirt = binding()
    with problems(f"read the metadata of domain {card.name}"):
        text = card.guest.metadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_LIVE
        )
    root = parse(text.encode())
    for element in root:
        before = element.get("parent")
        if element.get("device") == card.device and not settings.is_choice(before):
            element.set("parent", parent)
            if before != parent:
                _set_metadata(card.guest, serialize(root), "airtap", NAMESPACE)


def _set_metadata(guest: Any, xml: str | None, prefix: str, namespace: str) -> None:
    libvirt = binding()
    kind, live = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE
    with problems(f"change the metadata of domain {guest.name()}"):
        guest.setMetadata(kind, xml, prefix, namespace, live)

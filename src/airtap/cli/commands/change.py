"""A change of a domain's definition: shown, held against libvirt's schema, and made."""

import difflib
from collections.abc import Callable
from typing import Any

from ...errors import Problem
from ...libvirt import domains
from ...libvirt.reader import Interface, scan_domain
from ...libvirt.xml import validate
from ..common import notice

# What becomes of these is the change itself, and nothing that gets lost with it.
_OF_THE_LINK = {"source", "target"}


def is_idle(before: str, after: str, mac: str) -> bool:
    """Return whether to connect a NIC would change no more than to note that it has been done."""
    texts, noted = [], []
    for xml in (before, after):
        domain = scan_domain(xml.encode())
        texts += [xml.encode()[nic.start : nic.end] for nic in domain.interfaces if nic.mac == mac]
        noted.append([each for each in domain.nic_metadata if each.mac == mac])
    new = not noted[0] and not noted[1][0].device  # airtapd finds a device by its metadata
    return before == after or (new and texts[0] == texts[1])


def diff(before: str, after: str, name: str, change: str) -> str:
    """Return what changes in a domain's XML, for people: it steers no terminal."""
    lines = difflib.unified_diff(
        before.rstrip("\n").split("\n"),
        after.rstrip("\n").split("\n"),
        f"{name} (now)",
        f"{name} ({change})",
        lineterm="",
    )
    return "\n".join("\t".join(map(_escaped, line.split("\t"))) for line in lines)


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def redefine(connection: Any, handle: Any, rewrite: Callable[[str], str], shown: str) -> Any:
    """Rewrite the whole definition as shown was, which lacks passwords. Returns the domain."""
    _expect_valid(shown, rewrite(shown), handle.name())
    xml = domains.definition(handle, secrets=True)
    return domains.redefine(connection, rewrite(xml), handle.name())


def _expect_valid(before: str, after: str, name: str) -> None:
    """Raise Problem bad-xml where libvirt's schema does not allow what would be defined."""
    try:
        hold_against_schema(after, "domain")
    except Problem as problem:
        try:
            hold_against_schema(before, "domain")
        except Problem as already:
            what = f"domain {name} is left alone, as it is not valid already: {already.message}"
            raise Problem("bad-xml", what, f"virsh edit {name} can mend it") from problem
        raise


def left_out(before: Interface, now: Interface) -> list[str]:
    """Return the parts that a NIC had and has no more, as `<filterref>`."""
    there = {child.name for child in now.element.children}
    names = dict.fromkeys(child.name for child in before.element.children)
    return [f"<{name}>" for name in names if name not in there | _OF_THE_LINK]


def hold_against_schema(xml: str, schema: str) -> None:
    """Raise Problem bad-xml where libvirt's schema of that name does not allow XML."""
    if not validate(xml, schema):
        notice("libvirt's schemas are not installed here: the XML goes to libvirt unchecked")

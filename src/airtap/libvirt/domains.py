"""Domains in a libvirt daemon, as they are listed, read and redefined."""

from dataclasses import dataclass
from typing import Any

from ..errors import Problem
from .connection import binding, passed_over, problems
from .nic import Nic, nics
from .reader import scan_domain

# virDomainState, in virsh's words.
_STATES = (
    "no state",
    "running",
    "idle",
    "paused",
    "in shutdown",
    "shut off",
    "crashed",
    "pmsuspended",
)


@dataclass(frozen=True)
class ListedDomain:
    """A domain as it stands in libvirt."""

    name: str
    uuid: str
    state: str
    persistent: bool
    nics: list[Nic]


def entries(connection: Any) -> list[ListedDomain]:
    """Return every domain, by name. Raises Problem libvirt-error, bad-xml."""
    with problems("list domains"):
        found = [_entry(handle) for handle in connection.listAllDomains()]
    return sorted((entry for entry in found if entry), key=lambda entry: entry.name)


def look_up(connection: Any, name: str) -> Any:
    """Return the domain of that name or UUID. Raises Problem no-domain, libvirt-error."""
    with problems(f"look for domain {name}"):
        handles = connection.listAllDomains()
        known = {handle.UUIDString(): handle for handle in handles}
        known |= {handle.name(): handle for handle in handles}
        handle = known.get(name) or known.get(name.lower())
        if handle is None:
            what = f"there is no domain {name} at {connection.getURI()}"
            raise Problem("no-domain", what, "see: airtap domain list")
    return handle


def find(connection: Any, name: str) -> Any:
    """Return the domain of that name or UUID, if it has a definition that can be changed.

    Raises Problem no-domain, not-persistent, libvirt-error.
    """
    handle = look_up(connection, name)
    with problems(f"look for domain {name}"):
        if not handle.isPersistent():
            raise Problem(
                "not-persistent",
                f"domain {name} is transient: it ends with its guest, and has no definition that"
                " its next start would follow",
                "virsh define makes it persistent; or connect its definition where it is kept",
            )
    return handle


def definition(handle: Any, *, secrets: bool) -> str:
    """Return the XML that a domain's next start follows.

    secrets: whether to include the passwords of its graphics.
    Raises Problem libvirt-error.
    """
    libvirt = binding()
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | (libvirt.VIR_DOMAIN_XML_SECURE if secrets else 0)
    with problems(f"read domain {handle.name()}"):
        xml: str = handle.XMLDesc(flags)
    return xml


def redefine(connection: Any, xml: str, name: str) -> Any:
    """Give a domain another definition. A running guest goes on as it is.

    Returns the domain. Raises Problem libvirt-error.
    """
    libvirt = binding()
    with problems(f"define domain {name}"):
        return connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def delays(handle: Any) -> str:
    """Return why a domain's new definition does not count at once, "" if it does."""
    with problems(f"inspect domain {handle.name()}"):
        if handle.isActive():
            return "it runs: this counts from its next start, to reboot inside is not enough"
        if handle.hasManagedSaveImage():
            return "it is saved and resumes as it was: this counts from the start after that"
    return ""


def _entry(handle: Any) -> ListedDomain | None:
    """None if the domain has gone meanwhile."""
    libvirt = binding()
    name, uuid = handle.name(), handle.UUIDString()
    with passed_over("VIR_ERR_NO_DOMAIN"):
        xml = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        state = handle.state()[0]
        known = _STATES[state] if state < len(_STATES) else _STATES[0]
        return ListedDomain(name, uuid, known, bool(handle.isPersistent()), _nics(name, xml))
    return None


def _nics(name: str, xml: str) -> list[Nic]:
    try:
        return nics(scan_domain(xml.encode()))
    except Problem as problem:
        raise Problem(problem.code, f"domain {name}: {problem.message}", problem.hint) from problem

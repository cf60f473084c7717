"""What `airtap domain list` shows, for people and for programs."""

from typing import Any

from ...libvirt.connectivity import Verdict
from ...libvirt.domains import ListedDomain
from ...libvirt.nic import Nic
from ..columns import aligned, printable

Json = dict[str, Any]

_COLUMNS = ("DOMAIN", "STATE", "NIC", "MAC", "ATTACHED TO", "BY AIRTAP", "WORKS")


def table(domains: list[tuple[ListedDomain, list[tuple[Nic, Verdict]]]]) -> str:
    """Return NICs for people: a line each."""
    rows = [_row(entry, nic, verdict) for entry, nics in domains for nic, verdict in nics]
    return "\n".join(aligned([_COLUMNS, *rows])) if rows else "no network cards"


def _row(entry: ListedDomain, nic: Nic, verdict: Verdict) -> tuple[str, ...]:
    return (
        printable(entry.name),
        entry.state,
        str(nic.number),
        nic.mac or "-",
        printable(f"{nic.kind} {nic.name}".rstrip()),
        "yes" if nic.connected else "no",
        printable(verdict_text(verdict)),
    )


def verdict_text(verdict: Verdict) -> str:
    """Return a verdict in words."""
    works, why = verdict
    if works is None:
        return f"- ({why})" if why else "-"
    if works:
        return f"yes, {why}" if why else "yes"
    return f"no: {why}"


def to_json(entry: ListedDomain, nics: list[tuple[Nic, Verdict]]) -> Json:
    """Return a domain and its NICs for programs."""
    return {
        "name": entry.name,
        "uuid": entry.uuid,
        "state": entry.state,
        "persistent": entry.persistent,
        "nics": [_nic_json(nic, *verdict) for nic, verdict in nics],
    }


def _nic_json(nic: Nic, works: bool | None, why: str) -> Json:
    return {
        "number": nic.number,
        "mac": nic.mac or None,
        "kind": nic.kind,
        "name": nic.name or None,
        "mode": nic.mode or None,
        "connected": nic.connected,
        "works": works,
        "why": why or None,
    }

"""Networks and domains, asked of a libvirt daemon that answers in time."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from ...config import Config
from ...errors import Problem
from ...libvirt.connection import connected, problems
from ...libvirt.scan import scan_domain
from ...uris import expect_local, is_session

# These need lxml, without which a diagnosis is to do the rest.
if TYPE_CHECKING:
    from ...libvirt.domains import Nic
    from ...libvirt.networks import Entry

T = TypeVar("T")

_ANSWER_S = 30.0
_RUNNING = ("running", "idle", "paused", "in shutdown", "pmsuspended")


@dataclass(frozen=True)
class Card:
    """A network card. works, why: its verdict. device: that airtapd makes for it, or "".

    own: whether the note of that device bears this card's MAC, as it does not in a clone.
    """

    nic: "Nic"
    works: bool | None
    why: str
    device: str
    own: bool


@dataclass(frozen=True)
class Domain:
    name: str
    uuid: str
    running: bool
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Libvirt:
    """silence: why it was not asked, or did not answer; None if it did. devices: there are."""

    uri: str
    silence: Problem | None = None
    session: bool = False
    networks: "tuple[Entry, ...]" = ()
    domains: tuple[Domain, ...] = ()
    devices: frozenset[str] = field(default_factory=frozenset)


def read(uri: str, settings: Config, devices: Iterable[str]) -> Libvirt:
    """devices: names of those of this host."""
    try:
        return within(_ANSWER_S, lambda: _read(uri, settings, frozenset(devices)))
    except Problem as problem:
        return Libvirt(uri, problem)


def _read(uri: str, settings: Config, devices: frozenset[str]) -> Libvirt:
    from ...libvirt import domains, networks

    with connected(uri, read_only=True) as connection:
        expect_local(connection.getURI())
        entries = domains.entries(connection)
        host = domains.look_around(connection, [n for e in entries for n in e.nics], settings)
        marks = _marks(connection)
        found = [
            Domain(
                entry.name,
                entry.uuid,
                entry.state in _RUNNING,
                tuple(
                    Card(nic, *domains.verdict(nic, host), *_mark(nic, marks.get(entry.uuid, {})))
                    for nic in entry.nics
                ),
            )
            for entry in entries
        ]
        return Libvirt(
            uri,
            session=is_session(connection.getURI()),
            networks=tuple(networks.entries(connection)),
            domains=tuple(found),
            devices=devices,
        )


def _mark(nic: "Nic", marks: Mapping[int, tuple[str, bool]]) -> tuple[str, bool]:
    return marks.get(nic.number, ("", True)) if nic.prepared else ("", True)


def _marks(connection: Any) -> dict[str, dict[int, tuple[str, bool]]]:
    """Of each domain's cards, by number: the device in their mark, and whether that is theirs."""
    from ...libvirt import domains

    found = {}
    with problems("read domains"):
        for handle in connection.listAllDomains():
            with suppress(Problem):  # it has gone meanwhile
                xml = domains.definition(handle, secrets=False)
                domain = scan_domain(xml.encode())
                owners = {mark.device: mark.mac for mark in domain.marks if mark.device}
                found[handle.UUIDString()] = {
                    number: (card.target, owners[card.target] == card.mac)
                    for number, card in enumerate(domain.interfaces, 1)
                    if card.target in owners
                }
    return found


def within(seconds: float, function: Callable[[], T]) -> T:
    """Call function in a thread; raise Problem no-answer if it takes longer than that."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as exc:
            failures.append(exc)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not results:
        raise Problem("no-answer", f"libvirt has not answered in {seconds:g} s")
    return results[0]

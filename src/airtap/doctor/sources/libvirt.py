"""Networks and domains, asked of a libvirt daemon that answers in time."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...config import Config
from ...errors import Problem
from ...libvirt.connection import connected, within
from ...uris import expect_local, is_session

# These need lxml, without which a diagnosis is to do the rest.
if TYPE_CHECKING:
    from ...libvirt.networks import ListedNetwork
    from ...libvirt.nic import Nic

_ANSWER_S = 30.0


@dataclass(frozen=True)
class Card:
    """A network card. works, why: its verdict."""

    nic: "Nic"
    works: bool | None
    why: str


@dataclass(frozen=True)
class Domain:
    name: str
    uuid: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Libvirt:
    """silence: why it was not asked, or did not answer; None if it did. devices: there are."""

    uri: str
    silence: Problem | None = None
    session: bool = False
    networks: "tuple[ListedNetwork, ...]" = ()
    domains: tuple[Domain, ...] = ()
    devices: frozenset[str] = field(default_factory=frozenset)


def read(uri: str, settings: Config, devices: Iterable[str]) -> Libvirt:
    """devices: names of those of this host."""
    try:
        return within(_ANSWER_S, lambda: _read(uri, settings, frozenset(devices)))
    except TimeoutError:
        what = f"libvirt has not answered in {_ANSWER_S:g} s"
        return Libvirt(uri, Problem("no-answer", what))
    except Problem as problem:
        return Libvirt(uri, problem)


def _read(uri: str, settings: Config, devices: frozenset[str]) -> Libvirt:
    from ...libvirt import domains, networks
    from ...libvirt.connectivity import check, inspect_host

    with connected(uri, read_only=True) as connection:
        expect_local(connection.getURI())
        entries = domains.entries(connection)
        host = inspect_host(connection, [n for e in entries for n in e.nics], settings)
        return Libvirt(
            uri,
            session=is_session(connection.getURI()),
            networks=tuple(networks.entries(connection)),
            domains=tuple(
                Domain(e.name, e.uuid, tuple(Card(n, *check(n, host)) for n in e.nics))
                for e in entries
            ),
            devices=devices,
        )

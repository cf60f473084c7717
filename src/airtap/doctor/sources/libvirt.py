"""Reads networks and domains of a libvirt daemon that answers in time."""

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
class CheckedNic:
    """A network card of a domain, and what the connectivity check says of it: works, and why."""

    nic: "Nic"
    works: bool | None
    why: str


@dataclass(frozen=True)
class CheckedDomain:
    """A domain and its network cards."""

    name: str
    uuid: str
    nics: tuple[CheckedNic, ...]


@dataclass(frozen=True)
class Libvirt:
    """What a libvirt daemon tells.

    silence: why it was not asked, or did not answer; None if it did.
    devices: names of the network devices of this host.
    """

    uri: str
    silence: Problem | None = None
    session: bool = False
    networks: "tuple[ListedNetwork, ...]" = ()
    domains: tuple[CheckedDomain, ...] = ()
    devices: frozenset[str] = field(default_factory=frozenset)


def read(uri: str, settings: Config, devices: Iterable[str]) -> Libvirt:
    """Ask a libvirt daemon. devices: names of the network devices of this host."""
    try:
        return within(_ANSWER_S, lambda: _read(uri, settings, frozenset(devices)))
    except TimeoutError:
        what = f"libvirt has not answered in {_ANSWER_S:g} s"
        return Libvirt(uri, Problem("no-answer", what))
    except Problem as problem:
        return Libvirt(uri, problem)


def _read(uri: str, settings: Config, devices: frozenset[str]) -> Libvirt:
    from ...libvirt import connectivity, domains, networks

    with connected(uri, read_only=True) as connection:
        expect_local(connection.getURI())
        entries = domains.entries(connection)
        nics = [nic for entry in entries for nic in entry.nics]
        host = connectivity.inspect_host(connection, nics, settings)
        return Libvirt(
            uri,
            session=is_session(connection.getURI()),
            networks=tuple(networks.entries(connection)),
            domains=tuple(
                CheckedDomain(
                    entry.name,
                    entry.uuid,
                    tuple(CheckedNic(nic, *connectivity.check(nic, host)) for nic in entry.nics),
                )
                for entry in entries
            ),
            devices=devices,
        )

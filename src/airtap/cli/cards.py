"""airtap domain renew, replug, move: the network cards of guests while they run."""

import argparse
import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

from .. import config
from ..config import MODES, Config
from ..errors import Problem
from ..ipc import client
from ..names import device_name
from ..uris import expect_local
from .common import add_parent, add_uri, libvirt_mode, say, seconds, tell, uri
from .nic import add_card, chosen_card

# lxml, libvirt and netlink are imported where they are needed: airtap status needs none of them.
if TYPE_CHECKING:
    from ..libvirt.domain_xml import Wanted
    from ..libvirt.domains import Nic
    from ..libvirt.hotplug import Replacement
    from ..libvirt.live_nics import Card

_TIMEOUT_S = 10.0
# How long to wait for another airtap that replaces cards.
_BUSY_S = 60.0

_RELEASING = """\
To take a card out, a guest's operating system has to release it: a guest that is still booting, or
has none, does not, until it is reset. What is to come in its place is noted in the live metadata of
the domain meanwhile, and airtap domain replug completes it.
"""


def add_parsers(actions: Any) -> None:
    """Add the commands to those of airtap domain."""
    _add_renew(actions)
    _add_replug(actions)
    _add_move(actions)


def _add_renew(actions: Any) -> None:
    parser = actions.add_parser(
        "renew",
        help="have running guests ask for new leases",
        description="Take the links of running guests' network cards down for a second, and up"
        " again: their operating systems then ask for new leases, as after a cable was plugged into"
        " another socket. Cards whose link is set down stay down.",
    )
    parser.add_argument("domain", metavar="DOMAIN", nargs="?", help="its name or UUID only")
    _add_only_parent(parser)
    add_uri(parser)
    parser.set_defaults(run=_renew)


def _add_replug(actions: Any) -> None:
    parser = actions.add_parser(
        "replug",
        help="give running guests their cards back whose uplink went and came back",
        description="Unplug the network cards of running guests whose device has vanished with its"
        " uplink, and plug them in again where the uplink is there: with the same MAC and PCI"
        " address.",
        epilog=_RELEASING,
    )
    _add_only_parent(parser)
    _add_timeout(parser)
    add_uri(parser)
    parser.set_defaults(run=_replug)


def _add_move(actions: Any) -> None:
    parser = actions.add_parser(
        "move",
        help="bring a running guest to another uplink",
        description="Unplug a network card of a running guest, and plug it in again on another"
        " uplink, with the same MAC and PCI address. If airtap connected the card to an uplink, its"
        " next start uses the new one; otherwise that stays as it is defined.",
        epilog=_RELEASING,
    )
    add_card(parser)
    add_parent(parser, required=True)
    parser.add_argument(
        "--config", action="store_true", help="its next start too, as by airtap domain connect"
    )
    _add_timeout(parser)
    add_uri(parser)
    parser.set_defaults(run=_move)


def _add_only_parent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parent", metavar="DEV", help="only cards on this uplink, or alias of it")


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds(0, 3600),
        default=_TIMEOUT_S,
        help=f"how long a guest may take to release a card; default: {_TIMEOUT_S:g}",
    )


def _renew(arguments: argparse.Namespace) -> None:
    from ..libvirt import live_nics

    parent = _device(arguments.parent, config.load(None))
    with _here(arguments) as connection, _ending() as ended:
        found = live_nics.renewable(connection, parent)
        if arguments.domain is not None:
            uuid = live_nics.find(connection, arguments.domain).UUIDString()
            found = [card for card in found if card.uuid == uuid]
        if not found:
            say(f"no running guest has a network card on {parent or 'a macvtap or ipvtap'}")
        failed = live_nics.renew(found, ended)
    _report(zip(found, failed, strict=True), "link down and up, so that it asks for a new lease")


def _replug(arguments: argparse.Namespace) -> None:
    from ..libvirt import hotplug

    settings = config.load(None)
    parent = _device(arguments.parent, settings)
    with _here(arguments) as connection, _ending() as ended, _alone(ended):
        found = hotplug.lost(connection, parent, settings, ended)
        if not found:
            say("no running guest has lost a network card" + (f" on {parent}" if parent else ""))
        failed = _replacement(arguments, settings, ended).carry_out(found)
    _report(zip([plan.card for plan in found], failed, strict=True), "plugged in again")


def _move(arguments: argparse.Namespace) -> None:
    from ..libvirt import domains, hotplug, hotplug_journal, live_nics
    from ..libvirt.reader import scan_domain

    settings = config.load(None)
    with _here(arguments) as connection, _ending() as ended, _alone(ended):
        guest = live_nics.find(connection, arguments.domain)
        xml = live_nics.live_xml(guest).encode()
        domain = scan_domain(xml)
        number = domain.interfaces.index(chosen_card(domain, guest.name(), arguments.nic))
        card = live_nics.of_xml(guest, xml, domain)[number]
        parent = _device(arguments.parent, settings) or ""
        here = live_nics.devices()
        if live_nics.stands_on(card, parent, here):
            say(f"{card} is on {parent} already")
        else:
            nic = domains.nics(domain)[number]
            hotplug.expect_fit(card, nic, parent, connection, settings)
            plan = hotplug_journal.moved(card, parent, here)
            [problem] = _replacement(arguments, settings, ended).carry_out([plan])
            if problem:
                raise problem
            say(f"{card} is on {card.kind} {parent} now")
        say(_next_start(connection, card, arguments, settings))


def _next_start(
    connection: Any, card: "Card", arguments: argparse.Namespace, settings: Config
) -> str:
    """Bring a card's definition to the new uplink too, if that is wanted. Returns what it says."""
    from ..libvirt import domains
    from ..libvirt.domain_xml import connect
    from ..libvirt.reader import scan_domain

    if not card.guest.isPersistent():
        return "it is transient: there is no definition that its next start would follow"
    defined = scan_domain(domains.definition(card.guest, secrets=False).encode())
    pairs = zip(defined.interfaces, domains.nics(defined), strict=True)
    there = next((pair for pair in pairs if pair[0].mac == card.mac), None)
    if there is None:
        return "its definition has no such card, so it is for this run only"
    interface, nic = there
    if _follows(nic, settings) or arguments.config:
        wanted = _wanted(nic, arguments.parent, settings)
        xml = connect(domains.definition(card.guest, secrets=True), interface, wanted)
        domains.redefine(connection, xml, card.name)
        return f"its next start uses {wanted.kind} {wanted.name} too"
    return (
        f"its next start uses {nic.kind} {nic.name} again; to change that:"
        f" airtap domain connect {card.name} --nic {card.mac} --parent {arguments.parent}"
    )


def _follows(nic: "Nic", settings: Config) -> bool:
    """Whether a definition follows its card to another uplink: airtap put it on one."""
    return nic.connected and nic.kind in MODES and not settings.is_choice(nic.name)


def _wanted(nic: "Nic", parent: str, settings: Config) -> "Wanted":
    """What a definition is to be connected to for parent, of the kind and mode that it has."""
    from ..libvirt import parents
    from ..libvirt.domain_xml import Wanted

    kind = nic.kind if nic.kind in MODES else "macvtap"
    if settings.is_choice(parent):
        return Wanted(kind, parent, alias=True)
    device = asyncio.run(parents.choose(parent, settings))
    return Wanted(kind, device, nic.mode or libvirt_mode(settings.parent(device).mode))


# What they have in common.


def _device(name: str | None, settings: Config) -> str | None:
    """The device that --parent names, which may be an alias. Raises Problem."""
    from ..libvirt import parents

    return asyncio.run(parents.choose(device_name(name), settings)) if name is not None else None


@contextmanager
def _here(arguments: argparse.Namespace) -> Iterator[Any]:
    """A connection to a libvirt of this host. Raises Problem remote-host, no-connection."""
    from ..libvirt.connection import connected

    with connected(uri(arguments)) as connection:
        expect_local(connection.getURI())
        yield connection


@contextmanager
def _ending() -> Iterator[Event]:
    """An event that SIGTERM, SIGHUP and Ctrl-C set meanwhile, instead of ending us halfway."""
    ended = Event()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, lambda *_: ended.set()) for number in numbers]
    try:
        yield ended
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _alone(ended: Event) -> Iterator[None]:
    """Be root's only airtap that replaces cards: airtapd runs it too. Raises Problem busy.

    Two at once would each have the device of the same card made anew, which takes it from the
    other. Other users cannot have one made, and libvirt refuses them the second card.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        lock = os.open(client.socket_path() + ".replug", flags, 0o600)
    except OSError:  # not root, or no airtapd has been here yet
        yield
        return
    try:
        _await_lock(lock, ended)
        yield
    finally:
        os.close(lock)


def _await_lock(lock: int, ended: Event) -> None:
    deadline = time.monotonic() + _BUSY_S
    waiting = f"waiting up to {_BUSY_S:g} s for another airtap that replaces network cards"
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as exc:
            if waiting:
                tell(waiting)
                waiting = ""
            if time.monotonic() >= deadline or ended.wait(0.2):
                what = "another airtap is replacing network cards"
                raise Problem("busy", what, "try again when it has ended") from exc


def _replacement(arguments: argparse.Namespace, settings: Config, ended: Event) -> "Replacement":
    from ..libvirt.hotplug import Replacement

    return Replacement(settings, arguments.timeout, ended, tell)


def _report(done: "Iterable[tuple[Card, Problem | None]]", what: str) -> None:
    """Say of each card what was done to it, or why not. Raises the last Problem, at the end.

    A guest that has ended meanwhile is no failure.
    """
    from ..libvirt.live_nics import Ended

    last = None
    for card, problem in done:
        if problem is None:
            say(f"{card}: {what}")
        elif not isinstance(problem, Ended):
            if last:
                tell(str(last))
            last = problem
    if last:
        raise last

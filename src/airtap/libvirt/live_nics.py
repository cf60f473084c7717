"""Network cards of running guests, and their links taken down and up.

Which device a card has stands in its guest's live XML; whether that device is there, and on what
it stands, says the kernel.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, TypeVar

from .. import uplink
from ..config import MODES
from ..errors import Problem
from ..kernel.links import Link, open_links
from .connection import binding, problems
from .domains import look_up
from .reader import Domain, Interface, Mark, scan_domain
from .xml import parse, serialize

log = logging.getLogger(__name__)

# libvirt waits for a guest's QEMU as long as that lives, and we no longer than this.
ANSWER_S = 30.0
# How long links stay down: a guest that is slow to answer an interrupt, or that looks every so
# often only, has to find them down.
_DOWN_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True)
class Card:
    """A network card of a running guest.

    guest: its virDomain. id: of this run of it. alias: libvirt's name for the card. device: the
    host's end, or "". kind: macvtap or ipvtap, as what that is to be made anew; "" if we cannot.
    parent: a device, or the alias of several in a mark. prepared: airtapd makes the device. down:
    somebody wants its link down. xml: its <interface>.
    """

    guest: Any
    name: str
    uuid: str
    id: int
    mac: str
    alias: str
    device: str
    kind: str
    parent: str
    prepared: bool
    down: bool
    xml: str

    def __str__(self) -> str:
        return f"domain {self.name}: network card {self.mac}"


class Ended(Problem):
    """The guest has ended meanwhile, and with it what was to be done."""


# Who is there?


def running(connection: Any) -> list[Card]:
    """The cards of all guests that run or are paused. Raises Problem libvirt-error."""
    return [card for guest in guests(connection) for card in of_xml(*guest)]


def find(connection: Any, name: str) -> Any:
    """The domain of that name or UUID, which runs. Raises Problem no-domain, not-running."""
    handle = look_up(connection, name)
    with problems(f"look for domain {name}"):
        if not handle.isActive():
            raise Problem(
                "not-running",
                f"domain {name} does not run",
                f"airtap domain connect {name} changes what its next start uses",
            )
    return handle


def live_xml(guest: Any) -> str:
    """A running guest's XML. Raises Problem libvirt-error."""
    with problems(f"read domain {guest.name()}"):
        xml: str = guest.XMLDesc(0)
    return xml


def of_guest(guest: Any) -> list[Card]:
    """The cards of one guest. Raises Problem libvirt-error, bad-xml."""
    xml = live_xml(guest).encode()
    return of_xml(guest, xml, scan_domain(xml))


def guests(connection: Any) -> Iterator[tuple[Any, bytes, Domain]]:
    """Guests that run or are paused, each with its live XML. Raises Problem libvirt-error."""
    libvirt = binding()
    states = libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING | libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED
    with problems("list domains"):
        handles = connection.listAllDomains(states)
    for guest in handles:
        with suppress(Ended), unless_ended(guest):
            xml = live_xml(guest).encode()
            try:
                domain = scan_domain(xml)
            except Problem as problem:  # no reason to do nothing for the others
                log.warning("airtap: domain %s is left alone: %s", guest.name(), problem)
                continue
            yield guest, xml, domain


def of_xml(guest: Any, xml: bytes, domain: Domain) -> list[Card]:
    """The cards in a guest's live XML, in its order."""
    return [
        from_interface(guest, domain, nic, domain.mark_of(nic), xml[nic.start : nic.end].decode())
        for nic in domain.interfaces
    ]


def from_interface(guest: Any, domain: Domain, nic: Interface, mark: Mark | None, xml: str) -> Card:
    """The card that an <interface> is. mark: ours of its device, if any. xml: its text."""
    prepared = nic.type == "ethernet" and not nic.managed and mark is not None
    kind, parent = "", ""
    if prepared and mark:
        kind, parent = mark.kind, mark.parent
    elif nic.type == "direct":
        kind, parent = "macvtap", nic.source.get("dev", "")
    return Card(
        guest=guest,
        name=domain.name,
        uuid=domain.uuid,
        id=guest.ID(),
        mac=nic.mac,
        alias=nic.element.first("alias").get("name"),
        device=nic.target,
        kind=kind,
        parent=parent,
        prepared=prepared,
        down=nic.element.first("link").get("state") == "down",
        xml=xml,
    )


def devices() -> dict[str, Link]:
    """The host's devices, by all their names."""
    return asyncio.run(_devices())


async def _devices() -> dict[str, Link]:
    async with open_links() as links:
        here = await links.dump()
    return {name: link for link in here for name in (link.name, *link.altnames)}


def stands_on(card: Card, parent: str, here: Mapping[str, Link]) -> bool:
    """Whether a card's device is a macvtap or ipvtap on parent."""
    device, below = here.get(card.device), here.get(parent)
    if device is None or below is None or device.kind not in MODES or not device.parent_here:
        return False
    return device.parent == below.index


# Links down and up.


def renewable(connection: Any, parent: str | None) -> list[Card]:
    """Cards on a macvtap or ipvtap, on parent only if it is named, whose links are up.

    Whatever libvirt calls their type: a session's are bridges to it. Raises Problem
    libvirt-error, bad-xml, no-such-device.
    """
    here = devices()
    expect_there(parent, here)
    cards = [card for card in running(connection) if not card.down]
    if parent is not None:
        return [card for card in cards if stands_on(card, parent, here)]
    return [card for card in cards if (link := here.get(card.device)) and link.kind in MODES]


def renew(cards: list[Card], ended: Event) -> list[Problem | None]:
    """Take the links of cards down and up again: their guests then ask for new leases.

    All at the same time; a guest that hangs delays no other. ended: when it is set, links come
    up at once. Returns what failed, for each card.
    """
    done: list[Problem | None] = [unanswered(card) for card in cards]

    def flap(card: Card) -> None:
        try:
            _update(card, linked_down(card.xml))
            ended.wait(_DOWN_S)
        finally:
            _update(card, card.xml)

    def one(number: int) -> None:
        done[number] = attempt(flap, cards[number], ended)

    at_once(one, range(len(cards)), _DOWN_S + ANSWER_S, ended)
    return list(done)


def linked_down(xml: str) -> str:
    """An <interface> with its link down."""
    root = parse(xml.encode())
    for link in root.findall("link"):
        root.remove(link)
    root.append(root.makeelement("link", state="down"))
    return serialize(root)


def _update(card: Card, xml: str) -> None:
    """Give a card the link state that it has in XML which is otherwise its own."""
    try:
        with unless_ended(card.guest), problems(f"set the link of {card}"):
            card.guest.updateDeviceFlags(xml, binding().VIR_DOMAIN_AFFECT_LIVE)
    except Problem as problem:
        if isinstance(problem, Ended):
            raise
        hint = f"if it is down now: virsh domif-setlink {card.name} {card.mac} up"
        raise Problem(problem.code, problem.message, hint) from problem


# What is done to cards can fail, for one and not for others.


def at_once(
    act: Callable[[T], None], items: Iterable[T], seconds: float, ended: Event | None = None
) -> None:
    """Do something with each item, in a thread of its own. Those not done in time are left alone.

    ended: is set when time is up; what then still runs has as long again to come to its end. The
    threads are daemons: they end with us, also where libvirt never answers them.
    """
    threads = [Thread(target=act, args=[item], daemon=True) for item in items]
    for thread in threads:
        thread.start()
    _join(threads, seconds)
    if ended and any(thread.is_alive() for thread in threads):
        ended.set()
        _join(threads, seconds)


def _join(threads: list[Thread], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def unanswered(card: Card) -> Problem:
    """The Problem of a card that at_once() has left alone."""
    return Problem("no-answer", f"{card}: libvirt does not answer; does the guest hang?")


def attempt(act: Callable[[Any], None], what: Any, ended: Event) -> Problem | None:
    """Do something unless ended is set. Returns the Problem that it raised."""
    if ended.is_set():
        return Problem("interrupted", "ended before all was done")
    try:
        act(what)
    except Problem as problem:
        return problem
    except Exception as exc:  # in a thread it would pass for a libvirt that does not answer
        log.exception("airtap: this should not be")
        return Problem("internal", f"airtap failed: {exc}")
    return None


@contextmanager
def unless_ended(guest: Any) -> Iterator[None]:
    """Raise a Problem as Ended if its reason is that the guest has."""
    try:
        yield
    except Problem as problem:
        libvirt = binding()
        try:
            ended = not guest.isActive()
        except libvirt.libvirtError as exc:  # none of that name is left, or libvirt itself has gone
            ended = exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
        if not ended:
            raise
        raise Ended("guest-ended", f"domain {guest.name()} has ended meanwhile") from problem


def expect_there(parent: str | None, here: Mapping[str, Link]) -> None:
    """Raise Problem no-such-device if parent is not None and not here."""
    if parent is not None and parent not in here:
        raise uplink.absent(parent)

"""Cards of running guests whose device has gone with its parent, or is to stand on another."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from threading import Event, Timer
from typing import Any

from .. import uplink
from ..config import Config
from ..errors import Problem
from ..ipc import client
from ..kernel.links import Link, LinkNotFound, open_links
from . import hotplug_journal
from .connection import binding, problems
from .connectivity import look_around, verdict
from .domains import Nic
from .hotplug_journal import Plan, plugged
from .live_nics import (
    ANSWER_S,
    Card,
    Ended,
    at_once,
    attempt,
    devices,
    expect_there,
    guests,
    of_guest,
    of_xml,
    unanswered,
    unless_ended,
)
from .parents import choose, expect_parent, inspect, takes_one_mac
from .reader import Domain

# A guest that starts or ends has devices in its XML that are not there, for less than this.
_SETTLED_S = 1.0
# Between two looks whether a guest has released a card.
_LOOK_S = 0.2
# What takes longer than this is announced.
_PATIENCE_S = 1.0
_NOT_RELEASED = "not-released"
# Problems of a request by which airtapd did not decide anything.
_UNDECIDED = ("no-daemon", "busy", "bad-message", "internal", "access-denied")


def lost(connection: Any, parent: str | None, settings: Config, ended: Event) -> list[Plan]:
    """Cards whose device is gone while its parent is there, and those noted as under way.

    parent: only cards for this device. Looked at twice, about a second apart: guests that start
    or end have such cards too. Raises Problem libvirt-error, bad-xml, no-such-device.
    """
    found = _lost(connection, parent, settings)
    if not found:
        return []
    ended.wait(_SETTLED_S)
    seen = {_key(plan) for plan in found}
    return [plan for plan in _lost(connection, parent, settings) if _key(plan) in seen]


def _key(plan: Plan) -> tuple[str, int, str, str]:
    return plan.card.uuid, plan.card.id, plan.card.mac, plan.old.device if plan.old else ""


def _lost(connection: Any, parent: str | None, settings: Config) -> list[Plan]:
    here = devices()
    expect_there(parent, here)
    found: list[Plan] = []
    for guest, xml, domain in guests(connection):
        cards = of_xml(guest, xml, domain)
        noted = list(_unfinished(guest, domain, cards, here))
        known = {plan.card.mac for plan in noted}
        found += noted
        found += [
            Plan(card, card.parent, plugged(card), card)
            for card in cards
            if card.kind and card.device and card.device not in here and card.mac not in known
        ]
    names = {plan.parent for plan in found}
    links = {name: here.get(asyncio.run(choose(name, settings))) for name in names}
    wanted = [link for link in here.values() if parent is None or link == here[parent]]
    return [plan for plan in found if links[plan.parent] in wanted]


def _unfinished(
    guest: Any, domain: Domain, cards: list[Card], here: Mapping[str, Link]
) -> Iterator[Plan]:
    """What notes in a guest's metadata say is to be plugged in. Those that are done go.

    Left alone is what its guest has not released yet and can still use.
    """
    for note in hotplug_journal.read(guest, domain):
        old = next((card for card in cards if card.mac == note.card.mac), None)
        device = here.get(old.device) if old else None
        if device is None:
            yield replace(note, old=old)
        elif device.index != note.was:
            with suppress(Ended), unless_ended(guest):
                hotplug_journal.write(guest, note.card.mac, None)


def expect_fit(card: Card, nic: Nic, parent: str, connection: Any, settings: Config) -> None:
    """Raise Problem if a card cannot come to stand on the device called parent.

    nic: the same card. Problems: not-supported, no-such-device, bad-parent, parent-busy, bad-mode.
    """
    if not card.kind:
        raise Problem(
            "not-supported",
            f"network card {card.mac} of domain {card.name} is of type {nic.kind}, not on a"
            " macvtap or ipvtap",
            f"airtap domain connect {card.name} changes what its next start uses",
        )
    expect_parent(asyncio.run(_inspect(parent, card.kind, settings)), card.kind)
    there = replace(nic, kind=card.kind, name=parent)
    works, why = verdict(there, look_around(connection, [there], settings))
    if works is False:
        raise Problem("bad-parent", f"network card {card.mac} would not work on {parent}: {why}")


async def _inspect(name: str, kind: str, settings: Config) -> uplink.Uplink:
    """A device as the parent of another child of a kind. Raises Problem as child_kind() does."""
    async with open_links() as links:
        try:
            link = await links.by_name(name)
        except LinkNotFound as exc:
            raise uplink.absent(name) from exc
        inspected = uplink.inspect(link)
        child = await uplink.a_child(links, link)
    uplink.child_kind(inspected, replace(settings.parent(link.name), kind=kind), child)
    return inspected


# Replacing them.


class Replacement:
    """Replaces cards.

    timeout: how many seconds a guest has to release one. ended: when it is set, nothing is waited
    for any more. say: tells people what is being waited for.
    """

    def __init__(
        self, settings: Config, timeout: float, ended: Event, say: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._timeout = timeout
        self._ended = ended
        self._say = say

    def carry_out(self, wanted: list[Plan]) -> list[Problem | None]:
        """Replace cards, one after the other in each guest. Returns what failed, for each."""
        done: list[Problem | None] = [unanswered(plan.card) for plan in wanted]
        by_guest: dict[str, list[int]] = {}
        for number, plan in enumerate(wanted):
            by_guest.setdefault(plan.card.uuid, []).append(number)

        def in_guest(numbers: list[int]) -> None:
            for number in numbers:
                done[number] = attempt(self._replace, wanted[number], self._ended)

        most = max(map(len, by_guest.values()), default=0)
        at_once(in_guest, by_guest.values(), most * (self._timeout + ANSWER_S))
        return list(done)

    def _replace(self, plan: Plan) -> None:
        """Unplug the old card, if it is there, and plug the new one in.

        Raises Problem not-released: the guest has the old one for now; else whatever hinders the
        new one, after the way back has been tried; Ended.
        """
        card = plan.card
        with unless_ended(card.guest):
            self._make_ready(plan)
            pending = hotplug_journal.write(card.guest, card.mac, plan)
            if plan.old:
                self._unplug_or_forget(plan, plan.old, pending)
            try:
                self._plug(plan)
            except Problem as problem:
                if plan.back:
                    raise self._undone(plan.back, problem) from problem
                again = "airtap domain replug tries that again"
                raise Problem(problem.code, problem.message, again) from problem

    def _unplug_or_forget(self, plan: Plan, old: Card, pending: bool) -> None:
        """Unplug the old card. Of what cannot be, no note stays. Raises Problem."""
        try:
            self._unplug(old, pending)
        except Problem as problem:
            if problem.code != _NOT_RELEASED:
                hotplug_journal.write(plan.card.guest, plan.card.mac, None)
            raise

    def _undone(self, back: Plan, why: Problem) -> Problem:
        """Plug the former card in again. Returns what there is to tell of it all."""
        card = back.card
        try:
            hotplug_journal.write(card.guest, card.mac, back)
            self._plug(back)
        except Problem as problem:
            return Problem(
                why.code,
                f"{why.message}; nor can {card} be brought back: {problem.message}",
                "airtap domain replug tries that again",
            )
        return Problem(why.code, f"{why.message}; it is back on {back.parent}", why.hint)

    def _make_ready(self, plan: Plan) -> None:
        """See to it that the parent takes the card. Raises Problem."""
        if plan.card.prepared:
            if os.geteuid() != 0:
                raise Problem("access-denied", f"airtapd makes the device of {plan.card} for root")
            client.Connection(client.socket_path()).close()
            return
        try:
            client.call("prepare-uplink", parent=plan.parent)
        except Problem as problem:
            if problem.code not in _UNDECIDED or self._takes_one_mac(plan.parent):
                raise

    def _takes_one_mac(self, parent: str) -> bool:
        return takes_one_mac(asyncio.run(inspect(parent)), self._settings)

    def _unplug(self, old: Card, pending: bool) -> None:
        """Detach a card and wait until its guest has released it. Raises Problem not-released.

        pending: its guest has been asked before, and QEMU may refuse to ask again.
        """
        libvirt = binding()
        what = f"waiting up to {self._timeout:g} s for the guest to release it"
        announcement = Timer(_PATIENCE_S, self._say, [f"{old}: {what}"])
        announcement.start()
        try:
            with problems(f"unplug {old}"):
                try:
                    old.guest.detachDeviceAlias(old.alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
                except libvirt.libvirtError:
                    if not pending and _is_in(old):
                        raise
            deadline = time.monotonic() + self._timeout
            while _is_in(old):
                if time.monotonic() >= deadline or self._ended.wait(_LOOK_S):
                    raise _not_released(old)
        finally:
            announcement.cancel()

    def _plug(self, plan: Plan) -> None:
        """Attach a card, and tell airtapd whose its device is. Raises Problem.

        One that somebody else has attached meanwhile is left alone.
        """
        card = plan.card
        place = hotplug_journal.place(plan.xml)
        if place and any(
            hotplug_journal.place(other.xml) == place for other in of_guest(card.guest)
        ):
            hotplug_journal.write(card.guest, card.mac, None)
            return
        whose = {"mac": card.mac, "uuid": card.uuid, "domain": card.name}
        if card.prepared:
            made = {"device": card.device, "parent": plan.parent, "kind": card.kind}
            client.call("create-device", **whose, **made)
        try:
            with problems(f"plug in {card}"):
                card.guest.attachDeviceFlags(plan.xml, binding().VIR_DOMAIN_AFFECT_LIVE)
        except Problem:
            if card.prepared:
                with suppress(Problem):
                    client.call("release", device=card.device, uuid=card.uuid)
            raise
        with suppress(Problem):  # it is in: the next replug takes a note that stayed away
            hotplug_journal.write(card.guest, card.mac, None)
            if card.prepared:
                hotplug_journal.mark(card, plan.parent, self._settings)
        for new in of_guest(card.guest):
            if new.mac == card.mac:
                with suppress(Problem):  # status lacks the guest's name, no more
                    client.call("set-owner", device=new.device, **whose)


def _not_released(old: Card) -> Problem:
    return Problem(
        _NOT_RELEASED,
        f"domain {old.name} has not released its network card {old.mac} yet: it has been asked"
        " to, and will at its next reset",
        "then airtap domain replug plugs the new one in",
    )


def _is_in(card: Card) -> bool:
    """Whether a card of that name and device is still in its guest."""
    there = [(other.alias, other.device) for other in of_guest(card.guest)]
    return (card.alias, card.device) in there

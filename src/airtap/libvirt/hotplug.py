"""NICs of running guests whose device has gone with its parent, or is to stand on another."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event, Timer
from typing import Any

from .. import uplink
from ..config import Config
from ..errors import Problem
from ..ipc import client
from ..kernel.links import Link
from . import connectivity, hotplug_journal, live_nics
from .connection import binding, problems
from .hotplug_journal import JournalEntry
from .nic import LiveNic
from .reader import Domain

# A guest that starts or ends has devices in its XML that are not there, for less than this.
_SETTLED_S = 1.0
# Between two looks whether a guest has released a NIC.
_LOOK_S = 0.2
# What takes longer than this is announced.
_PATIENCE_S = 1.0
_NOT_RELEASED = "not-released"
# Problems of a request by which airtapd did not decide anything.
_UNDECIDED = ("no-daemon", "busy", "bad-message", "internal", "access-denied")


def lost(connection: Any, parent: str | None, settings: Config, ended: Event) -> list[JournalEntry]:
    """Return NICs whose device is gone while its parent is there, and those noted as under way.

    parent: only NICs for this device. Looked at twice, about a second apart: guests that start
    or end have such NICs too. Raises Problem libvirt-error, bad-xml, no-such-device.
    """
    found = _lost(connection, parent, settings)
    if not found:
        return []
    ended.wait(_SETTLED_S)
    seen = {_key(entry) for entry in found}
    return [entry for entry in _lost(connection, parent, settings) if _key(entry) in seen]


def _key(entry: JournalEntry) -> tuple[str, int, str, str]:
    return entry.nic.uuid, entry.nic.run, entry.nic.mac, entry.old.target if entry.old else ""


def _lost(connection: Any, parent: str | None, settings: Config) -> list[JournalEntry]:
    here = connectivity.devices()
    live_nics.expect_there(parent, here)
    found: list[JournalEntry] = []
    for guest, xml, domain in live_nics.guests(connection):
        nics = live_nics.of_xml(guest, xml, domain)
        noted = list(_unfinished(guest, domain, nics, here))
        known = {entry.nic.mac for entry in noted}
        found += noted
        found += [
            JournalEntry(nic, nic.name, hotplug_journal.new_interface(nic), nic)
            for nic in nics
            if nic.replaceable and nic.target and nic.target not in here and nic.mac not in known
        ]
    names = {entry.parent for entry in found}
    links = {name: here.get(connectivity.choose(name, settings)) for name in names}
    wanted = [link for link in here.values() if parent is None or link == here[parent]]
    return [entry for entry in found if links[entry.parent] in wanted]


def _unfinished(
    guest: Any, domain: Domain, nics: list[LiveNic], here: Mapping[str, Link]
) -> Iterator[JournalEntry]:
    """Yield what notes in a guest's metadata say is to be plugged in. Those that are done go.

    Left alone is what its guest has not released yet and can still use.
    """
    for note in hotplug_journal.read(guest, domain):
        old = next((nic for nic in nics if nic.mac == note.nic.mac), None)
        device = here.get(old.target) if old else None
        if device is None:
            yield replace(note, old=old)
        elif device.index != note.was:
            with suppress(live_nics.Ended), live_nics.unless_ended(guest):
                hotplug_journal.write(guest, note.nic.mac, None)


def expect_fit(nic: LiveNic, parent: str, connection: Any, settings: Config) -> None:
    """Raise Problem if a NIC cannot come to stand on the device called parent.

    Problems: not-supported, no-such-device, bad-parent, parent-busy, bad-mode. Blocks.
    """
    if not nic.replaceable:
        raise Problem(
            "not-supported",
            f"network card {nic.mac} of domain {nic.domain} is of type {nic.kind}, not on a"
            " macvtap or ipvtap",
            f"airtap domain connect {nic.domain} changes what its next start uses",
        )
    device = connectivity.inspect(parent)
    child = connectivity.ask_kernel(lambda links: uplink.a_child(links, device.link))
    wished = replace(settings.parent(device.link.name), kind=nic.kind)
    uplink.child_kind(device, wished, child)
    connectivity.expect_parent(device, nic.kind)
    there = replace(nic, name=parent)
    works, why = connectivity.check(there, connectivity.inspect_host(connection, [there], settings))
    if works is False:
        raise Problem("bad-parent", f"network card {nic.mac} would not work on {parent}: {why}")


# Replacing them.


@dataclass(frozen=True)
class Replacement:
    """Replaces NICs, and waits for guests to release them, so it blocks.

    timeout: seconds that a guest has to release a NIC.
    ended: when it is set, nothing is waited for any more.
    warn: tells people what is being waited for.
    """

    settings: Config
    timeout: float
    ended: Event
    warn: Callable[[str], None]

    def carry_out(self, wanted: list[JournalEntry]) -> list[Problem | None]:
        """Replace NICs, one after the other in each guest. Returns what failed, for each."""
        done: list[Problem | None] = [live_nics.unanswered(entry.nic) for entry in wanted]
        by_guest: dict[str, list[int]] = {}
        for number, entry in enumerate(wanted):
            by_guest.setdefault(entry.nic.uuid, []).append(number)

        def in_guest(numbers: list[int]) -> None:
            for number in numbers:
                done[number] = live_nics.attempt(self._replace, wanted[number], self.ended)

        most = max(map(len, by_guest.values()), default=0)
        live_nics.at_once(in_guest, by_guest.values(), most * (self.timeout + live_nics.ANSWER_S))
        return list(done)

    def _replace(self, entry: JournalEntry) -> None:
        """Unplug the old NIC, if it is there, and plug the new one in.

        Raises Problem not-released: the guest has the old one for now; else whatever hinders the
        new one, after the way back has been tried; Ended.
        """
        nic = entry.nic
        with live_nics.unless_ended(nic.guest):
            self._make_ready(entry)
            pending = hotplug_journal.write(nic.guest, nic.mac, entry)
            if entry.old:
                self._unplug_or_forget(entry, entry.old, pending)
            try:
                self._plug(entry)
            except Problem as problem:
                if entry.back:
                    raise self._undone(entry.back, problem) from problem
                again = "airtap domain replug tries that again"
                raise Problem(problem.code, problem.message, again) from problem

    def _unplug_or_forget(self, entry: JournalEntry, old: LiveNic, pending: bool) -> None:
        """Unplug the old NIC. Of what cannot be, no note stays. Raises Problem."""
        try:
            self._unplug(old, pending)
        except Problem as problem:
            if problem.code != _NOT_RELEASED:
                hotplug_journal.write(entry.nic.guest, entry.nic.mac, None)
            raise

    def _undone(self, back: JournalEntry, why: Problem) -> Problem:
        """Plug the former NIC in again. Returns what there is to tell of it all."""
        nic = back.nic
        try:
            hotplug_journal.write(nic.guest, nic.mac, back)
            self._plug(back)
        except Problem as problem:
            what = f"{why.message}; nor can {nic} be brought back: {problem.message}"
            return Problem(why.code, what, "airtap domain replug tries that again")
        return Problem(why.code, f"{why.message}; it is back on {back.parent}", why.hint)

    def _make_ready(self, entry: JournalEntry) -> None:
        """See to it that the parent takes the NIC. Raises Problem."""
        if entry.nic.prepared:
            if os.geteuid() != 0:
                raise Problem("access-denied", f"airtapd makes the device of {entry.nic} for root")
            client.Connection(client.socket_path()).close()
            return
        try:
            client.call("prepare-uplink", parent=entry.parent)
        except Problem as problem:
            if problem.code not in _UNDECIDED or self._takes_one_mac(entry.parent):
                raise

    def _takes_one_mac(self, parent: str) -> bool:
        return connectivity.takes_one_mac(connectivity.inspect(parent), self.settings)

    def _unplug(self, old: LiveNic, pending: bool) -> None:
        """Detach a NIC and wait until its guest has released it. Raises Problem not-released.

        pending: its guest has been asked before, and QEMU may refuse to ask again.
        """
        libvirt = binding()
        what = f"waiting up to {self.timeout:g} s for the guest to release it"
        announcement = Timer(_PATIENCE_S, self.warn, [f"{old}: {what}"])
        announcement.start()
        try:
            with problems(f"unplug {old}"):
                try:
                    old.guest.detachDeviceAlias(old.alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
                except libvirt.libvirtError:
                    if not pending and _is_in(old):
                        raise
            deadline = time.monotonic() + self.timeout
            while _is_in(old):
                if time.monotonic() >= deadline or self.ended.wait(_LOOK_S):
                    raise _not_released(old)
        finally:
            announcement.cancel()

    def _plug(self, entry: JournalEntry) -> None:
        """Attach a NIC, and tell airtapd whose its device is. Raises Problem.

        One that somebody else has attached meanwhile is left alone.
        """
        nic = entry.nic
        place = hotplug_journal.address(entry.xml)
        others = [hotplug_journal.address(other.xml) for other in live_nics.of_guest(nic.guest)]
        if place and place in others:
            hotplug_journal.write(nic.guest, nic.mac, None)
            return
        whose = {"mac": nic.mac, "uuid": nic.uuid, "domain": nic.domain}
        if nic.prepared:
            made = {"device": nic.target, "parent": entry.parent, "kind": nic.kind}
            client.call("create-device", **whose, **made)
        try:
            with problems(f"plug in {nic}"):
                nic.guest.attachDeviceFlags(entry.xml, binding().VIR_DOMAIN_AFFECT_LIVE)
        except Problem:
            if nic.prepared:
                with suppress(Problem):
                    client.call("release", device=nic.target, uuid=nic.uuid)
            raise
        with suppress(Problem):  # it is in: the next replug takes a note that stayed away
            hotplug_journal.write(nic.guest, nic.mac, None)
            if nic.prepared:
                hotplug_journal.update_metadata(nic, entry.parent, self.settings)
        for new in live_nics.of_guest(nic.guest):
            if new.mac == nic.mac:
                with suppress(Problem):  # status lacks the guest's name, no more
                    client.call("set-owner", device=new.target, **whose)


def _not_released(old: LiveNic) -> Problem:
    return Problem(
        _NOT_RELEASED,
        f"domain {old.domain} has not released its network card {old.mac} yet: it has been asked"
        " to, and will at its next reset",
        "then airtap domain replug plugs the new one in",
    )


def _is_in(nic: LiveNic) -> bool:
    """Return whether a NIC of that name and device is still in its guest."""
    there = [(other.alias, other.target) for other in live_nics.of_guest(nic.guest)]
    return (nic.alias, nic.target) in there

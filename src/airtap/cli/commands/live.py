"""airtap domain renew, replug, move: the NICs of guests while they run."""

import argparse
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from ... import config
from ...config import Config
from ...errors import Problem
from ...ipc import client
from ...libvirt import connectivity, domain_xml, domains, hotplug, hotplug_journal, live_nics
from ...libvirt.connection import connected
from ...libvirt.domain_xml import Attachment
from ...libvirt.nic import LiveNic, Nic, nics
from ...libvirt.reader import scan_domain
from ...names import device_name
from ...uris import expect_local
from ..common import echo, ending, libvirt_mode, uri, warn
from .nic import chosen_interface

# How long to wait for another airtap that replaces NICs.
_BUSY_S = 60.0


def renew(arguments: argparse.Namespace) -> None:
    parent = _device(arguments.parent, config.load(None))
    with _here(arguments) as connection, ending() as ended:
        found = live_nics.renewable(connection, parent)
        if arguments.domain is not None:
            uuid = live_nics.find(connection, arguments.domain).UUIDString()
            found = [nic for nic in found if nic.uuid == uuid]
        if not found:
            echo(f"no running guest has a network card on {parent or 'a macvtap or ipvtap'}")
        failed = live_nics.renew(found, ended)
    _report(zip(found, failed, strict=True), "link down and up, so that it asks for a new lease")


def replug(arguments: argparse.Namespace) -> None:
    settings = config.load(None)
    parent = _device(arguments.parent, settings)
    with _here(arguments) as connection, ending() as ended, _alone(ended):
        found = hotplug.lost(connection, parent, settings, ended)
        if not found:
            echo("no running guest has lost a network card" + (f" on {parent}" if parent else ""))
        replacement = hotplug.Replacement(settings, arguments.timeout, ended, warn)
        failed = replacement.carry_out(found)
    _report(zip([entry.nic for entry in found], failed, strict=True), "plugged in again")


def move(arguments: argparse.Namespace) -> None:
    settings = config.load(None)
    with _here(arguments) as connection, ending() as ended, _alone(ended):
        nic = _chosen(connection, arguments)
        wanted, said = _next_start(nic, arguments, settings)
        if wanted:  # a template that does not do is found before anything is moved
            domain_xml.link(wanted, nic.mac, nic.target)
        parent, here = _device(arguments.parent, settings) or "", connectivity.devices()
        if live_nics.stands_on(nic, parent, here):
            echo(f"{nic} is on {parent} already")
        else:
            hotplug.expect_fit(nic, parent, connection, settings)
            entry = hotplug_journal.entry_to_move(nic, parent, here)
            replacement = hotplug.Replacement(settings, arguments.timeout, ended, warn)
            [problem] = replacement.carry_out([entry])
            if problem:
                raise problem
            echo(f"{nic} is on {nic.kind} {parent} now")
        if wanted:
            _redefine(connection, nic, wanted)
        echo(said)


def _chosen(connection: Any, arguments: argparse.Namespace) -> LiveNic:
    """Return the NIC of a running guest that a command line names. Raises Problem."""
    guest = live_nics.find(connection, arguments.domain)
    xml = live_nics.live_xml(guest).encode()
    domain = scan_domain(xml)
    number = domain.interfaces.index(chosen_interface(domain, guest.name(), arguments.nic))
    return live_nics.of_xml(guest, xml, domain)[number]


def _next_start(
    live: LiveNic, arguments: argparse.Namespace, settings: Config
) -> tuple[Attachment | None, str]:
    """Return what a NIC's definition is to be connected to, if to anything, and what to say."""
    if not live.guest.isPersistent():
        return None, "it is transient: there is no definition that its next start would follow"
    defined = nics(scan_domain(domains.definition(live.guest, secrets=False).encode()))
    nic = next((nic for nic in defined if nic.mac == live.mac), None)
    if nic is None:
        return None, "its definition has no such card, so it is for this run only"
    if _follows(nic, settings) or arguments.config:
        wanted = _wanted(nic, arguments.parent, settings)
        return wanted, f"its next start uses {wanted.kind} {wanted.name} too"
    return None, (
        f"its next start uses {nic.kind} {nic.name} again; to change that:"
        f" airtap domain connect {live.domain} --nic {live.mac} --parent {arguments.parent}"
    )


def _redefine(connection: Any, live: LiveNic, wanted: Attachment) -> None:
    """Connect the definition of a NIC as wanted. Raises Problem."""
    xml = domains.definition(live.guest, secrets=True)
    interfaces = scan_domain(xml.encode(errors="surrogatepass")).interfaces
    interface = next((each for each in interfaces if each.mac == live.mac), None)
    if interface is None:
        raise Problem("no-such-nic", f"the domain has no network card {live.mac} any more")
    domains.redefine(connection, domain_xml.connect(xml, interface, wanted), live.domain)


def _follows(nic: Nic, settings: Config) -> bool:
    """Return whether a definition follows its NIC to another uplink: airtap put it on one."""
    return nic.connected and nic.replaceable and not settings.is_choice(nic.name)


def _wanted(nic: Nic, parent: str, settings: Config) -> Attachment:
    """Return what a definition is to be connected to for parent, in the kind and mode it has."""
    kind = nic.kind if nic.replaceable else "macvtap"
    if settings.is_choice(parent):
        return Attachment(kind, parent, alias=True)
    device = connectivity.choose(parent, settings)
    return Attachment(kind, device, nic.mode or libvirt_mode(settings.parent(device).mode))


# What they have in common.


def _device(name: str | None, settings: Config) -> str | None:
    """Return the device that --parent names, which may be an alias. Raises Problem."""
    return connectivity.choose(device_name(name), settings) if name is not None else None


@contextmanager
def _here(arguments: argparse.Namespace) -> Iterator[Any]:
    """A connection to a libvirt of this host. Raises Problem remote-host, no-connection."""
    with connected(uri(arguments)) as connection:
        expect_local(connection.getURI())
        yield connection


@contextmanager
def _alone(ended: Event) -> Iterator[None]:
    """Be root's only airtap that replaces NICs: airtapd runs it too. Raises Problem busy.

    Two at once would each have the device of the same NIC made anew, which takes it from the
    other. Other users cannot have one made, and libvirt refuses them the second NIC.
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
                warn(waiting)
                waiting = ""
            if time.monotonic() >= deadline or ended.wait(0.2):
                what = "another airtap is replacing network cards"
                raise Problem("busy", what, "try again when it has ended") from exc


def _report(done: Iterable[tuple[LiveNic, Problem | None]], what: str) -> None:
    """Say of each NIC what was done to it, or why not. Raises the last Problem, at the end.

    A guest that has ended meanwhile is no failure.
    """
    last = None
    for nic, problem in done:
        if problem is None:
            echo(f"{nic}: {what}")
        elif not isinstance(problem, live_nics.Ended):
            if last:
                warn(str(last))
            last = problem
    if last:
        raise last

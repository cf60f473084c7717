"""airtap renew: a user's guests ask for new leases, of the session's libvirt and of QEMU alone."""

import argparse
import glob
import os
import pwd
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from itertools import takewhile
from threading import Event
from typing import Any

from ... import config
from ...errors import Problem
from ...ipc import client
from ...kernel.credentials import become
from ...qemu.monitor import Monitor
from ...uris import SESSION, session_listens
from ..common import echo, ending, warn
from .status import fetch

# How long links stay down: a guest has to notice.
_DOWN_S = 1.0
_MOST_SOCKETS = 256
_DONE = "link down and up, so that it asks for a new lease"
_BY_HAND = "in QEMU's monitor type: set_link NAME off, and set_link NAME on (airtap.toml(5): [qmp])"


def run(arguments: argparse.Namespace) -> None:
    patterns = config.load(None).qmp_sockets
    if arguments.user is not None:
        uid = _uid(arguments.user)
        if session_listens(uid):
            with suppress(Problem):
                _libvirt()
        become(uid)
    guests = _own_guests(arguments.parent)
    if not guests:
        return echo(f"user {os.getuid()} has no guest on {arguments.parent or 'any uplink'}")
    failed: list[Problem] = []
    with ending() as ended:
        told = _in_session(guests, ended, failed)
        rest = {mac: device for device, mac in guests.items() if device not in told}
        told |= _by_monitors(patterns, rest, ended, failed)
    for device in guests.keys() - told:
        warn(f"nobody here can tell the guest of {device}; {_BY_HAND}")
    for problem in failed[:-1]:
        warn(str(problem))
    if failed:
        raise failed[-1]


def _libvirt() -> tuple[Any, Any]:
    """Import what speaks with libvirt; for another user, before that user's rights are taken on.

    Where guests are QEMU's alone it need not be there. Raises Problem no-lxml, no-libvirt.
    """
    connection, live_nics = (
        import_module(f"...libvirt.{name}", __package__) for name in ("connection", "live_nics")
    )
    connection.binding()
    return connection, live_nics


def _uid(user: str) -> int:
    """Return the number of a user who is named, or numbered. Raises Problem no-user."""
    if user.isascii() and user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise Problem("no-user", f"there is no user {user}") from None


def _own_guests(parent: str | None) -> dict[str, str]:
    """Return our guests on an uplink, or on all: device to MAC, "" for one not yet known.

    Without those of the system's libvirt, for which there is airtap domain renew.
    """
    connection = client.Connection(client.socket_path(), start=False)
    try:
        uplinks = fetch(connection)["uplinks"]
    finally:
        connection.close()
    return {
        guest["device"]: guest["mac"] or ""
        for uplink in uplinks
        if parent in (None, uplink["name"])
        for guest in uplink["guests"]
        if (guest["owner"]["uid"], guest["owner"]["uuid"]) == (os.getuid(), None)
    }


def _in_session(guests: Collection[str], ended: Event, failed: list[Problem]) -> set[str]:
    """Tell those that are guests of our libvirt session; return their devices."""
    if not session_listens(os.getuid()):
        return set()
    os.environ["LIBVIRT_AUTOSTART"] = "0"  # of a daemon that has ended meanwhile
    try:
        connection, live_nics = _libvirt()
        with connection.connected(SESSION) as session:
            nics = [nic for nic in live_nics.renewable(session, None) if nic.target in guests]
            problems = live_nics.renew(nics, ended)
    except Problem as problem:
        failed.append(problem)
        return set()
    for nic, why in zip(nics, problems, strict=True):
        if why is None:
            echo(f"{nic}: {_DONE}")
        elif not isinstance(why, live_nics.Ended):
            failed.append(why)
    return {nic.target for nic in nics}


def _by_monitors(
    patterns: Iterable[str], guests: Mapping[str, str], ended: Event, failed: list[Problem]
) -> set[str]:
    """Tell those whose QEMU listens for QMP; return their devices. guests has them by MAC."""
    if not guests:
        return set()
    told = set()
    with ExitStack() as undo:
        found = []
        for monitor in takewhile(lambda _: not ended.is_set(), _monitors(patterns, undo, failed)):
            with _collected(failed):
                cards = monitor.cards().items()
                found += [(monitor, name, guests[mac]) for mac, name in cards if mac in guests]
        for monitor, name, device in found:
            with _collected(failed):
                monitor.set_link(name, up=False)
                told.add(device)
        ended.wait(_DOWN_S if told else 0)
        for monitor, name, device in found:
            with _collected(failed):
                monitor.set_link(name, up=True)
                echo(f"{device}, card {name}: {_DONE}")
    return told


def _monitors(patterns: Iterable[str], undo: ExitStack, failed: list[Problem]) -> Iterator[Monitor]:
    paths = sorted({path for pattern in patterns for path in glob.iglob(pattern)})
    for path in paths[:_MOST_SOCKETS]:
        with _collected(failed):
            monitor = Monitor(path)
            undo.callback(monitor.close)
            yield monitor


@contextmanager
def _collected(failed: list[Problem]) -> Iterator[None]:
    try:
        yield
    except Problem as problem:
        failed.append(problem)

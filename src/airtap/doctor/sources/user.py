"""Reads for whom the diagnosis is, and what the ACL lets them use."""

import os
import pwd
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from ... import acl
from ...acl import Acl
from ...errors import Problem
from ...kernel.credentials import Peer, with_rights_of
from ...libvirt import session_conf
from ...libvirt.reader import NAMESPACE
from .files import text_or_nothing

_MOST_NETWORKS = 256


@dataclass(frozen=True)
class User:
    """The user who has to be allowed.

    uid: with sudo, that of the user who has typed it.
    root: whether the diagnosis itself runs as root.
    sudo: whether by sudo.
    rules: those of the ACL as this user may read it, or why there are none.
    no_acl: whether there is no file.
    """

    uid: int
    name: str
    root: bool
    sudo: bool
    acl_path: str
    rules: Acl | Problem
    no_acl: bool = False


@dataclass(frozen=True)
class Session:
    """The user's own libvirt.

    file: its qemu.conf.
    helper: the bridge_helper that is set there, "" without one, and usable: whether it can be run.
    networks: those that airtap made for it.
    ours: airtap's own helper.
    """

    file: str
    helper: str
    usable: bool
    networks: tuple[str, ...]
    ours: str


async def read(acl_path: str) -> User:
    """Read who asks, and what they may. sudo(8) says who they were before."""
    uid = os.geteuid()
    peer = _sudo_user() if uid == 0 else None
    load = partial(acl.load, acl_path)
    no_acl = False
    try:
        rules: Acl | Problem = await with_rights_of(peer, load) if peer else load()
    except Problem as problem:
        rules, no_acl = problem, isinstance(problem.__cause__, FileNotFoundError)
    who = peer.uid if peer else uid
    return User(who, _name_and_home(who)[0], uid == 0, peer is not None, acl_path, rules, no_acl)


async def session(user: User) -> Session | None:
    """Read the user's libvirt of their own, as they may read it; None for root's.

    It is None too where root may not take on their rights.
    """
    if user.uid == 0:
        return None
    peer = _sudo_user() if user.sudo else None
    if peer:
        file = _name_and_home(user.uid)[1] / ".config/libvirt/qemu.conf"
        with suppress(Problem):
            return await with_rights_of(peer, partial(_session, file))
        return None
    return _session(session_conf.path())


def _session(file: Path) -> Session:
    helper = session_conf.value(text_or_nothing(file))
    usable = os.access(helper, os.X_OK, effective_ids=True)  # this thread's rights
    networks = _our_networks(file.parent)
    return Session(str(file), helper, usable, networks, session_conf.helper())


def _our_networks(directory: Path) -> tuple[str, ...]:
    files: list[Path] = []
    with suppress(OSError), os.scandir(directory / "qemu/networks") as entries:
        files = sorted(Path(entry) for entry in islice(entries, _MOST_NETWORKS))
    ours = [each for each in files if each.suffix == ".xml" and NAMESPACE in text_or_nothing(each)]
    return tuple(each.stem for each in ours)


def _sudo_user() -> Peer | None:
    try:
        uid = int(os.environ["SUDO_UID"])
        entry = pwd.getpwuid(uid)
    except (KeyError, ValueError, OverflowError):
        return None
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Peer(0, uid, entry.pw_gid, tuple(groups)) if uid else None


def _name_and_home(uid: int) -> tuple[str, Path]:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return f"user {uid}", Path("/nonexistent")
    return entry.pw_name, Path(entry.pw_dir)

"""libvirt's hooks of airtap: the files, and the daemons that run them."""

import os
import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ...errors import reason
from ...uris import system_listens
from . import files, processes
from .processes import Process

DIRECTORY = Path("/etc/libvirt/hooks")
NAMES = ("qemu", "network")
_FILE = "50-airtap"
# The daemon that runs each hook: one for all, or one for each driver.
_DAEMONS = {"qemu": ("libvirtd", "virtqemud"), "network": ("libvirtd", "virtnetworkd")}
_TREE = re.compile(r'^sys\.path\.insert\(0, "([^"\n]*)"\)$', re.MULTILINE)
# Or it is a shell script that leaves AppArmor's profile of libvirtd by running one elsewhere.
_RUNS = re.compile(r'^exec /usr/bin/python3 -IS (/\S+/hooks/\w+) "\$@"$', re.MULTILINE)
_VERSION = re.compile(r'^__version__ = "([^"\n]{1,40})"$', re.MULTILINE)
# Where this airtap is: a hook that names no directory finds the one on Python's own path.
_OUR_TREE = Path(__file__).parents[3]


@dataclass(frozen=True)
class HookFile:
    """One of libvirt's hooks of airtap.

    name: one of NAMES.
    error: why the file cannot be read, "" if it can.
    hidden: whether it is this user who cannot read it.
    ours: whether it runs airtap.
    tree: the directory of the airtap that it runs, and version: of that, "" where there is none.
    since: when the first program was there that makes libvirt call this hook at all, in s since
    1970; 0 for none.
    place_since: when the hook's directory was made, 0 if that is not known: an upgrade replaces
    files, but not directories.
    daemons: those that run the hook.
    """

    name: str
    file: str
    error: str = ""
    hidden: bool = False
    regular: bool = False
    executable: bool = False
    ours: bool = False
    tree: str = ""
    version: str = ""
    since: float = 0.0
    place_since: float = 0.0
    daemons: tuple[Process, ...] = ()


def is_in_use() -> bool:
    """Return whether the system's libvirt runs, or starts when somebody connects to it."""
    return system_listens() or bool(_daemons("qemu"))


def read() -> list[HookFile]:
    """Read each of libvirt's hooks of airtap."""
    return [_read(name) for name in NAMES]


def _daemons(hook: str) -> tuple[Process, ...]:
    """Return those of root: anybody can give a process of theirs that name."""
    return tuple(each for each in processes.named(*_DAEMONS[hook]) if each.uid == 0)


def _read(name: str) -> HookFile:
    file = DIRECTORY / f"{name}.d" / _FILE
    daemons = _daemons(name)
    try:
        info = file.lstat()
        text = files.text(file)
    except OSError as exc:
        hidden = isinstance(exc, PermissionError)
        return HookFile(name, str(file), error=reason(exc), hidden=hidden, daemons=daemons)
    runs = _RUNS.search(text)
    if runs and runs[1].endswith(f"/hooks/{name}"):
        text = files.text_or_nothing(Path(runs[1]))
    tree = _TREE.search(text)
    where = tree[1] if tree else runs[1] if runs and not text else str(_OUR_TREE)
    return HookFile(
        name=name,
        file=str(file),
        regular=stat.S_ISREG(info.st_mode),
        executable=os.access(file, os.X_OK),
        ours=bool(runs) or f"from airtap.hook import {name}_main" in text,
        tree=where,
        version=_version(Path(where)) if text else "",
        since=_since(name),
        place_since=_born(DIRECTORY / f"{name}.d"),
        daemons=daemons,
    )


def _since(name: str) -> float:
    """Return when the first program was there that libvirt takes for this hook.

    libvirt looks for HOOK and for executables in HOOK.d (src/util/virhook.c: virHookCheck). The
    change time of a file tells when it got here, or was made executable.
    """
    files = [DIRECTORY / name, *(DIRECTORY / f"{name}.d").glob("*")]
    times = [file.stat().st_ctime for file in files if file.is_file() and os.access(file, os.X_OK)]
    return min(times, default=0.0)


def _born(directory: Path) -> float:
    """Ask stat(1) when a directory was made: 0 where the file system does not tell."""
    asked = ["stat", "--format=%W", str(directory)]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return float(told or 0)


def _version(tree: Path) -> str:
    found = _VERSION.search(files.text_or_nothing(tree / "airtap/__init__.py"))
    return found[1] if found and (tree / "airtap/hook.py").exists() else ""

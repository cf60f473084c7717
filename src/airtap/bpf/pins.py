"""Maps that outlive their daemon: pinned below /sys/fs/bpf/airtap, a directory for each uplink."""

import ctypes
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from pyroute2 import AsyncIPRoute

from ..errors import Problem
from ..kernel import netns
from ..kernel.libc import last_error, libc
from .attach import is_ours
from .libbpf import BpfError
from .object import Object

log = logging.getLogger(__name__)

_ROOT = Path("/sys/fs/bpf/airtap")
_FOR_A_JIT = {"from_guest": "from_guest_jit"}
_ENOTSUPP = 524  # include/linux/errno.h
_BPF_FS_MAGIC = 0xCAFE4A11  # include/uapi/linux/magic.h


def pin_directory(ifindex: int) -> Path:
    """Tell where the maps of an uplink of our network namespace are pinned."""
    return _ROOT / f"net{netns.cookie()}-{ifindex}"


def pinned() -> Iterator[tuple[int, Path]]:
    """Yield (ifindex, directory) of each uplink of our network namespace that has pins."""
    with suppress(FileNotFoundError):
        for path in _ROOT.iterdir():
            _, _, ifindex = path.name.partition("-")
            if ifindex.isdecimal() and path == pin_directory(int(ifindex)):
                yield int(ifindex), path


async def adopt_former(ipr: AsyncIPRoute) -> None:
    """Take over what an earlier version has pinned, whose names had the namespace's inode.

    That may have been another namespace's before: only where our programs are on the uplink are the
    pins theirs. All others go. Raises LinkError, OSError.
    """
    former = f"{os.stat('/proc/self/ns/net').st_ino}-"
    for path in list(_ROOT.iterdir()) if _ROOT.is_dir() else ():
        ifindex = path.name.removeprefix(former)
        if not path.name.startswith(former) or not ifindex.isdecimal():
            continue
        if await is_ours(ipr, int(ifindex)):
            path.rename(pin_directory(int(ifindex)))
        else:
            remove_pins(path)


def remove_pins(directory: Path) -> None:
    """Remove an uplink's pinned maps. Not there: success. Raises OSError."""
    with suppress(FileNotFoundError):
        for pin in directory.iterdir():
            pin.unlink(missing_ok=True)
        directory.rmdir()


def load(content: bytes, name: str, directory: Path | None) -> Object:
    """Load an object file on the maps that are pinned in directory, or on new ones pinned there.

    directory: None to pin nothing. Pins whose layout is another version's are replaced, and what
    was in them is lost. Raises Problem no-macnat (no BPF file system), NoLibbpf, BpfError, OSError.
    """
    if directory is None:
        return _load(content, name, None)
    _make(directory)
    try:
        return _load(content, name, directory)
    except BpfError as exc:
        if "parameter mismatch" not in exc.text:  # libbpf.c: bpf_object__reuse_map
            raise
        log.warning("%s is of another version of airtap: addresses are learned anew", directory)
    remove_pins(directory)
    _make(directory)
    return _load(content, name, directory)


def is_bpffs(directory: Path) -> bool:
    """Tell whether a directory is in a BPF file system. Raises OSError."""
    buffer = (ctypes.c_long * 32)()  # struct statfs, whose first word is f_type; see statfs(2)
    if libc.statfs(os.fsencode(directory), buffer) != 0:
        raise last_error(str(directory))
    return buffer[0] & 0xFFFFFFFF == _BPF_FS_MAGIC


def _make(directory: Path) -> None:
    existing = next(path for path in directory.parents if path.exists())
    if not is_bpffs(existing):
        what = f"{existing} is in no BPF file system"
        raise Problem("no-macnat", what, "mount -t bpf bpf /sys/fs/bpf")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _load(content: bytes, name: str, directory: Path | None) -> Object:
    """Load an object file, with the program that is for a JIT where there is one."""
    try:
        return _load_with(content, name, directory, _FOR_A_JIT)
    except BpfError as exc:
        if exc.errno != _ENOTSUPP:  # kernel/bpf/verifier.c: add_kfunc_call
            raise
    return _load_with(content, name, directory, {})


def _load_with(
    content: bytes, name: str, directory: Path | None, preferred: Mapping[str, str]
) -> Object:
    loaded = Object(content, name)
    try:
        for program, other in preferred.items():
            loaded.prefer(program, other)
        if directory is not None:
            loaded.pin_maps(directory)
        loaded.load()
    except BaseException:
        loaded.close()
        raise
    return loaded

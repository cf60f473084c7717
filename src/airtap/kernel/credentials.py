"""Who is at the other end of a Unix socket, and reading files with their rights."""

import asyncio
import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import Problem, reason
from .libc import last_error, libc
from .threads import in_thread

T = TypeVar("T")

_SO_PEERGROUPS = 59  # include/uapi/asm-generic/socket.h
# setgroups(2) by number: glibc's wrapper changes every thread of the process, the system call
# itself only the calling one. 159 is the generic table's (arm64, riscv64, loongarch64).
_SYS_SETGROUPS = {"x86_64": 116, "ppc64le": 81, "s390x": 206}.get(platform.machine(), 159)

for _set_id in (libc.setfsuid, libc.setfsgid):
    _set_id.argtypes = [ctypes.c_uint32]
    _set_id.restype = ctypes.c_uint32
_NO_ID = 2**32 - 1
_NOBODY = 65534


@dataclass(frozen=True)
class Peer:
    """The process that connected, as the kernel noted it at connect(2) (unix(7)).

    pid is 0 if the process is not of our PID namespace, and by now may be another's.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]


def peer_of(connection: socket.socket) -> Peer:
    """Credentials of the process that connected this socket. Raises OSError."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", raw)
    return Peer(pid, uid, gid, _peer_groups(connection))


def _peer_groups(connection: socket.socket) -> tuple[int, ...]:
    # By ctypes: Python's getsockopt() stops at 1024 bytes, 256 groups.
    groups = (ctypes.c_uint32 * 0)()
    while True:
        size = ctypes.c_uint32(ctypes.sizeof(groups))
        failed = libc.getsockopt(
            connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)
        )
        if not failed:
            return tuple(groups)
        error = last_error()
        if error.errno != errno.ERANGE or size.value <= ctypes.sizeof(groups):
            raise error
        groups = (ctypes.c_uint32 * (size.value // 4))()


def requester(pid: int) -> int:
    """The process for which the bridge helper pid runs: QEMU, or libvirtd. 0 if unknown.

    That is the helper's parent, or the one above where QEMU ran the helper by ``sh -c``.
    """
    _name, parent = _name_and_parent(pid)
    name, grandparent = _name_and_parent(parent)
    return grandparent if name == "sh" else parent


def process_name(pid: int) -> str:
    """What a process calls itself, cut at 15 bytes; "" if there is none."""
    return _name_and_parent(pid)[0]


def _name_and_parent(pid: int) -> tuple[str, int]:
    """What a process calls itself, and its parent's pid; "" and 0 if there is none.

    Of /proc/PID/stat, which has some hundred bytes, and waits for nobody (fs/proc/array.c:
    do_task_stat). A command line has as many bytes as its process says (PR_SET_MM_MAP), and to
    read it is to wait for that process's mmap_lock.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", 0
    # proc(5): pid (comm) state ppid ...; comm may hold anything, a ")" too.
    before, _, fields = stat.rpartition(")")
    return before.partition("(")[2], int(fields.split()[1])


async def with_rights_of(peer: Peer, function: Callable[[], T]) -> T:
    """Call function in a thread that may open the files that peer may open, and no others.

    The thread takes on the peer's groups and file system ids, by which the kernel also drops
    its capabilities over files (credentials(7), capabilities(7)), and ends afterwards: it has
    no way back. Raises what function raises, and Problem no-rights.
    """

    def run() -> T:
        _take_rights(peer)
        return function()

    return await asyncio.wrap_future(in_thread(run, "peer-rights"))


def become(uid: int) -> None:
    """Take on a user's rights for good, and the environment in which their session is found.

    Of their groups that of /run/user/UID is kept, or none. Who changes users without execve(2) is
    traced by nobody but root from then on (kernel/cred.c: commit_creds). Raises Problem needs-root,
    no-user.
    """
    if uid >= _NO_ID:  # to setresuid(2) it means: as it is
        raise Problem("no-user", f"there is no user {uid}")
    if uid == os.getuid():
        return
    directory = f"/run/user/{uid}"
    try:
        status = os.stat(directory)
        gid = status.st_gid if status.st_uid == uid else _NOBODY
    except OSError:
        gid = _NOBODY
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as exc:
        raise Problem("needs-root", f"cannot become user {uid}: {reason(exc)}") from exc
    for name in [name for name in os.environ if name.startswith(("XDG_", "LIBVIRT_"))]:
        del os.environ[name]
    os.environ |= {"HOME": directory, "XDG_RUNTIME_DIR": directory}


def _take_rights(peer: Peer) -> None:
    groups = (ctypes.c_uint32 * len(peer.groups))(*peer.groups)
    failed = libc.syscall(_SYS_SETGROUPS, len(peer.groups), groups) < 0
    # getgroups(2) answers for the calling thread; the call's number might have been wrong.
    if failed or set(os.getgroups()) != set(peer.groups):
        why = os.strerror(ctypes.get_errno()) if failed else "the call had no effect"
        raise Problem("no-rights", f"cannot take on the groups of user {peer.uid}: {why}")
    libc.setfsgid(peer.gid)
    libc.setfsuid(peer.uid)
    # Both return the previous id and no error; asked for an impossible one they change nothing.
    if (libc.setfsuid(_NO_ID), libc.setfsgid(_NO_ID)) != (peer.uid, peer.gid):
        raise Problem("no-rights", f"cannot take on the rights of user {peer.uid}")

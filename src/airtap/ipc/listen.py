"""Binding the daemon's socket, and giving it up, without a race.

Whoever binds or gives up the socket at PATH holds a lock on PATH.lock meanwhile: a daemon in
the foreground, a client that starts one (ipc/activation.py), a daemon that ends. The lock file
stays, as removing it would bring the race back.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import protocol

# What is in it has a place before all who come: few, so that those who only connect delay nobody.
_BACKLOG = 8
_SO_PASSRIGHTS = 83  # include/uapi/asm-generic/socket.h; since Linux 6.16


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of the socket at path, and make its directory if need be.

    Blocks while another process holds the lock, which takes milliseconds. Raises OSError.
    """
    _make_directory(Path(path).parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path + ".lock", flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def answers(path: str) -> bool:
    """Tell whether a daemon listens at path. Raises OSError where that cannot be told."""
    try:
        protocol.connect(path).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def bind(path: str) -> socket.socket:
    """A listening socket at path, to which anybody may connect: the ACL decides the rest.

    It takes the place of one there that nobody listens on. The caller holds the lock and has
    made sure of that. Raises OSError.
    """
    give_up(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with suppress(OSError):  # what this is for: kernel/seqpacket.py
            listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        listener.bind(path)
        Path(path).chmod(0o666)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def give_up(path: str) -> None:
    """Remove the socket at path; none there is success. The caller holds the lock.

    Raises OSError: also for a file that is no socket, which stays.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket", path)
        Path(path).unlink()


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)  # whatever root's umask is, users are to find the socket

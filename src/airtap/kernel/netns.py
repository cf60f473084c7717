"""Network namespaces without a name: a place for a stack that is not the host's.

Which namespace a socket belongs to is decided when it is made, and stays. So one process speaks
from several: it steps inside, makes its sockets there, and steps back. Nothing but descriptors
keeps such a namespace, so however the process ends, it is gone with it.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_OWN = "/proc/thread-self/ns/net"

# os.unshare() and os.setns() are Python 3.12's.
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A new network namespace, from here to close(). One thread may use it."""

    def __init__(self) -> None:
        """Raises OSError, EPERM without CAP_SYS_ADMIN."""
        home = _open_own()
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            try:
                self._descriptor = _open_own()
            finally:
                enter(home)
        finally:
            os.close(home)

    def close(self) -> None:
        """Let it go; it is there as long as sockets or devices' descriptors of it are."""
        os.close(self._descriptor)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have this thread in the namespace: what it opens belongs there. Raises OSError."""
        home = _open_own()
        try:
            enter(self._descriptor)
            try:
                yield
            finally:
                enter(home)
        finally:
            os.close(home)


def enter(descriptor: int) -> None:
    """Have this thread in another network namespace from now on. Raises OSError."""
    _check(_libc.setns(descriptor, _CLONE_NEWNET))


def _open_own() -> int:
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

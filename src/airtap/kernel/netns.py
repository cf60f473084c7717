"""Network namespaces without a name: a place for a stack that is not the host's.

Which namespace a socket belongs to is decided when it is made, and stays. So one process speaks
from several: it steps inside, makes its sockets there, and steps back. Nothing but descriptors
keeps such a namespace, so however the process ends, it is gone with it.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .libc import last_error, libc

_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, since 5.14
_OWN = "/proc/thread-self/ns/net"


class Namespace:
    """A network namespace that is made here and held until close(). One thread may use it."""

    def __init__(self) -> None:
        """Raises OSError: EPERM without CAP_SYS_ADMIN."""
        with _coming_back():
            _check(libc.unshare(_CLONE_NEWNET))
            self._descriptor = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let it go. It lives on as long as a socket or a device's descriptor belongs to it."""
        os.close(self._descriptor)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Take this thread into the namespace, for sockets that belong there. Raises OSError."""
        with _coming_back():
            enter(self._descriptor)
            yield


def cookie() -> int:
    """Return the number of this network namespace, which no other has until the next boot.

    Its inode is another's once it is gone. Raises OSError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        return int.from_bytes(own.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)


def enter(descriptor: int) -> None:
    """Take this thread into another network namespace for good. Raises OSError."""
    _check(libc.setns(descriptor, _CLONE_NEWNET))


@contextmanager
def _coming_back() -> Iterator[None]:
    """Have this thread in its namespace of now afterwards, wherever it goes meanwhile."""
    with open(_OWN) as home:
        try:
            yield
        finally:
            enter(home.fileno())


def _check(result: int) -> None:
    if result != 0:
        raise last_error()

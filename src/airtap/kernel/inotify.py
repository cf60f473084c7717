"""inotify on device nodes, which tells at once that a tap was closed, or its device went."""

import asyncio
import os
import struct
from collections.abc import Callable

from .libc import last_error, libc

# include/uapi/linux/inotify.h
_IN_ATTRIB = 0x4  # the node was unlinked while open: the device is gone
_IN_CLOSE_WRITE = 0x8
_IN_DELETE_SELF = 0x400
_IN_Q_OVERFLOW = 0x4000
_IN_IGNORED = 0x8000
_EVENT = struct.Struct("iIII")  # then the name, of which a watched file has none
_READ_BYTES = 64 * 1024


class NodeWatch:
    """Calls back with the path of a watched node at which something has happened.

    on_event(None) means: look at all of them (the kernel's queue overflowed).
    """

    def __init__(self, on_event: Callable[[str | None], None]) -> None:
        self._on_event = on_event
        self._paths: dict[int, str] = {}
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise last_error("inotify_init1")
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def add(self, path: str) -> None:
        """Watch the node at path. Watching it again changes nothing. Raises OSError."""
        mask = _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_DELETE_SELF
        descriptor = libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        if descriptor < 0:
            raise last_error(path)
        self._paths[descriptor] = path

    def remove(self, path: str) -> None:
        """Stop watching. A node that is not watched, or gone, is success."""
        for descriptor in [d for d, watched in self._paths.items() if watched == path]:
            del self._paths[descriptor]
            libc.inotify_rm_watch(self._fd, descriptor)  # EINVAL: the kernel was quicker

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _read(self) -> None:
        try:
            events = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        for descriptor, mask, _cookie, _length in _EVENT.iter_unpack(events):
            if mask & _IN_Q_OVERFLOW:
                self._on_event(None)
            path = self._paths.get(descriptor)
            if mask & _IN_IGNORED:
                self._paths.pop(descriptor, None)
            elif path is not None:
                self._on_event(path)

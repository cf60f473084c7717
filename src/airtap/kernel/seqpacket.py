"""Packets from a Unix socket whose other end may be hostile.

A peer can attach descriptors to a packet (unix(7), SCM_RIGHTS), and closing the last copy of one
can take as long as the peer likes: think of a TCP socket with SO_LINGER. Whoever takes such a
packet closes them, also if it made no room for them (net/core/scm.c: scm_detach_fds), and so does
whoever closes a connection with such a packet in its queue. Both is never done in the event loop.

Since Linux 6.16 a listening socket can say that its connections take none (SO_PASSRIGHTS). It does
not count for those made before that, and earlier kernels do not know it. There a packet is looked
at before it is taken, which keeps nothing of it, and one that has descriptors is never taken.
"""

import asyncio
import socket
from contextlib import suppress

from .threads import close_by_ending

_SO_PASSRIGHTS = 83  # include/uapi/asm-generic/socket.h
_UCRED_BYTES = 12
# Only those who send descriptors need any; they end at once, but for what nobody has thought of.
_MOST_THREADS = 8


def refuse_descriptors(listener: socket.socket) -> None:
    """Have the kernel, if it can, refuse descriptors on all connections made from now on."""
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


async def receive(connection: socket.socket, limit: int) -> bytes:
    """Wait for a packet. Returns at most limit bytes of it, b"" at the end of the connection.

    A packet with descriptors counts as the end, and stays in the queue. Raises OSError.
    """
    while True:
        try:
            *_, flags, _address = connection.recvmsg(1, 0, socket.MSG_PEEK)
            return b"" if flags & socket.MSG_CTRUNC else connection.recv(limit)
        except BlockingIOError:
            await _readable(connection)


class Closer:
    """Closes connections, those with descriptors in their queue in threads. Needs an event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[socket.socket, asyncio.Future[None]]] = []
        self._threads: set[asyncio.Task[None]] = set()
        self._copying = asyncio.Lock()

    def close(self, connection: socket.socket) -> asyncio.Future[None] | None:
        """Close a connection. Returns None if that is done, else what tells when."""
        if _refuses_descriptors(connection) or _is_emptied(connection):
            connection.close()
            return None
        closed = asyncio.get_running_loop().create_future()
        self._waiting.append((connection, closed))
        if len(self._threads) < _MOST_THREADS:
            task = asyncio.create_task(self._close_waiting(), name="close")
            self._threads.add(task)
            task.add_done_callback(self._threads.discard)
        return closed

    async def _close_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await close_by_ending([connection for connection, _ in batch], self._copying)
            for _, closed in batch:
                if not closed.done():
                    closed.set_result(None)


def _refuses_descriptors(connection: socket.socket) -> bool:
    """Whether none can ever have been sent: it has that of its listener (unix_stream_connect)."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS) == 0
    except OSError:
        return False


def _is_emptied(connection: socket.socket) -> bool:
    """Take all packets out of a connection's queue, for good. False if one has descriptors."""
    # With it an empty packet differs from the end: it has credentials.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    connection.shutdown(socket.SHUT_RD)  # nobody can add to the queue any more
    room = socket.CMSG_SPACE(_UCRED_BYTES)
    while True:
        try:
            _, ancillary, flags, _ = connection.recvmsg(1, room, socket.MSG_PEEK)
            if flags & socket.MSG_CTRUNC:
                return False
            if not ancillary:
                return True
            connection.recv(1)
        except ConnectionResetError:  # said once, of a peer that left without reading
            continue


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)

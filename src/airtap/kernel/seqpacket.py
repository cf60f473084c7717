"""Packets from a Unix socket whose other end may be hostile.

A peer can attach descriptors to a packet (unix(7), SCM_RIGHTS), and closing the last copy of one
can take as long as the peer likes: think of a TCP socket with SO_LINGER. So none may ever be
closed by the event loop, be it received, or dropped by the kernel because nobody made room for it,
or still in the queue of a connection that is closed. Since Linux 6.16 a socket can say that it
takes none; before that, what could block runs in threads, and keeps the peer's place until done.
"""

import asyncio
import os
import socket
import struct
from functools import partial

from .threads import in_thread

_SO_PASSRIGHTS = 83  # include/uapi/asm-generic/socket.h
_SCM_MAX_FD = 253  # include/net/scm.h
_SLOW_CLOSE = "slow close"


def refuse_descriptors(listener: socket.socket) -> bool:
    """Have the kernel refuse packets with descriptors, on all connections of a listener.

    Returns whether the kernel can do that.
    """
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


async def receive(connection: socket.socket, limit: int) -> bytes:
    """Wait for a packet. Returns at most limit bytes of it, b"" at the end of the connection.

    A packet with descriptors counts as the end. Raises OSError.
    """
    await _readable(connection)
    room = socket.CMSG_SPACE(_SCM_MAX_FD * 4)
    packet, ancillary, _flags, _address = connection.recvmsg(limit, room, socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors += struct.unpack(f"{len(data) // 4}i", data)
    if descriptors:
        in_thread(partial(_close_all, descriptors), _SLOW_CLOSE)
        return b""
    return packet


async def close(connection: socket.socket, no_descriptors: bool) -> None:
    """Close a connection. no_descriptors: what refuse_descriptors() said of its listener."""
    if no_descriptors:
        connection.close()
        return
    await asyncio.wrap_future(in_thread(connection.close, _SLOW_CLOSE))


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)

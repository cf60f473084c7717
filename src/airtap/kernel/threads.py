"""Threads of their own, for what may block as long as somebody else likes."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from .libc import libc

_CLONE_FILES = 0x400  # include/uapi/linux/sched.h
_LOOK_S = 0.02

T = TypeVar("T")


def in_thread(function: Callable[[], T], name: str) -> Future[T]:
    """Call function in a thread of that name, which keeps no process from ending.

    Unlike an executor's threads, which Python waits for at its end. Who waits for the outcome may
    give up; the function is called all the same.
    """
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as exc:
            outcome.set_exception(exc)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome


async def close_by_ending(sockets: Sequence[socket.socket], copying: asyncio.Lock) -> None:
    """Close sockets in a thread, by its end. Returns when it has ended.

    copying is held by one such thread at a time, while its table has more than these: a second
    one's sockets could end meanwhile, and it, which closes what it has of them, be the last.

    What ends does not linger (PF_EXITING in net/ipv4/af_inet.c: inet_release()), be it the last
    that holds a socket of somebody's who has set SO_LINGER to an hour. The thread takes a copy of
    the table of descriptors, and keeps only the sockets of it; then ours are closed, as not the
    last; and with the thread its table goes.
    """
    holds: list[int] = []  # not a Future: the event loop's pipe is closed there
    ours_closed = threading.Event()

    def run() -> None:
        if libc.unshare(_CLONE_FILES) < 0:
            for slow in sockets:
                slow.close()
        else:
            _close_all_but([kept.fileno() for kept in sockets])
        holds.append(threading.get_native_id())
        ours_closed.wait()

    async with copying:
        threading.Thread(target=run, name="close", daemon=True).start()
        while not holds:
            await asyncio.sleep(_LOOK_S)
        for ours in sockets:
            ours.close()
    ours_closed.set()
    while os.path.exists(f"/proc/self/task/{holds[0]}"):
        await asyncio.sleep(_LOOK_S)


def _close_all_but(kept: Sequence[int]) -> None:
    first = 0
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))

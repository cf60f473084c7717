"""Being another user for a while, as the kernel notes it and as it lets them."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Connect, open and ask as a user (unix(7), SO_PEERCRED), without any capability."""
    before = os.geteuid()
    _become(uid)
    try:
        yield
    finally:
        _become(before)


@contextmanager
def connected_as(uid: int, path: str) -> Iterator[socket.socket]:
    """A connection to airtapd that a user has made, who may pass it on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        with acting_as(uid):
            peer.connect(path)
        peer.settimeout(20)
        yield peer


def _become(uid: int) -> None:
    os.seteuid(0)
    os.setegid(uid)
    os.seteuid(uid)

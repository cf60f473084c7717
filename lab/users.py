"""Being another user for a while, as the kernel notes it and as it lets them."""

import os
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


def _become(uid: int) -> None:
    os.seteuid(0)
    os.setegid(uid)
    os.seteuid(uid)

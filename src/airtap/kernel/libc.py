"""The C library, for system calls that Python 3.11 does not offer (os.unshare() is 3.12's)."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def last_error(what: str | None = None) -> OSError:
    """The error of this thread's last call that failed. what: the file that it is about."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)

"""A connection to libvirt, and the one place where libvirt's errors become Problems.

libvirt waits for its daemon without end, deaf to Ctrl-C. So the connection is opened in a thread,
and is kept alive from then on: what a daemon that hangs is asked fails.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cache
from threading import Thread
from typing import Any, TypeVar

from ..errors import Problem
from ..uris import is_session

T = TypeVar("T")

# How long libvirt may take to answer: a session's daemon is started first.
_OPEN_S = 30.0
# A connection is lost when so many questions, so many seconds apart, had no answer.
_KEEPALIVE_S, _KEEPALIVES = 5, 5

_MEMBER = "become root, or a member of the group libvirt"
_HINTS = {
    "VIR_ERR_SYSTEM_ERROR": "libvirt's daemon has to run, and you to be root or in group libvirt",
    "VIR_ERR_AUTH_FAILED": _MEMBER,
    "VIR_ERR_AUTH_UNAVAILABLE": _MEMBER,
    "VIR_ERR_AUTH_CANCELLED": _MEMBER,
}


@cache
def binding() -> Any:
    """libvirt's module for Python, kept from printing errors. Raises Problem no-libvirt.

    A thread serves the timers of its connections.
    """
    try:
        import libvirt
    except ImportError as exc:
        what = "libvirt for Python is missing"
        raise Problem("no-libvirt", what, "install python3-libvirt") from exc
    # Without a handler, libvirt writes every error to stderr itself: "libvirt: QEMU Driver error".
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    Thread(target=run, name="libvirt", daemon=True).start()
    return libvirt


@contextmanager
def problems(what: str) -> Iterator[None]:
    """Raise libvirt's errors as Problem libvirt-error: what could not be done, and why."""
    libvirt = binding()
    try:
        yield
    except libvirt.libvirtError as exc:
        raise Problem("libvirt-error", f"cannot {what}: {_said(exc)}") from exc


@contextmanager
def passed_over(error: str) -> Iterator[None]:
    """Pass over libvirt's error of that name, as VIR_ERR_NO_DOMAIN for a domain that has gone."""
    libvirt = binding()
    try:
        yield
    except libvirt.libvirtError as exc:
        if exc.get_error_code() != getattr(libvirt, error):
            raise


@contextmanager
def connected(uri: str, *, read_only: bool = False) -> Iterator[Any]:
    """A virConnect to a libvirt daemon. Raises Problem no-libvirt, no-connection."""
    libvirt = binding()
    try:
        opening = libvirt.openReadOnly if read_only else libvirt.open
        connection = within(_OPEN_S, lambda: opening(uri))
    except TimeoutError as exc:
        what = f"{uri} did not answer within {_OPEN_S:g} s"
        raise Problem("no-connection", what, "see what libvirt's daemon is doing") from exc
    except libvirt.libvirtError as exc:
        hints = {getattr(libvirt, name): hint for name, hint in _HINTS.items()}
        # A session's is the user's own, started by the attempt to reach it.
        hint = "" if is_session(uri) else hints.get(exc.get_error_code(), "")
        raise Problem("no-connection", f"cannot reach {uri}: {_said(exc)}", hint) from exc
    with suppress(libvirt.libvirtError):  # libvirt's drivers without a daemon have no such thing
        connection.setKeepAlive(_KEEPALIVE_S, _KEEPALIVES)
    try:
        yield connection
    finally:
        connection.close()


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what a function returns, called in a thread. Raises TimeoutError, and what it raises.

    The thread is a daemon: it ends with us, also where libvirt never answers it.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as exc:
            future.set_exception(exc)

    Thread(target=run, name="libvirt: asked", daemon=True).start()
    return future.result(seconds)


def _said(error: Any) -> str:
    """libvirt's message on one line."""
    return " ".join(str(error.get_error_message() or error).split())

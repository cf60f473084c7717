"""A connection to libvirt, and the one place where libvirt's errors become Problems."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ..errors import Problem

_MEMBER = "become root, or a member of the group libvirt"
_HINTS = {
    "VIR_ERR_SYSTEM_ERROR": "libvirt's daemon has to run, and you to be root or in group libvirt",
    "VIR_ERR_AUTH_FAILED": _MEMBER,
    "VIR_ERR_AUTH_UNAVAILABLE": _MEMBER,
    "VIR_ERR_AUTH_CANCELLED": _MEMBER,
}


def binding() -> Any:
    """libvirt's module for Python, kept from printing errors. Raises Problem no-libvirt."""
    try:
        import libvirt
    except ImportError as exc:
        raise Problem(
            "no-libvirt", "libvirt for Python is missing", "install python3-libvirt"
        ) from exc
    # Without a handler, libvirt writes every error to stderr itself: "libvirt: QEMU Driver error".
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
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
def connected(uri: str, *, read_only: bool = False) -> Iterator[Any]:
    """A virConnect to a libvirt daemon. Raises Problem no-libvirt, no-connection."""
    libvirt = binding()
    try:
        connection = libvirt.openReadOnly(uri) if read_only else libvirt.open(uri)
    except libvirt.libvirtError as exc:
        code = exc.get_error_code()
        hints = [hint for name, hint in _HINTS.items() if getattr(libvirt, name) == code]
        if urlsplit(uri).path == "/session":  # a user's own, started by the attempt to reach it
            hints = []
        raise Problem("no-connection", f"cannot reach {uri}: {_said(exc)}", "".join(hints)) from exc
    try:
        yield connection
    finally:
        connection.close()


def _said(error: Any) -> str:
    """libvirt's message on one line."""
    return " ".join(str(error.get_error_message() or error).split())

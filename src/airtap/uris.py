"""Which libvirt a URI means: the system's or a session's, of this host or of another."""

import os
from urllib.parse import urlsplit

from .errors import Problem

SYSTEM = "qemu:///system"
SESSION = "qemu:///session"
# Of the system's daemon: one for all drivers, or QEMU's own.
_SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")


def system_listens() -> bool:
    """Whether the system's libvirt runs, or starts when somebody connects to it."""
    return any(map(os.path.exists, _SOCKETS))


def is_session(uri: str) -> bool:
    """Whether it is an ordinary user's, which can make no macvtaps."""
    return urlsplit(uri).path == "/session"


def is_remote(uri: str) -> bool:
    """Whether it is another host's, whose devices cannot be seen here."""
    return bool(urlsplit(uri).netloc)


def expect_local(uri: str) -> None:
    """Raise Problem remote-host if it is another host's."""
    if is_remote(uri):
        what = f"{uri} is another host's libvirt, whose devices cannot be seen here"
        raise Problem("remote-host", what, "run airtap there")

"""Which libvirt a URI means: the system's or a session's, of this host or of another."""

import os
from urllib.parse import urlsplit

from .errors import Problem

SYSTEM = "qemu:///system"
SESSION = "qemu:///session"
# In its run directory: of the daemon for all drivers, or of QEMU's own.
_SOCKETS = ("libvirt/libvirt-sock", "libvirt/virtqemud-sock")


def system_listens() -> bool:
    """Whether the system's libvirt runs, or starts when somebody connects to it."""
    return _listens("/run")


def session_listens(uid: int) -> bool:
    """Whether the libvirt of a user's session runs."""
    own = os.environ.get("XDG_RUNTIME_DIR") if uid == os.getuid() else None
    return _listens(own or f"/run/user/{uid}")


def _listens(directory: str) -> bool:
    return any(os.path.exists(os.path.join(directory, path)) for path in _SOCKETS)


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

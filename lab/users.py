"""Being another user for a while, as the kernel notes it and as it lets them."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


@contextmanager
def runtime_of(uid: int) -> Iterator[Path]:
    """A user's /run/user/UID, with a directory for QEMU's sockets."""
    directory = Path("/run/user", str(uid))
    (directory / "qemu").mkdir(parents=True)
    for path in (directory, directory / "qemu"):
        os.chown(path, uid, uid)
        path.chmod(0o700)
    yield directory
    shutil.rmtree(directory)


def listening(runtime: Path, name: str) -> tuple[str, str]:
    """Options by which QEMU listens where airtapd looks."""
    return "-qmp", f"unix:{runtime / 'qemu' / name}.qmp,server=on,wait=off"


def _become(uid: int) -> None:
    os.seteuid(0)
    os.setegid(uid)
    os.seteuid(uid)

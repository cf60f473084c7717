"""Binding the daemon's socket: files and locks."""

import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest

from airtap.errors import Problem
from airtap.ipc import client, listen


def connect(path: Path | str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.connect(str(path))


def test_bind(tmp_path: Path) -> None:
    path = tmp_path / "airtapd.sock"
    with listen.bind(str(path)) as listening:
        info = path.stat()
        assert stat.S_ISSOCK(info.st_mode) and stat.S_IMODE(info.st_mode) == 0o666
        assert not listening.get_inheritable()
        connect(path)


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_anybody_may_connect_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with listen.bind(str(tmp_path / "s")):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o666
    finally:
        os.umask(before)


def test_bind_replaces_what_a_crash_left(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listen.bind(path).close()
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    with listen.bind(path):
        connect(path)


def test_too_long_a_path_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError):
        listen.bind(str(tmp_path / ("x" * 120)))
    assert os.listdir("/proc/self/fd") == before


def test_give_up_twice(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listen.bind(path).close()
    listen.give_up(path)
    listen.give_up(path)
    assert list(tmp_path.iterdir()) == []


def test_lock_excludes_others_until_it_is_released(tmp_path: Path) -> None:
    path = str(tmp_path / "new/directory/s")
    with listen.locked(path), open(path + ".lock") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(path + ".lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert stat.S_IMODE(os.fstat(other.fileno()).st_mode) == 0o600


def test_lock_is_released_by_an_error(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ZeroDivisionError), listen.locked(path):
        raise ZeroDivisionError
    assert os.listdir("/proc/self/fd") == before
    with listen.locked(path):
        pass


def test_lock_follows_no_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "s.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), listen.locked(str(tmp_path / "s")):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_client_gets_bytes_and_descriptor(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listen.bind(path) as listening, (tmp_path / "file").open("wb") as file:
        connection = client.Connection(path)
        daemon, _ = listening.accept()
        with daemon:
            connection.send("question")
            assert daemon.recv(100) == b'{"op": "question"}'
            socket.send_fds(daemon, [b"answer"], [file.fileno()])
            packet, fd = connection.receive()
            assert packet == b"answer" and fd is not None
            assert os.path.samestat(os.fstat(fd), os.fstat(file.fileno()))
            assert not os.get_inheritable(fd)
            os.close(fd)
            daemon.send(b"another")
            assert connection.receive() == (b"another", None)
        with pytest.raises(Problem) as caught:
            connection.receive()
        assert caught.value.code == "no-daemon"
        connection.close()


def test_client_hears_why_it_was_hung_up_on(tmp_path: Path) -> None:
    """A daemon that is too busy answers before there is a request, and ends the connection."""
    path = str(tmp_path / "s")
    with listen.bind(path) as listening:
        connection = client.Connection(path)
        daemon, _ = listening.accept()
        daemon.send(b"busy")
        daemon.close()
        connection.send("question")
        assert connection.receive() == (b"busy", None)
        connection.close()


def test_client_sends_no_request_that_airtapd_would_not_read(tmp_path: Path) -> None:
    with listen.bind(str(tmp_path / "s")):
        connection = client.Connection(str(tmp_path / "s"))
        with pytest.raises(Problem) as caught:
            connection.send("x" * 4097)
        assert caught.value.code == "bad-message"
        connection.close()

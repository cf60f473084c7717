"""Start airtapd from a client: as root, where no systemd is there to do it.

The starter binds the socket itself and passes it on as systemd would (sd_listen_fds(3)), so
there is nothing to wait for: a client's request queues up while the daemon starts. The lock of
ipc/listen.py makes it race-free against other starters and against a daemon that just ends.
"""

import fcntl
import os
import sys
from _socket import socket as Socket
from contextlib import suppress
from pathlib import Path
from socket import socket

from ..errors import Problem, reason
from . import protocol
from .listen import bind, locked

IDLE_S = 60
_LOG_BYTES = 1 << 20


def start_daemon(path: str, error: OSError) -> tuple[Socket, str]:
    """Start a daemon behind path; returns a connection to it and where it logs.

    error: why a connection to path failed. Raises Problem no-daemon where starting one is
    not ours to do, or fails.
    """
    if Path("/run/systemd/system").is_dir():  # sd_booted(3)
        hint = "start it: systemctl enable --now airtapd.socket"
    elif os.geteuid() != 0:
        hint = "ask the administrator to start airtapd"
    else:
        try:
            return _start_or_join(path), path + ".log"
        except OSError as exc:
            raise Problem(
                "no-daemon", f"cannot start airtapd behind {path}: {reason(exc)}"
            ) from exc
    raise Problem("no-daemon", f"airtapd does not answer at {path}: {reason(error)}", hint)


def _start_or_join(path: str) -> Socket:
    program = find_program("airtapd")
    with locked(path):
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return protocol.connect(path)  # somebody was quicker
        with bind(path) as listener:
            _spawn(program, path, listener)
            return protocol.connect(path)


def find_program(name: str) -> str:
    """A program of ours beside the running one, else where packages put it.

    Raises Problem no-daemon.
    """
    beside = Path(sys.argv[0]).absolute().with_name(name)
    for program in (str(beside), f"/usr/bin/{name}"):
        if os.access(program, os.X_OK):
            return program
    raise Problem("no-daemon", f"{name} is neither at {beside} nor in /usr/bin")


def _spawn(program: str, path: str, listener: socket) -> None:
    """Run the daemon detached: nobody may wait for it, nor for a stream that it holds open."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    log = os.open(path + ".log", flags, 0o600)
    if os.fstat(log).st_size > _LOG_BYTES:
        os.ftruncate(log, 0)
    if os.fork():
        os.close(log)
        return
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        _place({0: null, 1: log, 2: log, 3: listener.fileno()})
        os.chdir("/")
        environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
        arguments = [program, "--socket", path, "--exit-when-idle", str(IDLE_S)]
        os.execve(program, arguments, environment)
    finally:
        os._exit(127)


def _place(wanted: dict[int, int]) -> None:
    """Make descriptor N a copy of wanted[N] for each N from 0, and close all others."""
    # First out of the way: a source may have a number that is to be overwritten.
    high = {target: fcntl.fcntl(source, fcntl.F_DUPFD, 64) for target, source in wanted.items()}
    for target, source in high.items():
        os.dup2(source, target)
    os.closerange(len(wanted), os.sysconf("SC_OPEN_MAX"))

"""The client's end of airtapd's socket, for the bridge helper, the hooks and the CLI.

Imported on every guest start. _socket is the extension module under socket; the rest of
socket (enum, selectors) doubles the helper's start-up time and is not needed for one packet.
"""

import os
import sys
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOL_SOCKET,
)
from _socket import socket as Socket

from . import wire
from .errors import Problem, reason

# An attach takes milliseconds; this is for a daemon that hangs or a very crowded one.
TIMEOUT_S = 30


def socket_path() -> str:
    """Where airtapd listens: $AIRTAP_SOCKET or the default."""
    return os.environ.get("AIRTAP_SOCKET") or wire.DEFAULT_SOCKET


class Connection:
    """One connection to airtapd.

    path: the daemon's socket. Where nothing answers there, root without systemd starts a
    daemon. Raises Problem no-daemon.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._log = "airtapd's log"
        try:
            self._socket = connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            from .autostart import start_daemon

            self._socket, self._log = start_daemon(path, exc)
        except OSError as exc:
            raise Problem("no-daemon", f"cannot reach airtapd at {path}: {reason(exc)}") from exc

    def close(self) -> None:
        self._socket.close()

    def send(self, request: bytes) -> None:
        """Send one request. Raises Problem no-daemon or bad-message (too long)."""
        if len(request) > wire.MAX_REQUEST:
            raise Problem("bad-message", f"the request has {len(request)} bytes, too many")
        try:
            self._socket.send(request, MSG_NOSIGNAL)
        except BrokenPipeError:
            pass  # a daemon that is too busy says so and hangs up: receive() reads that
        except OSError as exc:
            raise self._lost(exc) from exc

    def receive(self) -> tuple[bytes, int | None]:
        """Wait for one packet: its bytes, and the file descriptor that came with it.

        The caller owns the descriptor. Raises Problem no-daemon: timeout or end of file.
        """
        try:
            packet, ancillary, _flags, _peer = self._socket.recvmsg(
                wire.MAX_ANSWER, CMSG_SPACE(4), MSG_CMSG_CLOEXEC
            )
        except OSError as exc:
            raise self._lost(exc) from exc
        fd = None
        for level, kind, data in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fd = int.from_bytes(data[:4], sys.byteorder)
        if not packet:
            raise self._lost(None)
        return packet, fd

    def _lost(self, error: OSError | None) -> Problem:
        if isinstance(error, BlockingIOError):
            what = f"airtapd at {self.path} did not answer within {TIMEOUT_S} s"
        else:
            why = f": {reason(error)}" if error else ""
            what = f"airtapd at {self.path} ended the connection before it answered{why}"
        return Problem("no-daemon", what, f"see {self._log}, then try again")


def connect(path: str) -> Socket:
    """Connect to the daemon's socket. Raises OSError."""
    sock = Socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    try:
        # The kernel's time-outs rather than Python's: with those connect() would fail at
        # once where the daemon's backlog is full. struct timeval, without importing struct.
        timeval = TIMEOUT_S.to_bytes(8, sys.byteorder) + bytes(8)
        sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, timeval)
        sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, timeval)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock

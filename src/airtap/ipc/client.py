"""The client's end of airtapd's socket, for the bridge helper, the hooks and the CLI.

Imported on every guest start.
"""

import os
import sys
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET

from ..errors import Problem, reason
from . import protocol


def socket_path() -> str:
    """Where airtapd listens: $AIRTAP_SOCKET or the default."""
    return os.environ.get("AIRTAP_SOCKET") or protocol.DEFAULT_SOCKET


def call(op: str, **fields: "protocol.Flat") -> dict[str, object]:
    """Ask airtapd for one thing, on a connection of its own. Raises Problem: airtapd's, or ours."""
    connection = Connection(socket_path())
    try:
        return connection.call(op, **fields)
    finally:
        connection.close()


class Connection:
    """One connection to airtapd.

    path: the daemon's socket. Where nothing answers there, root without systemd starts a
    daemon, unless start is false. Raises Problem no-daemon.
    """

    def __init__(self, path: str, *, start: bool = True) -> None:
        self.path = path
        self._log = "airtapd's log"
        try:
            self._socket = protocol.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            if not start:
                raise Problem("no-daemon", f"airtapd does not answer at {path}") from exc
            from .activation import start_daemon

            self._socket, self._log = start_daemon(path, exc)
        except OSError as exc:
            raise Problem("no-daemon", f"cannot reach airtapd at {path}: {reason(exc)}") from exc

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For those who wait for an answer in a loop of theirs."""
        return self._socket.fileno()

    def call(self, op: str, **fields: "protocol.Flat") -> dict[str, object]:
        """The answer to a request. Raises Problem: airtapd's own, or as send() and receive()."""
        self.send(op, **fields)
        return protocol.read_answer(self.receive()[0])

    def send(self, op: str, **fields: "protocol.Flat") -> None:
        """Send one request. Raises Problem no-daemon or bad-message (too long)."""
        request = protocol.encode_flat({"op": op, **fields})
        if len(request) > protocol.MAX_REQUEST:
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
            packet, ancillary = self._receive()
        except OSError as exc:
            raise self._lost(exc) from exc
        fd = None
        for level, kind, data in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fd = int.from_bytes(data[:4], sys.byteorder)
        if not packet:
            raise self._lost(None)
        return packet, fd

    def receive_tap(self) -> tuple[bytes, int]:
        """Wait for the answer to attach: its bytes, and the descriptor of the tap.

        The caller owns the descriptor. Raises Problem: airtapd's own, bad-message, or as receive().
        """
        answer, tap = self.receive()
        if tap is None:
            protocol.read_answer(answer)
            raise Problem("bad-message", "airtapd sent no file descriptor")
        return answer, tap

    def _receive(self) -> tuple[bytes, list[tuple[int, int, bytes]]]:
        try:
            return self._socket.recvmsg(protocol.MAX_ANSWER, CMSG_SPACE(4), MSG_CMSG_CLOEXEC)[:2]
        except ConnectionResetError:
            # Of a daemon that hung up without reading the request; what it said is behind.
            return self._socket.recvmsg(protocol.MAX_ANSWER, CMSG_SPACE(4), MSG_CMSG_CLOEXEC)[:2]

    def _lost(self, error: OSError | None) -> Problem:
        if isinstance(error, BlockingIOError):
            what = f"airtapd at {self.path} did not answer within {protocol.TIMEOUT_S} s"
        else:
            why = f": {reason(error)}" if error else ""
            what = f"airtapd at {self.path} ended the connection before it answered{why}"
        return Problem("no-daemon", what, f"see {self._log}, then try again")

"""The QMP socket of a QEMU that runs: which network cards it has, and their links.

Whoever started it has said where the socket is (-qmp unix:PATH,server=on,wait=off), and it speaks
with one client at a time (QEMU: docs/interop/qmp-spec.rst). It may be anybody's who has the same
user, so what is read is bounded.
"""

import json
import os
import re
import socket
import time
from typing import Any

from ..errors import Problem, reason
from ..kernel.credentials import peer_of

# For all that is said on one connection.
_ANSWERS_S = 5.0
_MOST_BYTES = 1 << 20
# Of "info network": each card, of whichever model; there is no QMP command that names them all.
_CARD = re.compile(r"(\S+): index=\d+,type=nic,\S*?macaddr=([0-9a-f:]{17})")


class Monitor:
    """A connection to one QEMU of ours; close() when done. Methods raise Problem no-qmp.

    path is its socket's. A socket of another user's is refused.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._deadline = time.monotonic() + _ANSWERS_S
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_ANSWERS_S)
            self._socket.connect(path)
            self._expect_own()
            self._read()  # a greeting; none comes while it speaks with somebody else
            self._execute("qmp_capabilities")
        except OSError as exc:
            self.close()
            raise self._problem(reason(exc)) from exc
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def cards(self) -> dict[str, str]:
        """Return its network cards: MAC to the name that set_link() takes."""
        said = self._execute("human-monitor-command", **{"command-line": "info network"})
        return {mac: name for name, mac in _CARD.findall(str(said))}

    def set_link(self, card: str, *, up: bool) -> None:
        """Plug a card's cable in, or out."""
        self._deadline = time.monotonic() + _ANSWERS_S
        self._execute("set_link", name=card, up=up)

    def _expect_own(self) -> None:
        uid = peer_of(self._socket).uid
        if uid != os.geteuid():
            raise self._problem(f"it is user {uid}'s")

    def _execute(self, command: str, **arguments: object) -> Any:
        request = {"execute": command, "arguments": arguments}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as exc:
            raise self._problem(reason(exc)) from exc
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise self._problem(f"{command}: {answer['error']}")

    def _read(self) -> dict[str, Any]:
        """Return the next message, which may be an event."""
        while b"\n" not in self._received:
            left = self._deadline - time.monotonic()
            if left <= 0 or len(self._received) > _MOST_BYTES:
                raise self._problem("it does not answer; another program may speak with it")
            self._socket.settimeout(left)
            try:
                more = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError as exc:
                raise self._problem(reason(exc)) from exc
            if not more:
                raise self._problem("it has hung up")
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise self._problem("what it says is not JSON") from exc
        if not isinstance(message, dict):
            raise self._problem("what it says is no QMP")
        return message

    def _problem(self, why: str) -> Problem:
        return Problem("no-qmp", f"cannot speak with QEMU at {self.path}: {why}")

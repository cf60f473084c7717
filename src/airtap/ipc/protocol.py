"""What clients and airtapd say to each other: one JSON object a packet of a SEQPACKET socket.

A client sends a request, ``{"op": NAME, ...}``, whose other fields are in ipc/requests.py. The
answer is one packet ``{"ok": true, ...}`` or ``{"ok": false, "problem": CODE, "message": TEXT,
"hint": TEXT}``. ``attach`` answers with
one file descriptor (SCM_RIGHTS) on its packet; no other answer carries one. ``status`` sends
any number of ``{"uplink": ...}`` and ``{"guest": ...}`` packets before its answer, each guest
belonging to the uplink before it, because one packet would not hold 512 guests. ``trace`` sends
packets as long as it lasts: see daemon/trace.py.

json is imported by the functions that need it: it costs the bridge helper more than half of
all that it does, and the helper needs it only when something failed. Likewise _socket, the
extension module under socket: enum and selectors would double the helper's start-up time.
"""

import sys
from _socket import AF_UNIX, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_CLOEXEC, SOCK_SEQPACKET, SOL_SOCKET
from _socket import socket as Socket

from ..errors import Problem

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Flat = str | bool | None | Sequence[str]

DEFAULT_SOCKET = "/run/airtap/airtapd.sock"
# A request names a device and a MAC; anything larger is not one.
MAX_REQUEST = 4096
# An answer holds at most one guest.
MAX_ANSWER = 16384
# The whole answer to most requests: to know it saves importing json.
_OK = b'{"ok": true}'
# An attach takes milliseconds; this is for a daemon that hangs or a very crowded one.
TIMEOUT_S = 30


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


def encode_flat(message: "Mapping[str, Flat]") -> bytes:
    """A message of plain values as a packet, the same that encode() makes.

    For requests: the helper and the hooks send them at every guest's start, and json imports re.
    """
    # What json.dumps() itself calls for a string.
    from _json import encode_basestring_ascii as quoted

    def encoded(value: "Flat") -> str:
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        return quoted(value) if isinstance(value, str) else f"[{', '.join(map(quoted, value))}]"

    fields = [f"{quoted(key)}: {encoded(value)}" for key, value in message.items()]
    return f"{{{', '.join(fields)}}}".encode()


def encode(message: dict[str, object]) -> bytes:
    """One message as a packet."""
    import json

    return json.dumps(message).encode()


def decode(packet: bytes) -> dict[str, object]:
    """The message in a packet. Raises Problem bad-message: not one JSON object."""
    import json

    try:
        message = json.loads(packet)
    except (ValueError, RecursionError) as exc:
        raise Problem("bad-message", "the message is not JSON in UTF-8") from exc
    if not isinstance(message, dict):
        raise Problem("bad-message", "the message is not a JSON object")
    return message


def failure(problem: Problem) -> dict[str, object]:
    """The answer that carries a Problem."""
    return {
        "ok": False,
        "problem": problem.code,
        "message": problem.message,
        "hint": problem.hint,
    }


def read_answer(packet: bytes) -> dict[str, object]:
    """The good answer in a packet. Raises Problem: the one that it carries, or bad-message."""
    return {"ok": True} if packet == _OK else check(decode(packet))


def check(answer: dict[str, object]) -> dict[str, object]:
    """Return a good answer; raise the Problem that another one carries."""
    if answer.get("ok") is True:
        return answer
    raise Problem(
        str(answer.get("problem", "bad-message")),
        str(answer.get("message", "airtapd sent an answer that makes no sense")),
        str(answer.get("hint", "")),
    )

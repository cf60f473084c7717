"""A user who floods airtapd: so many connections, each with one request after the other.

    python3 -c 'from lab.adversary.flood import main; main()' SOCKET CONNECTIONS KIND

KIND is of PACKETS. A line on stdout says that all connections are there. It imports nothing but the
standard library.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys

PACKETS = {
    "silent": b"",
    "status": b'{"op": "status"}',
    "attach": b'{"op": "attach", "br": "up0", "mac": null, "vnet_hdr": true}',
    "trace": b'{"op": "trace", "guest": "nobody"}',
    "release": b'{"op": "release", "device": "airtap0"}',
    "nonsense": b'{"op": "nonsense"}',
    "garbage": b"[" * 4096,
    "large": bytes(100_000),
}
# Nothing is said on these, and they are made anew all the time.
CONNECT = "connect"
KINDS = (*PACKETS, CONNECT)


def main() -> None:
    path, number, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    ready = selectors.DefaultSelector()
    for _ in range(number):
        _add(ready, path, PACKETS.get(kind, b""))
    print("all are there", flush=True)
    while True:
        for key, _events in ready.select(0.001 if kind == CONNECT else None):
            _go_on(ready, key.fileobj, path, PACKETS.get(kind, b""))  # type: ignore[arg-type]
        if kind == CONNECT:
            for key in list(ready.get_map().values()):
                _renew(ready, key.fileobj, path, b"")  # type: ignore[arg-type]


def _add(ready: selectors.BaseSelector, path: str, packet: bytes) -> None:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.connect(path)
    peer.setblocking(False)
    _say(peer, packet)
    ready.register(peer, selectors.EVENT_READ)


def _say(peer: socket.socket, packet: bytes) -> None:
    if packet:
        with contextlib.suppress(OSError):
            peer.send(packet)


def _go_on(ready: selectors.BaseSelector, peer: socket.socket, path: str, packet: bytes) -> None:
    """Read an answer, and ask again if it was the last packet of it."""
    try:
        answer = peer.recv(1 << 16)
    except OSError:
        answer = b""
    if not answer:
        _renew(ready, peer, path, packet)
    elif b'"ok"' in answer:
        _say(peer, packet)


def _renew(ready: selectors.BaseSelector, peer: socket.socket, path: str, packet: bytes) -> None:
    ready.unregister(peer)
    peer.close()
    _add(ready, path, packet)

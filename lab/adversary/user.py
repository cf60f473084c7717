"""A hostile user: a program that does to airtapd's socket what it is told, a step a line.

    python3 -c 'from lab.adversary.user import main; main()' SOCKET

A step is ``[NAME, NUMBER]`` on stdin; the number says how, see each function of STEPS. The answer
is a line with the number of packets sent. No step takes long, whatever airtapd does, and what a
step has opened stays open until "end". It imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator

from lab.adversary.choices import Choices

_PATIENCE_US = 500_000
_LINGER_S = 20
_SCM_MAX_FD = 253
_UNTOUCHED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
_PR_SET_MM, _PR_SET_MM_MAP = 35, 14  # linux/prctl.h

_held: list[socket.socket] = []
_kept: list[int] = []
_path = ""


def _connect() -> socket.socket | None:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # The kernel's time-out: with Python's a full backlog is an error.
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, _PATIENCE_US))
    try:
        peer.connect(_path)
    except OSError:
        peer.close()
        return None
    peer.setblocking(False)
    return peer


def connect(c: Choices) -> int:
    """Connections that say nothing."""
    for _ in range(c.of(1, 16, 128, 140)):
        if peer := _connect():
            _held.append(peer)
    return 0


def _peers(most: int) -> list[socket.socket]:
    while len(_held) < most and (peer := _connect()):
        _held.append(peer)
    return _held[-most:]


def _say(peers: list[socket.socket], packet: bytes, times: int) -> int:
    sent = 0
    for _ in range(times):
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.send(packet)
                sent += 1
    return sent


def _request(c: Choices) -> bytes:
    """A packet that is a request, nearly one, or none at all."""
    op = c.of("status", "attach", "trace", "release", "prepare-uplink", "nonsense")
    fields: dict[str, object] = c.of(
        {},
        {"br": c.of("up0", "lo", "no-such-device", "../up0", "x" * 4000), "vnet_hdr": True},
        {"guest": c.of("airtap0", "52:54:00:00:00:02", "nobody", "")},
        {"device": c.of("airtap0", "up0", "lo", "airtap1")},
        {"br": "up0", "mac": c.of("52:54:00:00:00:01", "ff:ff:ff:ff:ff:ff", "")},
        {"br": "up0", "kind": "ipvtap"},
        {"br": ["up0"], "names": {"a": 1}, "\ud800": None},
    )
    text = json.dumps({"op": op, **fields})
    return c.of(
        text.encode(),
        b"",
        text[:-1].encode(),
        b"[" * 4096,
        b'{"op": ' + b"1" * 4000 + b"}",
        bytes(4097),
        bytes(150_000),
        b"\xff\xfe" + text.encode("utf-16-le", "surrogatepass"),
        b'{"op": "status", "op": "attach"}' * 100,
    )


def ask(c: Choices) -> int:
    """The same request on so many connections, so many times, without reading an answer."""
    packet = _request(c)
    return _say(_peers(c.of(1, 16, 128)), packet, c.of(1, 4, 30))


def read(c: Choices) -> int:
    """Some of the answers, on all connections; a descriptor that comes with one is kept."""
    for peer in _held:
        with contextlib.suppress(OSError):
            for _ in range(c.of(1, 10, 1000)):
                data, descriptors, _flags, _from = socket.recv_fds(peer, 1 << 16, 4)
                _kept.extend(descriptors)
                if not data:
                    break
    return 0


def pass_on(c: Choices) -> int:
    """Descriptors, one or many, with a request or without.

    Some take long to close. Those are sent by a process that ends at once, so that airtapd's copies
    are the last.
    """
    kind, packet = c.of("null", "slow", "pipe", "nested"), c.of(b"x", b'{"op": "status"}')
    number, packets, connections = c.of(1, _SCM_MAX_FD), c.of(1, 10, 40), c.of(1, 16, 128)
    if kind in ("null", "pipe"):
        plain = [os.open("/dev/null", os.O_RDONLY)] * number
        sent = _pass(_peers(connections), packet, plain, packets)
        os.close(plain[0])
        return sent
    server = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if not child:
        near = _full(server)
        own = [peer for peer in (_connect() for _ in range(connections)) if peer]
        slow = near if kind == "slow" else _around(near)
        rest = [os.open("/dev/null", os.O_RDONLY)] * (number - 1)
        _pass(own, packet, [slow.fileno(), *rest], packets)
        os._exit(0)
    os.waitpid(child, 0)
    _slow.extend([server.accept()[0], server])
    return connections * packets


_slow: list[socket.socket] = []


def _pass(peers: list[socket.socket], packet: bytes, descriptors: list[int], times: int) -> int:
    sent = 0
    for peer in peers:
        for _ in range(times):
            with contextlib.suppress(OSError):
                socket.send_fds(peer, [packet], descriptors)
                sent += 1
    return sent


def _full(server: socket.socket) -> socket.socket:
    """A TCP socket whose last close waits, as its peer does not read."""
    near = socket.create_connection(server.getsockname())
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _LINGER_S))
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(65536))
    return near


def _around(inner: socket.socket) -> socket.socket:
    """A socket in whose queue another one is."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    socket.send_fds(near, [b"x"], [inner.fileno()])
    return far


def half_close(c: Choices) -> int:
    how = c.of(socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR)
    for peer in _held:
        with contextlib.suppress(OSError):
            peer.shutdown(how)
    return 0


def hang_up(c: Choices) -> int:
    """Close connections, all or every second, answers unread."""
    for peer in _held[:: c.of(1, 2)]:
        _held.remove(peer)
        peer.close()
    return 0


def flood(c: Choices) -> int:
    """Connect and close, with a request or without, as fast as can be."""
    packet, sent = c.of(b"", b'{"op": "status"}'), 0
    for _ in range(200):
        if peer := _connect():
            with peer:
                sent += _say([peer], packet, 1) if packet else 0
    return sent


def attach(c: Choices) -> int:
    """A device, or many, kept or closed at once; by a process whose parent has a command line of
    a forged size."""
    size = c.of(0, 1 << 20, 1 << 28)
    number, mac = c.of(1, 4), c.of(None, "52:54:00:00:77:01", "02:00:5e:00:53:01")
    message: dict[str, object] = {"op": "attach", "br": "up0", "vnet_hdr": True}
    packet = json.dumps(message | ({"mac": mac} if mac else {})).encode()
    with _command_line_of(size):
        child = os.fork()
        if child:
            signal.setitimer(signal.ITIMER_REAL, 10)
            os.waitpid(child, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            return number
        for _ in range(number):
            if peer := _connect():
                peer.settimeout(5)
                with contextlib.suppress(OSError):
                    peer.send(packet)
                    socket.recv_fds(peer, 4096, 1)
        os._exit(0)


@contextlib.contextmanager
def _command_line_of(size: int) -> Iterator[None]:
    """This process's command line has so many bytes, in memory that is never touched."""
    if not size:
        yield
        return
    before = _layout()
    try:
        with mmap.mmap(-1, size, _UNTOUCHED) as area:
            start = ctypes.addressof(hold := ctypes.c_char.from_buffer(area))
            _set_layout({**before, "arg_start": start, "arg_end": start + size})
            try:
                yield
            finally:
                _set_layout(before)
                del hold
    except OSError:  # the machine has not even the address space
        yield


_FIELDS = (
    *("start_code", "end_code", "start_data", "end_data", "start_brk", "brk"),
    *("start_stack", "arg_start", "arg_end", "env_start", "env_end"),
)
# Where proc(5) has them in /proc/PID/stat, counted from the state, which is field 3.
_AT = {"start_code": 26, "end_code": 27, "start_stack": 28, "start_data": 45, "end_data": 46}
_AT |= {"start_brk": 47, "arg_start": 48, "arg_end": 49, "env_start": 50, "env_end": 51}


def _layout() -> dict[str, int]:
    with open("/proc/self/stat") as file:
        words = file.read().rpartition(")")[2].split()
    found = {name: int(words[at - 3]) for name, at in _AT.items()}
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    return {**found, "brk": int(libc.sbrk(0))}


def _set_layout(layout: dict[str, int]) -> None:
    """struct prctl_mm_map: eleven addresses, no auxiliary vector, no other program."""
    octets = struct.pack("11QQIi", *(layout[name] for name in _FIELDS), 0, 0, -1)
    buffer = ctypes.create_string_buffer(octets, len(octets))
    ctypes.CDLL(None, use_errno=True).prctl(
        _PR_SET_MM, _PR_SET_MM_MAP, buffer, ctypes.c_ulong(len(octets)), 0
    )


def end(c: Choices) -> int:
    """Close all."""
    hang_up(Choices(0))
    for one in [*_held, *_slow]:
        one.close()
    _held.clear()
    _slow.clear()
    for descriptor in _kept:
        os.close(descriptor)
    _kept.clear()
    return 0


STEPS: dict[str, Callable[[Choices], int]] = {
    step.__name__: step
    for step in (ask, connect, read, pass_on, half_close, hang_up, flood, attach, end)
}


def main() -> None:
    global _path
    _path = sys.argv[1]
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for line in sys.stdin:
        name, number = json.loads(line)
        print(STEPS[name](Choices(number)), flush=True)

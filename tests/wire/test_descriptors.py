"""Descriptors that strangers send along, and that take as long to close as they like."""

import asyncio
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from airtap.ipc import listen
from airtap.kernel import threads
from lab.airtap import BIN, Airtapd, Function
from lab.lan import Lan, wait_for
from tests.wire.strangers import says, seconds_for_status, stranger

BEFORE_LINUX_6_16 = {"kernel.seqpacket._SO_PASSRIGHTS": 9999, "ipc.listen._SO_PASSRIGHTS": 9999}
KERNELS = pytest.mark.parametrize("constants", [None, BEFORE_LINUX_6_16], ids=["6.16", "6.15"])

LINGER = """
import os, select, socket, struct, sys
path, port, connections, most = sys.argv[1], *map(int, sys.argv[2:])
null = os.open("/dev/null", os.O_RDONLY)

held, peers = [], []

def slow():
    tcp = socket.create_connection(("127.0.0.1", port))
    held.append(tcp)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 20))
    tcp.setblocking(False)
    while select.select([], [tcp], [], 0.02)[1]:  # the far end does not read
        tcp.send(bytes(65536))
    return tcp

for _ in range(connections):
    peers.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    peers[-1].connect(path)
print("connected", flush=True)
sys.stdin.readline()
for number, peer in enumerate(peers):
    try:
        for packet in range(number % 6):
            peer.send(b'{"op": "status"}' if packet % 2 else b"")
        for data in (b"", b"x"):
            socket.send_fds(peer, [data], [slow().fileno(), *[null] * (most - 1)])
    except OSError:
        pass
print("sent", flush=True)
sys.stdin.readline()
os._exit(0)  # an exiting process does not linger: whoever still has a copy does
"""

FILL = """
import socket, sys
held = []
for _ in range(128):
    held.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    held[-1].connect(sys.argv[1])
print("full", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def far() -> Iterator[socket.socket]:
    """Listens for those who wait for what they have sent to be read; it is not."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen(128)
        yield server


def lingering(
    path: str,
    far: socket.socket,
    connections: int,
    most: int,
    meanwhile: AbstractContextManager[None] | None = None,
) -> None:
    """Have a stranger queue up descriptors, of which airtapd has the last copies then.

    Two of a connection's take 20 s to close, each. meanwhile: entered when all are connected.
    """
    arguments = path, str(far.getsockname()[1]), str(connections), str(most)
    with stranger(LINGER, *arguments) as process:
        assert says(process) == "connected"
        with meanwhile or nullcontext():
            assert process.stdin
            process.stdin.write("send\n")
            process.stdin.flush()
            assert says(process) == "sent"
            process.communicate("end\n", 10)


def lingers(far: socket.socket) -> socket.socket:
    """A socket of ours that takes 20 s to close, but for one that ends."""
    near = socket.create_connection(far.getsockname())
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 20))
    near.setblocking(False)
    while select.select([], [near], [], 0.02)[1]:  # the far end does not read
        near.send(bytes(65536))
    return near


@contextmanager
def stopped(airtapd: Airtapd) -> Iterator[None]:
    os.kill(airtapd.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(airtapd.pid, signal.SIGCONT)


def threads_of(airtapd: Airtapd) -> int:
    return len(os.listdir(f"/proc/{airtapd.pid}/task"))


@KERNELS
@pytest.mark.parametrize("most", [1, 253])
def test_descriptors_that_are_slow_to_close_block_nobody(
    lan: Lan, far: socket.socket, constants: dict[str, object] | None, most: int
) -> None:
    with Airtapd(constants=constants) as airtapd:
        before = len(airtapd.settled_fds())
        lingering(airtapd.socket, far, 40, most, stopped(airtapd))
        assert seconds_for_status(airtapd) < 2
        assert threads_of(airtapd) < 20
        wait_for(lambda: len(airtapd.settled_fds()) <= before, 5, "the descriptors to go")
        airtapd.attach(lan.near).close()


@KERNELS
def test_nor_do_those_of_connections_that_are_too_many(
    lan: Lan, far: socket.socket, constants: dict[str, object] | None
) -> None:
    with Airtapd(constants=constants) as airtapd, stranger(FILL, airtapd.socket) as filler:
        assert says(filler) == "full"
        wait_for(lambda: len(airtapd.settled_fds()) > 128, 10, "airtapd to be full")
        before = len(airtapd.settled_fds())
        with stopped(airtapd):
            lingering(airtapd.socket, far, listen._BACKLOG, 1)
        assert seconds_for_status(airtapd) < 2
        wait_for(lambda: len(airtapd.settled_fds()) <= before, 5, "the descriptors to go")


CLUNG = """
import socket, sys
def connect():
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.connect(sys.argv[1])
    return peer

held = [connect() for _ in range(128)]
for peer in held:
    socket.send_fds(peer, [b"x"], [0])
for peer in held:
    try:
        while True:
            peer.send(b"x")
    except OSError:  # airtapd hears no more
        peer.close()

def is_refused():
    held.append(connect())
    try:
        held[-1].send(b"x")
    except OSError:  # and airtapd has hung up by now
        pass
    return b"busy" in held[-1].recv(4096)

print(sum(is_refused() for _ in range(128)), flush=True)
"""


def test_a_connection_keeps_its_place_until_they_are_closed() -> None:
    """Else who sends them has any number of connections. One that closes takes a minute here."""
    slow = Function("lambda kept: airtap.kernel.threads.threading.Event().wait(60)")
    constants = {**BEFORE_LINUX_6_16, "kernel.threads._close_all_but": slow}
    with Airtapd(constants=constants) as airtapd, stranger(CLUNG, airtapd.socket) as process:
        assert int(says(process)) == 128


def test_nor_do_threads_that_close_wait_for_what_others_close(
    far: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine, where the first ends before the second has closed its copies."""
    delays, close = [1.0, 0.1], threads._close_all_but

    def close_late(kept: Sequence[int]) -> None:
        time.sleep(delays.pop())
        close(kept)

    async def close_two() -> None:
        copying = asyncio.Lock()
        async with asyncio.timeout(10):
            await asyncio.gather(
                *[threads.close_by_ending([lingers(far)], copying) for _ in range(2)]
            )

    monkeypatch.setattr(threads, "_close_all_but", close_late)
    asyncio.run(close_two())
    assert not delays


LISTEN = f"""
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv("{BIN}/airtapd", ["airtapd", "--config", sys.argv[2]])
"""


def test_nor_do_those_of_before_the_start(lan: Lan, far: socket.socket) -> None:
    """systemd before 258 does not refuse them."""
    airtapd = Airtapd()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(airtapd.socket)
        os.chmod(airtapd.socket, 0o666)
        listener.listen(64)
        lingering(airtapd.socket, far, 20, 1)
        daemon = subprocess.Popen(
            [sys.executable, "-c", LISTEN, str(listener.fileno()), str(airtapd.config)],
            pass_fds=[listener.fileno()],
            env={**os.environ, "LISTEN_FDS": "1"},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert seconds_for_status(airtapd) < 15  # with the start
            assert seconds_for_status(airtapd) < 2
            held = Path(f"/proc/{daemon.pid}/fd")
            wait_for(lambda: len(list(held.iterdir())) < 40, 5, "the descriptors to go")
        finally:
            daemon.terminate()
            assert daemon.wait(10) == 0

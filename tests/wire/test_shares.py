"""What one user does to airtapd, and what others have of it meanwhile."""

import ctypes
import os
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest

from lab.airtap import Airtapd, Function
from lab.lan import Lan, wait_for
from lab.links import guest_devices, wait_gone
from lab.sandbox import command
from tests.wire.strangers import STRANGER, peak_mib, says, seconds_for_status, stranger

# PR_SET_MM_MAP needs no right: where the command line is, a process says itself.
LONG_COMMAND_LINE = """
import ctypes, mmap, os, socket, struct, sys
size = 1 << 30
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
stat = open("/proc/self/stat").read().rpartition(")")[2].split()
field = lambda number: int(stat[number - 3])
words = [field(n) for n in (26, 27, 45, 46, 47)]
libc = ctypes.CDLL(None, use_errno=True)
brk = libc.sbrk
brk.restype = ctypes.c_void_p
words += [brk(0), field(28), start, start + size, start, start + size]
layout = struct.pack("11QQIi", *words, 0, 0, -1)
if libc.prctl(35, 14, layout, len(layout), 0):
    sys.exit(os.strerror(ctypes.get_errno()))
if os.fork() == 0:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(sys.argv[1])
        peer.send(b'{"op": "attach", "br": "%s", "vnet_hdr": true}' % sys.argv[2].encode())
        print("asked", flush=True)
        print(peer.recv(4096)[:11].decode(), flush=True)
    os._exit(0)
os.wait()
"""


def test_a_long_command_line_is_not_read(lan: Lan, airtapd: Airtapd) -> None:
    with stranger(LONG_COMMAND_LINE, airtapd.socket, lan.near) as process:
        assert says(process) == "asked"
        assert seconds_for_status(airtapd) < 2
        assert says(process) == '{"ok": true'
    assert peak_mib(airtapd.pid) < 100


FLOOD = """
import socket, sys, threading
path, request = sys.argv[1:]

def flood():
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
                peer.connect(path)
                while request:
                    peer.send(request.encode())
                    while not peer.recv(16384).startswith(b'{"ok"'):
                        pass
        except OSError:
            pass

for _ in range(31):
    threading.Thread(target=flood, daemon=True).start()
print("floods", flush=True)
flood()
"""
FLOODS = (
    '{"op": "status"}',
    '{"op": "trace", "guest": "nobody"}',
    '{"op": "attach", "br": "nothing", "vnet_hdr": true}',
    '{"op": "attach", "br": "up0", "vnet_hdr": true}',  # whose device goes at once
    "{}",
    "",  # connects, and asks for nothing
)


@contextmanager
def flood(airtapd: Airtapd, asked: str) -> Iterator[None]:
    """A stranger's, on 128 connections."""
    with ExitStack() as strangers:
        for _ in range(4):
            process = strangers.enter_context(stranger(FLOOD, airtapd.socket, asked))
            assert says(process) == "floods"
        yield


@pytest.fixture
def large_host(tmp_path: Path) -> Iterator[None]:
    """150 devices more. They go all at once, as a group, which takes less time."""
    batch = tmp_path / "devices"
    pairs = [f"link add many{n} group 77 type veth peer name more{n}\n" for n in range(75)]
    batch.write_text("".join(pairs))
    command("ip", "-batch", str(batch))
    yield
    command("ip", "link", "delete", "group", "77")


@pytest.mark.parametrize("asked", FLOODS)
def test_a_flood_delays_others_little(lan: Lan, large_host: None, asked: str) -> None:
    with Airtapd() as airtapd:
        airtapd.attach(lan.near).close()
        idle = sorted(answered(airtapd) for _ in range(15))
        with flood(airtapd, asked):
            if asked:
                wait_for(lambda: len(airtapd.fds()) > 128, 10, "all to be connected")
            flooded = sorted(answered(airtapd) for _ in range(15))
            airtapd.attach(lan.near).close()
        assert flooded[7] < 5 * idle[7], (idle, flooded)
        assert peak_mib(airtapd.pid) < 100


def answered(airtapd: Airtapd) -> float:
    """How long airtapd is at work until another user knows the status.

    Who asks is before all others at a processor: the flood is for airtapd to bear.
    """
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        start = at_work(airtapd)
        airtapd.status()
        return at_work(airtapd) - start
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def at_work(airtapd: Airtapd) -> float:
    # Documentation/scheduler/sched-stats.rst: the main thread's time on a processor, in ns
    return int(Path(f"/proc/{airtapd.pid}/schedstat").read_text().split()[0]) / 1e9


def test_nor_does_it_the_first_attach_where_programs_are_loaded(lan: Lan, large_host: None) -> None:
    config = f"[parents.{lan.near}]\nmacnat = 'on'\n"
    with Airtapd(config=config) as airtapd, flood(airtapd, FLOODS[0]):
        start = time.monotonic()
        airtapd.tap(lan.near).close()
        assert time.monotonic() - start < 5


@contextmanager
def never_opened(directory: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A file that is the stranger's alone, on a file system that answers nobody.

    With it comes that one's server: who waits for the file has an error once it is closed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    (mountpoint := directory / "slow").mkdir(parents=True)
    directory.chmod(0o700)
    os.chown(directory, STRANGER, STRANGER)
    with open("/dev/fuse", "r+b", buffering=0) as server:
        options = f"fd={server.fileno()},rootmode=40000,user_id=0,group_id=0,allow_other"
        if libc.mount(b"slow", bytes(mountpoint), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "mount")
        try:
            yield mountpoint / "include", server
        finally:
            server.close()
            command("umount", "--lazy", str(mountpoint))


ATTACH = '{"op": "attach", "br": "up0", "vnet_hdr": true}'
ASKS = """
import socket, sys
peers = []
for request in sys.argv[2:]:
    peers.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    peers[-1].connect(sys.argv[1])
    peers[-1].send(request.encode())
print("asked", flush=True)
for peer in peers:
    print(peer.recv(4096)[:11].decode(), flush=True)
"""


def test_a_file_that_never_opens_keeps_its_user_waiting_alone(lan: Lan, airtapd: Airtapd) -> None:
    """Its user's requests come one after the other, those of others at once."""
    with never_opened(airtapd.directory / "own") as (include, server):
        airtapd.acl.write_text(f"include {include}\nallow up0\n")
        with stranger(ASKS, airtapd.socket, ATTACH, ATTACH) as process:
            assert says(process) == "asked"
            assert seconds_for_status(airtapd) < 2
            airtapd.attach(lan.near).close()
            assert process.stdout and not select.select([process.stdout], [], [], 1)[0]
            server.close()
            assert says(process) == says(process) == '{"ok": true'


def test_requests_have_their_time_between_removals(lan: Lan) -> None:
    """A removal, which the event loop waits for, takes half a second here."""
    sleep = "what == 'del link' and airtap.daemon.registry.time.sleep(0.5)"
    slow = f"(lambda f: lambda what: ({sleep}, f(what))[1])(airtap.kernel.links.link_errors)"
    with Airtapd(constants={"kernel.links.link_errors": Function(slow)}) as airtapd:
        ended = [airtapd.attach(lan.near) for _ in range(6)]
        names = [tap.device for tap in ended]
        for tap in ended:
            tap.close()
        wait_for(lambda: len(guest_devices()) < len(ended), 10, "the first to go")
        airtapd.attach(lan.near).close()
        assert len(guest_devices()) > 3
        for name in names:
            wait_gone(name)


def test_guests_that_have_ended_take_nobodys_place(lan: Lan) -> None:
    """A removal counts for a hundred times as long here, so the next one waits for seconds."""
    clock = "lambda: 100 * __import__('time').monotonic()"
    slow = Function(f"__import__('types').SimpleNamespace(monotonic={clock})")
    config = "[limits]\ndevices_per_user = 4\n"
    with Airtapd(config=config, constants={"daemon.registry.time": slow}) as airtapd:
        for _ in range(2):
            for tap in [airtapd.attach(lan.near) for _ in range(4)]:
                tap.close()
        wait_for(lambda: not guest_devices(), 60, "the devices to go")

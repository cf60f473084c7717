"""What one user does to airtapd, and what others have of it meanwhile."""

import time
from collections.abc import Iterator

import pytest

from lab.airtap import Airtapd
from lab.lan import Lan
from lab.sandbox import command
from tests.wire.strangers import peak_mib, says, seconds_for_status, stranger

# PR_SET_MM_MAP needs no right: where the command line is, a process says itself.
LONG_COMMAND_LINE = """
import ctypes, mmap, os, socket, struct, sys
size = 1 << 30
memory = mmap.mmap(-1, size)
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
import os, socket, sys, threading
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

for _ in range(3):
    if os.fork() == 0:
        break
for _ in range(31):
    threading.Thread(target=flood, daemon=True).start()
print("floods", flush=True)
flood()
"""
FLOODS = {
    "status": '{"op": "status"}',
    "trace": '{"op": "trace", "guest": "nobody"}',
    "attach": '{"op": "attach", "br": "nothing", "vnet_hdr": true}',
    "nonsense": "{}",
    "connections": "",
}


@pytest.fixture
def large_host() -> Iterator[None]:
    """150 devices more."""
    for number in range(75):
        command("ip", "link", "add", f"many{number}", "type", "veth", "peer", f"more{number}")
    yield
    for number in range(75):
        command("ip", "link", "delete", f"many{number}")


@pytest.mark.parametrize("request_", FLOODS.values(), ids=FLOODS)
def test_a_flood_delays_others_little(lan: Lan, large_host: None, request_: str) -> None:
    """Of time on a processor, as others are busy there too: the flood itself, for one."""
    with Airtapd(config="[parents.up0]\nmacnat = 'on'\n") as airtapd:
        served(airtapd, lan)
        idle = min(served(airtapd, lan) for _ in range(5))
        with stranger(FLOOD, airtapd.socket, request_) as process:
            assert says(process) == "floods"
            time.sleep(1)
            flooded = sorted(served(airtapd, lan) for _ in range(5))
        print(idle, flooded)
        assert flooded[2] < 5 * max(idle, 0.01), (idle, flooded)
        assert peak_mib(airtapd.pid) < 100


def served(airtapd: Airtapd, lan: Lan) -> float:
    """How long airtapd is at work until another user's attach and status are answered."""
    start = at_work(airtapd)
    with airtapd.tap(lan.near):
        airtapd.status()
    return at_work(airtapd) - start


def at_work(airtapd: Airtapd) -> float:
    # Documentation/scheduler/sched-stats.rst: the main thread's time on a processor
    with open(f"/proc/{airtapd.pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9

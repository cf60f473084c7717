"""Peers of the daemon's socket that send garbage, stall, vanish or come in crowds."""

import contextlib
import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airtap import __version__
from airtap.errors import Problem
from airtap.ipc import protocol
from lab.airtap import IMPATIENT, Airtapd, run_helper
from lab.lan import Lan, wait_for
from lab.links import guest_devices
from lab.sandbox import dying_with_us
from lab.users import connected_as

Json = dict[str, Any]


@pytest.fixture
def bare() -> Iterator[Airtapd]:
    """A daemon without a LAN."""
    with Airtapd() as daemon:
        yield daemon


@contextlib.contextmanager
def connected(airtapd: Airtapd, timeout: float = 5) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(airtapd.socket)  # before the time-out, with which a full backlog is an error
        peer.settimeout(timeout)
        yield peer


def ask(peer: socket.socket, request: bytes) -> Json:
    peer.send(request)
    answer: Json = json.loads(peer.recv(65536))
    return answer


@pytest.mark.parametrize(
    "request_",
    [
        b"x",
        b"\0",
        b"\xff\xfe",
        b"[]",
        b"1",
        b'{"op": 1}',
        b'{"op": "nonsense"}',
        b'{"op": "attach"}',
        b'{"op": "attach", "br": 5, "mac": null, "vnet_hdr": true}',
        b'{"op": "attach", "br": "up0", "mac": [], "vnet_hdr": true}',
        b'{"op": "attach", "br": "up0", "mac": null, "vnet_hdr": 1}',
        b'{"op": "attach", "br": "up0", "mac": null, "vnet_hdr": true, "kind": "x"}',
        b'{"op": "attach", "br": "\\ud800", "mac": null, "vnet_hdr": true}',
        b'{"op": "release"}',
        b'{"op": "release", "device": null}',
        b'{"op": "status", "x": 1}',
        b"[" * 4000,
        b"{" + b" " * 10000 + b"}",
    ],
)
def test_bad_requests_get_an_answer_and_cost_nothing(bare: Airtapd, request_: bytes) -> None:
    with connected(bare) as peer:
        answer = ask(peer, request_)
        assert answer["ok"] is False
        assert answer["message"]
        # The connection is still good for a request that makes sense.
        counts = {"config": str(bare.config), "acl": str(bare.acl)}
        assert ask(peer, b'{"op": "status"}') == {"ok": True, "version": __version__, **counts}
    assert "Traceback" not in bare.log()


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(packet=st.one_of(st.binary(min_size=1, max_size=5000), st.text().map(str.encode)))
def test_any_bytes_at_all(bare: Airtapd, packet: bytes) -> None:
    if packet:
        with connected(bare) as peer:
            assert ask(peer, packet)["ok"] is asks_for_the_status(packet)


def asks_for_the_status(packet: bytes) -> bool:
    """Hypothesis finds such a packet in this very file."""
    try:
        return protocol.decode(packet) == {"op": "status"}
    except Problem:
        return False


def test_descriptors_sent_to_the_daemon_are_refused(bare: Airtapd) -> None:
    """By the kernel since 6.16, else by hanging up."""
    before = bare.settled_fds()
    for _ in range(10):
        with connected(bare) as peer, open("/dev/null") as null:
            try:
                socket.send_fds(peer, [b'{"op": "status"}'], [null.fileno()] * 10)
            except PermissionError:
                assert ask(peer, b'{"op": "status"}')["ok"]
            else:
                assert peer.recv(4096) == b""
    wait_for(lambda: bare.fds() == before, 3, "the daemon to hold what it held")


def test_empty_packet_is_the_end(bare: Airtapd) -> None:
    with connected(bare) as peer:
        peer.send(b"")
        assert peer.recv(4096) == b""


def test_one_that_stalls_is_dropped_and_blocks_nobody(bare: Airtapd) -> None:
    with connected(bare, timeout=15) as stalled:
        start = time.monotonic()
        assert bare.status()["uplinks"] == []
        assert time.monotonic() - start < 2
        assert stalled.recv(4096) == b""
        assert 5 < time.monotonic() - start < 14


def test_one_that_reads_nothing_is_dropped(lan: Lan) -> None:
    """More status packets than its socket holds, and it does not take them."""
    config = '[parents.up0]\nmode = "bridge"\n'
    with Airtapd(config=config, constants=IMPATIENT) as airtapd:
        before = airtapd.settled_fds()
        with connected(airtapd) as peer:
            with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
                peer.settimeout(0.5)
                for _ in range(5000):
                    peer.send(b'{"op": "status"}')
            assert airtapd.status()["uplinks"]
            wait_for(lambda: airtapd.fds() == before, 5, "the daemon to drop it")
        assert "Traceback" not in airtapd.log()


CROWD = """
import socket, sys, time
held = []
refused = 0
for _ in range(600):
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.connect(sys.argv[1])
    held.append(peer)
time.sleep(0.5)
for peer in held:
    peer.setblocking(False)
    try:
        refused += b"busy" in peer.recv(4096)
    except BlockingIOError:
        pass
print(refused, flush=True)
sys.stdin.read()
"""


def test_a_crowd_of_one_user_leaves_room_for_others(lan: Lan, airtapd: Airtapd) -> None:
    crowd = subprocess.Popen(
        dying_with_us(["/usr/bin/python3", "-c", CROWD, airtapd.socket]),
        user=10001,
        group=10001,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert crowd.stdout
    refused = int(crowd.stdout.readline())
    assert refused == 600 - 128
    mine = run_helper([f"--br={lan.near}"], env=airtapd.env, uid=10001)
    assert mine.status == 1
    assert "too many connections" in mine.stderr
    airtapd.attach(lan.near, uid=10002).close()
    crowd.communicate("")
    airtapd.settled_fds()
    wait_for(lambda: not guest_devices(), 5, "the device to go")
    airtapd.attach(lan.near, uid=10001).close()


def test_connections_of_all_users_leave_room_for_root() -> None:
    """512 are users' in all, and 64 more root's."""
    with Airtapd(constants={"daemon.server.IDLE_S": 600.0}) as airtapd, ExitStack() as held:

        def holds(uid: int, number: int) -> bool:
            """Have a user connect so often. Returns whether the last one was let in."""
            peers = [held.enter_context(connected_as(uid, airtapd.socket)) for _ in range(number)]
            try:
                peers[-1].send(b"x")
                return b"bad-message" in peers[-1].recv(1 << 14)
            except ConnectionError:
                return False

        for uid in 10001, 10002, 10003, 10004:
            assert holds(uid, 128)
        for uid in 10004, 10005:
            assert not holds(uid, 1)
        assert holds(0, 64)
        assert not holds(0, 1)
        held.pop_all().close()
        wait_for(lambda: holds(10005, 1), 20, "room again")


def test_peers_that_vanish_in_the_middle(lan: Lan, airtapd: Airtapd) -> None:
    before = airtapd.settled_fds()
    attach = b'{"op": "attach", "br": "up0", "mac": null, "vnet_hdr": true}'
    for delay in [0, 0, 0.001, 0.002, 0.003, 0.005] * 5:
        with connected(airtapd) as peer:
            peer.send(attach)
            time.sleep(delay)
    wait_for(lambda: not guest_devices(), 5, "their devices to go")
    wait_for(lambda: airtapd.fds() == before, 5, "their connections to go")
    assert airtapd.guests() == []
    assert "Traceback" not in airtapd.log()


def test_many_requests_on_one_connection(lan: Lan, airtapd: Airtapd) -> None:
    with connected(airtapd) as peer:
        for _ in range(5):
            peer.send(b'{"op": "attach", "br": "up0", "mac": null, "vnet_hdr": true}')
            answer, fds, _flags, _from = socket.recv_fds(peer, 4096, 4)
            assert json.loads(answer)["ok"] is True
            assert len(fds) == 1
            os.close(fds[0])


def test_daemon_that_dies_between_request_and_answer(lan: Lan, airtapd: Airtapd) -> None:
    """Stopped by SIGSTOP with the request in its socket, then killed."""
    os.kill(airtapd.pid, 19)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {airtapd.pid}"])
    result = run_helper([f"--br={lan.near}"], env=airtapd.env)
    killer.wait()
    airtapd.kill()
    assert (result.status, result.fd) == (1, -1)
    assert "ended the connection before it answered" in result.stderr


def test_reload_takes_a_good_configuration_and_leaves_a_bad_one(lan: Lan) -> None:
    with Airtapd() as airtapd:
        airtapd.config.write_text("nonsense = 1\n")
        os.kill(airtapd.pid, 1)
        wait_for(lambda: "stays as it was" in airtapd.log(), 3, "the reload")
        airtapd.attach(lan.near).close()
        airtapd.config.write_text('acl = "/nonexistent/bridge.conf"\n')
        os.kill(airtapd.pid, 1)
        wait_for(lambda: "is read again" in airtapd.log(), 3, "the reload")
        refused = run_helper([f"--br={lan.near}"], env=airtapd.env)
        assert "/nonexistent/bridge.conf does not exist" in refused.stderr


@pytest.mark.parametrize(
    ("config", "said"),
    [("kidn = 1\n", "unknown key kidn"), ("[parents.x\n", "is not TOML")],
)
def test_daemon_says_what_is_wrong_with_its_configuration(config: str, said: str) -> None:
    airtapd = Airtapd(config=config)
    with pytest.raises(RuntimeError, match=said):
        airtapd.start()
    assert airtapd.stop() == 1


def test_second_daemon_on_one_socket_is_refused(bare: Airtapd) -> None:
    second = Airtapd()
    second.socket = bare.socket
    with pytest.raises(RuntimeError, match="answers at"):
        second.start()
    assert bare.status()["uplinks"] == []


def test_stale_socket_is_replaced(bare: Airtapd) -> None:
    bare.kill()
    assert os.path.exists(bare.socket)
    bare.start()
    assert bare.stop() == 0
    assert not os.path.exists(bare.socket)
    bare.start()


def test_random_interleaving_of_everything(lan: Lan, airtapd: Airtapd) -> None:
    """Attach, drop, garbage, release and status in any order on many connections."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    before = airtapd.settled_fds()
    attach = b'{"op": "attach", "br": "up0", "mac": null, "vnet_hdr": false}'
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connected(airtapd)) for _ in range(8)]
        taps: list[int] = []
        for _ in range(200):
            peer = chance.choice(peers)
            match chance.choice(["attach", "drop", "garbage", "release", "status"]):
                case "attach":
                    peer.send(attach)
                    _, fds, _, _ = socket.recv_fds(peer, 4096, 4)
                    taps += fds
                case "drop" if taps:
                    os.close(taps.pop(chance.randrange(len(taps))))
                case "garbage":
                    assert ask(peer, chance.randbytes(20))["ok"] is False
                case "release":
                    name = chance.choice(sorted(guest_devices()) or ["none"])
                    peer.send(json.dumps({"op": "release", "device": name}).encode())
                    peer.recv(4096)
                case "status":
                    peer.send(b'{"op": "status"}')
                    while "ok" not in json.loads(peer.recv(65536)):
                        pass
        for tap in taps:
            os.close(tap)
    wait_for(lambda: not guest_devices(), 5, "all devices to go")
    wait_for(lambda: airtapd.fds() == before, 5, "all connections to go")
    assert "Traceback" not in airtapd.log()

"""What a user without any rights may try, and what once went wrong under load or by chance."""

import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import Ether

from lab import sandbox
from lab.airtap import Airtapd, Attached, run_helper
from lab.lan import Lan, wait_for
from lab.links import addresses, guest_devices, link, wait_gone
from lab.sandbox import command, packet_socket
from lab.traffic import collect
from tests.wire.strangers import seconds_for_status, stranger


def close_all(taps: list[Attached]) -> None:
    names = [tap.device for tap in taps]
    for tap in taps:
        tap.close()
    wait_gone(*names)


LOCKS = """
import fcntl, tempfile
with tempfile.TemporaryFile() as file:
    while True:
        for i in range(0, 400, 2):
            fcntl.lockf(file, fcntl.LOCK_EX, 1, i)
        fcntl.lockf(file, fcntl.LOCK_UN)
"""


def test_other_peoples_locks_do_not_cost_guests_their_devices(lan: Lan, airtapd: Airtapd) -> None:
    """/proc/locks, read in pages, skips entries while others come and go."""
    taps = [airtapd.tap(lan.near) for _ in range(60)]
    with stranger(LOCKS), stranger(LOCKS):
        for _ in range(3):
            airtapd.kill()
            airtapd.start()
            assert len(guest_devices()) == 60
    close_all(taps)


def test_attach_after_a_restart_with_many_guests(lan: Lan, airtapd: Airtapd) -> None:
    taps = [airtapd.tap(lan.near) for _ in range(20)]
    airtapd.kill()
    airtapd.start()
    taps.append(airtapd.attach(lan.near))
    assert taps[-1].device == "airtap20"
    close_all(taps)


def test_guests_that_end_while_a_daemon_starts(lan: Lan, airtapd: Airtapd) -> None:
    for _ in range(5):
        taps = [airtapd.tap(lan.near) for _ in range(20)]
        airtapd.kill()
        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(close_slowly, taps)
            airtapd.start()
            ending.result()
        wait_for(lambda: not guest_devices(), 10, "the devices to go")


def close_slowly(taps: list[Attached]) -> None:
    for tap in taps:
        tap.close()
        time.sleep(0.01)


def test_status_at_the_same_time(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near), ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda _: airtapd.airtap("status", check=False), range(20)))
    assert [done.stderr for done in results if done.returncode] == []


def test_limit_is_exact_for_parallel_attaches(lan: Lan) -> None:
    with Airtapd(config="[limits]\ndevices_per_user = 8\n") as airtapd:
        with ThreadPoolExecutor(12) as pool:
            taps = list(
                pool.map(lambda _: run_helper([f"--br={lan.near}"], env=airtapd.env), range(12))
            )
        attached = [tap for tap in taps if tap.status == 0]
        assert len(attached) == 8
        assert all("has 8 guest devices" in tap.stderr for tap in taps if tap.status)
        close_all(attached)


ROUTER_ADVERTISEMENT = (
    IPv6(src="fe80::1", dst="ff02::1", hlim=255)
    / ICMPv6ND_RA()
    / ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=64)
)


def test_no_address_on_a_device_that_nobody_reads(lan: Lan, airtapd: Airtapd) -> None:
    """Router advertisements reach the host's own stack there: the daemon is away."""
    tap = airtapd.attach(lan.near)
    name = tap.device
    airtapd.kill()
    tap.close()
    advert = bytes(Ether(src=lan.far_mac, dst="33:33:00:00:00:01") / ROUTER_ADVERTISEMENT)
    with lan.frames() as router:
        for _ in range(3):
            command("ip", "link", "set", name, "down")
            command("ip", "link", "set", name, "up")
            with packet_socket(None, name) as frames:
                router.send(advert)
                collect(frames, advert.__eq__)
            assert addresses(name) == []
    sysctl = Path("/proc/sys/net/ipv6/conf") / name / "disable_ipv6"
    assert sysctl.read_text() == "1\n"
    answers = lan.run("busybox", "arping", "-c1", "-w1", "-I", lan.far, "192.0.2.10", check=False)
    assert lan.near_mac in answers.stdout.lower()
    assert link(name)["address"] not in answers.stdout.lower()
    airtapd.start()
    assert guest_devices() == set()


def test_a_hosts_own_frame_is_not_the_guests(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near) as tap:
        own = link(tap.device)["address"]
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
            host.bind((tap.device, 0))
            host.send(b"\xff" * 6 + bytes.fromhex(own.replace(":", "")) + b"\x88\xb5" + bytes(46))
        time.sleep(0.5)
        assert [guest["mac"] for guest in airtapd.guests()] == [None]


def test_deny_by_any_name_holds(lan: Lan) -> None:
    command("ip", "link", "property", "add", "dev", lan.near, "altname", "lan-port")
    with Airtapd(acl="allow all\ndeny lan-port\n") as airtapd:
        for br in (lan.near, "lan-port"):
            refused = run_helper([f"--br={br}"], env=airtapd.env)
            assert "access denied" in refused.stderr


def test_a_file_in_the_place_of_the_socket_stays(lan: Lan) -> None:
    airtapd = Airtapd()
    Path(airtapd.socket).write_text("precious")
    with pytest.raises(RuntimeError, match="no socket"):
        airtapd.start()
    assert Path(airtapd.socket).read_text() == "precious"


CONNECTS = """
import socket, sys
while True:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(sys.argv[1])
"""


def test_a_flood_of_connections_lets_others_in(airtapd: Airtapd) -> None:
    with stranger(CONNECTS, airtapd.socket), stranger(CONNECTS, airtapd.socket):
        time.sleep(0.5)
        assert max(seconds_for_status(airtapd) for _ in range(3)) < 10


NONSENSE = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
    peer.connect(sys.argv[1])
    for _ in range(2000):
        peer.send(b'{"op": "nonsense"}')
        peer.recv(4096)
"""


def test_refusals_do_not_fill_the_log(airtapd: Airtapd) -> None:
    with stranger(NONSENSE, airtapd.socket) as process:
        assert process.wait(60) == 0
    assert airtapd.log().count("refused") <= 61  # two minutes' worth, if one began meanwhile
    airtapd.airtap("release", "nothing0", uid=10001, check=False)
    assert "user 10001, pid" in airtapd.log(), "nor does one user's log use up another's"


def test_persistent_tap_is_removed_at_the_next_start(airtapd: Airtapd) -> None:
    command("ip", "link", "add", "br7", "up", "type", "bridge")
    try:
        with airtapd.attach("br7") as tap:
            name = tap.device
            persist(tap.fd)
        assert name in sandbox.host_links()
        airtapd.kill()
        airtapd.start()
        assert name not in sandbox.host_links()
    finally:
        command("ip", "link", "delete", "br7")


def persist(fd: int) -> None:
    from fcntl import ioctl

    ioctl(fd, 0x400454CB, 1)  # TUNSETPERSIST


def test_acl_include_of_a_user_cannot_take_much_memory(lan: Lan, airtapd: Airtapd) -> None:
    include = airtapd.directory / "large"
    include.write_text("".join(f"allow x{n}\n" for n in range(1_000_000)))
    include.chmod(0o644)
    airtapd.acl.write_text(f"include {include}\nallow all\n")
    refused = run_helper([f"--br={lan.near}"], env=airtapd.env)
    assert refused.status == 1
    assert "262144 bytes" in refused.stderr


def test_peer_struct_is_the_kernels() -> None:
    """SO_PEERCRED's layout, as kernel/credentials.py unpacks it."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        raw = near.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
        assert struct.unpack("iII", raw) == (os.getpid(), 0, 0)

"""Who asks, and what they hold: what the kernel says counts, and one device is one device."""

import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from lab.airtap import Airtapd, Attached, run_helper
from lab.lan import Lan
from lab.links import guest_devices, link, wait_gone
from lab.sandbox import command, host_links
from lab.users import acting_as, connected_as
from tests.wire.strangers import says, stranger

USER, NEIGHBOUR = 10001, 10002
MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
UUID = "0c0ffee0-0000-4000-8000-000000000001"
ATTACH: dict[str, object] = {"op": "attach", "br": "up0", "vnet_hdr": True}
CREATE: dict[str, object] = {
    **{"op": "create-device", "device": "airtap-0badcafe", "mac": MAC, "uuid": UUID},
    **{"domain": "web", "parent": "up0", "kind": "macvtap"},
}
# linux/if_tun.h, linux/sockios.h, linux/rtnetlink.h
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_TUNSETQUEUE, _IFF_ATTACH_QUEUE, _IFF_MULTI_QUEUE = 0x400454D9, 0x0200, 0x0100
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SIOCSIFHWADDR = 0x8924
_RTMGRP_LINK = 1
MARKS = ("ifname", "ifalias", "group")


def ask(peer: socket.socket, request: dict[str, object]) -> dict[str, Any]:
    peer.send(json.dumps(request).encode())
    answer: dict[str, Any] = json.loads(peer.recv(1 << 14))
    return answer


ROOT_INSIDE = """
import ctypes, json, os, socket, sys
uid, gid = os.getuid(), os.getgid()
assert ctypes.CDLL(None).unshare(0x10000000) == 0  # CLONE_NEWUSER
for name, text in ("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1"):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
assert (os.getuid(), os.getgid()) == (0, 0)
for request in json.loads(sys.argv[2]):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(sys.argv[1])
        peer.send(json.dumps(request).encode())
        print(json.loads(peer.recv(1 << 14))["problem"], flush=True)
"""


def test_root_of_a_users_own_namespace_is_that_user(lan: Lan, airtapd: Airtapd) -> None:
    airtapd.acl.chmod(0o600)
    with airtapd.attach(lan.near, uid=0) as others:
        release = {"op": "release", "device": others.device}
        requests = [ATTACH, CREATE, {**ATTACH, "kind": "macvtap"}, release]
        with stranger(ROOT_INSIDE, airtapd.socket, json.dumps(requests)) as process:
            refused = [says(process) for _ in requests]
        assert refused == ["acl-unreadable", *["access-denied"] * 3]
        assert guest_devices() == {others.device}


def test_who_connected_counts_not_who_sends(lan: Lan, airtapd: Airtapd) -> None:
    """A connection may be passed on, and a message may say what it likes."""
    with connected_as(USER, airtapd.socket) as peer:
        assert ask(peer, CREATE)["problem"] == "access-denied"
        for name, value in ("uid", 0), ("pid", 1), ("groups", [0]), ("peer", {"uid": 0}):
            assert ask(peer, {**ATTACH, name: value})["problem"] == "bad-message"
        credentials = struct.pack("3i", os.getpid(), 0, 0)
        beside = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)]
        peer.sendmsg([json.dumps(CREATE).encode()], beside)
        assert json.loads(peer.recv(1 << 14))["problem"] == "access-denied"
    assert host_links() == {"lo", lan.near}


@pytest.mark.parametrize("position", [0, 299])
def test_a_user_of_many_groups(lan: Lan, airtapd: Airtapd, position: int) -> None:
    """More than Python's getsockopt() has room for; each of them counts, and no other."""
    groups = [20_000 + number for number in range(300)]
    include = airtapd.directory / "for-a-group"
    include.write_text("allow up0\n")
    include.chmod(0o640)
    airtapd.acl.write_text(f"include {include}\n")
    for group, allowed in (groups[position], True), (20_300, False), (0, False):
        os.chown(include, 0, group)
        with run_helper([f"--br={lan.near}"], env=airtapd.env, groups=groups) as tap:
            assert (tap.status == 0) is allowed, tap.stderr


@pytest.mark.parametrize("uid", [0, USER])
def test_a_refusal_touches_nothing(lan: Lan, uid: int) -> None:
    """Nothing is made, opened or brought up, not for a moment."""
    command("ip", "link", "set", lan.near, "down")
    with Airtapd(acl="allow all\ndeny up0\n") as airtapd:
        before = airtapd.settled_fds()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as changes:
            changes.bind((0, _RTMGRP_LINK))
            changes.setblocking(False)
            refused = run_helper([f"--br={lan.near}"], env=airtapd.env, uid=uid)
            assert (refused.status, refused.fd) == (1, -1)
            assert "access denied" in refused.stderr
            with pytest.raises(BlockingIOError):
                changes.recv(1 << 16)
        assert airtapd.settled_fds() == before
    assert "UP" not in link(lan.near)["flags"]


@contextmanager
def tun() -> Iterator[int]:
    """What anybody may open where udev gives /dev/net/tun its usual mode."""
    with acting_as(0):
        fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def set_iff(fd: int, name: str, flags: int) -> None:
    ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))


@pytest.mark.parametrize("bridge", [None, "br0"], ids=["macvtap", "tap"])
def test_the_holder_of_a_tap_gets_no_other(bridge: str | None) -> None:
    """Neither one more of the same device, nor one of another's."""
    with Lan(bridge=bridge) as lan, Airtapd() as airtapd:
        with airtapd.attach(lan.uplink, uid=USER) as own, airtapd.attach(lan.uplink) as another:
            names = own.device, another.device
            with acting_as(USER):
                for tap in own, another:
                    open_again(tap)
                for flags in _IFF_ATTACH_QUEUE, _IFF_ATTACH_QUEUE | _IFF_MULTI_QUEUE:
                    with pytest.raises(OSError):
                        ioctl(own.fd, _TUNSETQUEUE, struct.pack("16sH22x", b"", flags))
            assert (own.device, another.device) == names
        wait_gone(*names)


def open_again(tap: Attached) -> None:
    """Try all ways by which one who does not hold it could open a tap once more."""
    if tap.device.startswith("airtap"):
        for node in f"/dev/tap{link_index(tap.device)}", f"/proc/self/fd/{tap.fd}":
            with pytest.raises(PermissionError):
                os.open(node, os.O_RDWR)
        return
    for flags in 0, _IFF_MULTI_QUEUE:
        with tun() as fd, pytest.raises(OSError):
            set_iff(fd, tap.device, _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | flags)


def link_index(name: str) -> int:
    return int(Path(f"/sys/class/net/{name}/ifindex").read_text())


def test_marks_are_not_their_owners(lan: Lan, airtapd: Airtapd) -> None:
    """By alias and link group airtapd knows whose a device is."""
    with airtapd.attach(lan.near, MAC, uid=USER) as own:
        before = link(own.device)
        for words in ("alias", "airtap uid=0 pid=1"), ("group", "default"), ("name", "mine"):
            argv = ["ip", "link", "set", own.device, *words]
            done = subprocess.run(argv, user=USER, group=USER, extra_groups=[], capture_output=True)
            assert b"not permitted" in done.stderr
        after = link(own.device)
        assert [after[what] for what in MARKS] == [before[what] for what in MARKS]


def test_a_macvtap_takes_no_mac_of_its_parent_or_sibling(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near, MAC) as own, airtapd.attach(lan.near, OTHER_MAC):
        for mac, taken in (lan.near_mac, False), (OTHER_MAC, False), ("52:54:00:00:00:09", True):
            octets = bytes.fromhex(mac.replace(":", ""))
            request = struct.pack("16sH6s16x", b"", 1, octets)
            try:
                ioctl(own.fd, _SIOCSIFHWADDR, request)
            except OSError:
                assert not taken
            assert (link(own.device)["address"] == mac) is taken


def test_a_persistent_tap() -> None:
    """It counts towards the limits, its owner may open it again, and its end is a release."""
    command("ip", "link", "add", "br7", "up", "type", "bridge")
    try:
        with Airtapd(config="[limits]\ndevices_per_user = 1\n") as airtapd:
            with airtapd.attach("br7", uid=USER) as tap:
                name = tap.device
                ioctl(tap.fd, _TUNSETPERSIST, 1)
                ioctl(tap.fd, _TUNSETOWNER, USER)
            airtapd.acl.write_text("deny all\n")
            with acting_as(USER), tun() as fd:
                set_iff(fd, name, _IFF_TAP | _IFF_NO_PI)
            with acting_as(NEIGHBOUR), tun() as fd, pytest.raises(PermissionError):
                set_iff(fd, name, _IFF_TAP | _IFF_NO_PI)
            airtapd.acl.write_text("allow all\n")
            refused = run_helper(["--br=br7"], env=airtapd.env, uid=USER)
            assert f"user {USER} has 1 guest devices" in refused.stderr
            airtapd.airtap("release", name, uid=USER)
            assert name not in host_links()
            airtapd.attach("br7", uid=USER).close()
    finally:
        command("ip", "link", "delete", "br7")

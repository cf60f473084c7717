"""What apt has installed, looked at and used under a real systemd."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from airtap.kernel.links import GROUP
from lab.airtap import run_helper
from lab.debian import System
from tests.install.conftest import HOOKS, USER, attach, complaints, run_hook, uplink

# linux/capability.h: SETGID, SETUID, NET_ADMIN, NET_RAW, PERFMON, BPF
CAPABILITIES = (6, 7, 12, 13, 38, 39)
PROGRAMS = ("airtap", "airtapd", "airtap-bridge-helper")
# What QEMU does with the helper; then its process id, and its own guests.
QEMU = """
import os, socket, subprocess
near, far = socket.socketpair()
helper = ["airtap-bridge-helper", "--br=br7", f"--fd={far.fileno()}"]
subprocess.run(helper, pass_fds=[far.fileno()], check=True)
_data, tap, *_rest = socket.recv_fds(near, 1, 1)
status = subprocess.run(["airtap", "status", "--json"], check=True, capture_output=True, text=True)
print(os.getpid())
print(" ".join(status.stdout.split()))
"""


@pytest.fixture(scope="module")
def system(suite: str, package: Path) -> Iterator[System]:
    """A Debian with airtap."""
    with System(suite) as system:
        system.install(package)
        yield system


def test_what_is_installed(system: System) -> None:
    """Programs, pages, completions, units and hooks are where their readers look."""
    for program in PROGRAMS:
        assert program in system.run(program, "--help", uid=USER).stdout
        system.run("man", "--where", program)
    system.run("man", "--where", "5", "airtap.toml")
    for path in (
        "/usr/share/bash-completion/completions/airtap",
        "/usr/share/zsh/vendor-completions/_airtap",
        "/usr/share/fish/vendor_completions.d/airtap.fish",
        "/usr/share/airtap/xml-templates/network-macvtap.xml",
        "/usr/lib/airtap/airtap/bpf/macnat.bpf.o",
    ):
        system.run("test", "-s", path)
    units = ("airtapd.service", "airtapd.socket")
    assert system.run("systemd-analyze", "verify", *units).stderr == ""
    report = system.run("systemd-analyze", "security", "airtapd.service", "--no-pager").stdout
    assert float(report.rpartition("airtapd.service: ")[2].split()[0]) <= 2.0
    for program in ("airtapd", "airtap-bridge-helper"):
        profile = f"/etc/apparmor.d/usr.bin.{program}"
        system.run("apparmor_parser", "--skip-kernel-load", "--skip-cache", profile)
    for name in HOOKS:
        run_hook(system, name)


def test_what_the_unit_leaves_airtapd(system: System) -> None:
    """The few capabilities of its bounding set, and bounds of its memory and threads."""
    names = ("MainPID", "MemoryMax", "TasksMax")
    words = ["systemctl", "show", f"--property={','.join(names)}", "airtapd.service"]
    shown = dict(line.split("=") for line in system.run(*words).stdout.split())
    assert (shown["MemoryMax"], shown["TasksMax"]) == (str(512 << 20), "640")
    lines = system.run("cat", f"/proc/{shown['MainPID']}/status").stdout.splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["NoNewPrivs"] == "1"
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[name], 16) == sum(1 << number for number in CAPABILITIES)


def test_others_leave_our_devices_alone(system: System) -> None:
    """What systemd-udevd says of a device, which NetworkManager and systemd-networkd go by."""
    device = "/sys/class/net/airtap7"
    system.run(*("ip", "link", "add", "airtap7", "group", str(GROUP), "type", "bridge"))
    try:
        rules = system.run("udevadm", "test", device)
        assert "NM_UNMANAGED=1" in rules.stdout + rules.stderr
        link = system.run("udevadm", "test-builtin", "net_setup_link", device)
        assert "ID_NET_LINK_FILE=/usr/lib/systemd/network/75-airtap.link" in link.stdout
    finally:
        system.run("ip", "link", "delete", "airtap7")


def test_a_bridge_and_a_refusal(system: System) -> None:
    """What else airtapd does under its unit's limits: taps on bridges, includes of one user's."""
    system.run("ip", "link", "add", "br7", "type", "bridge")
    try:
        refused = attach(system, "br7")
        assert refused.status == 1 and "access denied" in refused.stderr
        system.run("tee", "/etc/airtap/user.conf", text="allow br7\n")
        system.run("chown", f"root:{USER}", "/etc/airtap/user.conf")
        system.run("chmod", "640", "/etc/airtap/user.conf")
        system.run("tee", "/etc/airtap/bridge.conf", text="include /etc/airtap/user.conf\n")
        with attach(system, "br7") as tap:
            assert tap.status == 0, tap.stderr
            assert [guest["device"] for guest in uplink(system, "br7")["guests"]] == [tap.device]
        other = run_helper(
            ["--br=br7"], program="/usr/bin/airtap-bridge-helper", prefix=system.prefix(USER + 1)
        )
        assert other.status == 1
        pid, report = system.run("python3", "-c", QEMU, uid=USER).stdout.splitlines()
        [guest] = [g for u in json.loads(report)["uplinks"] for g in u["guests"]]
        assert guest["owner"]["pid"] == int(pid)  # though the unit hides processes
        assert complaints(system) == ""
    finally:
        system.run("ip", "link", "delete", "br7")

"""Installed, upgraded under running guests, removed, purged: by apt, under a real systemd."""

import contextlib
import json
from pathlib import Path
from typing import Any

from airtap.kernel.links import GROUP
from lab.airtap import Attached, run_helper
from lab.debian import System
from lab.lan import ROUTER4, Lan, wait_for
from lab.libvirt import Libvirtd, domain_xml
from lab.pump import PumpGuest
from lab.sandbox import command
from tests.install.conftest import FORMER

MAC = "52:54:00:00:00:01"
BRIDGED_MAC = "52:54:00:00:00:02"
USER = 1000
HOOKS = ("network", "qemu")
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
WRAPPER = """#!/bin/sh
/usr/bin/airtap.real "$@"
echo "ended: $*, $?"
"""
# What dpkg, apt and systemd keep for themselves.
BOOKS = ("/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/var/log", "/var/lib/systemd", "/tmp")


def attach(system: System, br: str, *options: str) -> Attached:
    """Run the helper there as QEMU does, as a user."""
    prefix = system.prefix(USER)
    return run_helper(
        [*options, f"--br={br}"], program="/usr/bin/airtap-bridge-helper", prefix=prefix
    )


def status(system: System) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(system.run("airtap", "status", "--json").stdout)
    return report


def uplink(system: System, name: str) -> dict[str, Any]:
    [found] = [uplink for uplink in status(system)["uplinks"] if uplink["name"] == name]
    return found  # type: ignore[no-any-return]


def main_pid(system: System) -> str:
    return system.run("systemctl", "show", "--property=MainPID", "airtapd").stdout


def allow(system: System, lan: Lan) -> None:
    """Say in /etc/airtap that guests may use the one-MAC wire, as an administrator does."""
    for name, line in (
        ("bridge.conf", f"allow {lan.near}"),
        ("airtap.toml", f'[parents.{lan.near}]\nmacnat = "on"'),
    ):
        system.run("tee", "--append", f"/etc/airtap/{name}", text=line + "\n")
    system.run("systemctl", "reload", "airtapd")


def version(system: System) -> str:
    return system.run("dpkg-query", "--show", "--showformat=${Version}", "airtap").stdout


def journal(system: System, unit: str = "airtapd") -> str:
    return system.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout


def complaints(system: System) -> str:
    """What airtapd has logged of failures; not that users were refused."""
    log = journal(system)
    assert "listens at" in log
    words = ("Traceback", "not permitted", "Read-only", "Permission denied", "failed")
    return "\n".join(line for line in log.splitlines() if any(word in line for word in words))


def run_hook(system: System, name: str) -> None:
    """As libvirt does at the start of a guest that is not airtap's."""
    hook = f"/etc/libvirt/hooks/{name}.d/50-airtap"
    done = system.run(hook, "guest", "prepare", "begin", "-", text="<domain/>")
    assert done.stdout == done.stderr == ""


def test_from_install_to_purge(system: System, former: Path, package: Path) -> None:
    """A guest with MAC NAT lives through an upgrade; in the end all is as before."""
    # What apt brings along, which stays: airtap is the only thing to be looked at.
    system.run(
        "apt-get", "-qq", "install", "--yes", "--no-install-recommends", "python3", "libbpf1"
    )
    before = system.files()
    system.install(former)
    assert version(system) == FORMER
    assert (
        system.run("systemctl", "is-enabled", "airtapd.socket", "airtapd.service").returncode == 0
    )
    with Lan(one_mac=True) as lan:
        allow(system, lan)
        tap = attach(system, lan.near, f"--mac={MAC}")
        assert tap.status == 0, tap.stderr
        device = tap.device
        with PumpGuest(tap.take(), MAC) as guest:
            address = guest.dhcp()
            wait_for(lambda: lan.ping(address), 20, "the LAN to reach the guest")
            running = main_pid(system)
            system.install(package)
            assert version(system) != FORMER
            assert main_pid(system) != running
            found = uplink(system, lan.near)
            assert found["macnat"] and found["host_access"]
            [seen] = found["guests"]
            assert seen["device"] == device and address in seen["addresses"]
            wait_for(lambda: lan.ping(address), 20, "the LAN to reach the guest after the upgrade")
            wait_for(lambda: guest.ping(ROUTER4), 20, "the guest to reach the LAN")
            # The next one too: programs of two daemons are on the uplink.
            with attach(system, lan.near) as other:
                assert other.status == 0, other.stderr
        wait_for(lambda: not uplink(system, lan.near)["guests"], 20, "the guest's device to go")
        assert lan.foreign_frames() == 0
        assert complaints(system) == ""
        # A guest that still runs is left alone; what would go astray without airtapd is taken off.
        with attach(system, lan.near) as last:
            assert last.status == 0, last.stderr
            assert "clsact" in command("tc", "qdisc", "show", "dev", lan.near)
            removal = system.run("apt-get", "-qq", "remove", "--yes", "airtap")
            assert f"{last.device} stays while its guest runs" in removal.stdout + removal.stderr
            assert "clsact" not in command("tc", "qdisc", "show", "dev", lan.near)
            device = last.device
        command("ip", "link", "delete", device)
        # The administrator's files stay, and the hooks, which do nothing now.
        for name in HOOKS:
            run_hook(system, name)
        system.run("apt-get", "-qq", "purge", "--yes", "airtap")
    # dh_apparmor takes this one along if it is empty.
    before.discard("/etc/apparmor.d/disable")
    left = {path for path in before ^ system.files() if not path.startswith(BOOKS)}
    assert left == set()
    assert "airtap" not in system.run("ls", "-A", "/sys/fs/bpf", "/run").stdout
    assert "airtap" not in system.run("systemctl", "list-units", "--all", "--plain").stdout


def test_what_is_installed(system: System, package: Path) -> None:
    """Programs, pages, completions, units and hooks are where their readers look."""
    system.install(package)
    for program in PROGRAMS:
        assert program in system.run(program, "--help", uid=USER).stdout
        system.run("man", "--where", program)
    system.run("man", "--where", "5", "airtap.toml")
    for path in (
        "/usr/share/bash-completion/completions/airtap",
        "/usr/share/zsh/vendor-completions/_airtap",
        "/usr/share/fish/vendor_completions.d/airtap.fish",
        "/usr/lib/airtap/airtap/bpf/macnat.bpf.o",
    ):
        system.run("test", "-s", path)
    units = ("airtapd.service", "airtapd.socket")
    assert system.run("systemd-analyze", "verify", *units).stderr == ""
    report = system.run("systemd-analyze", "security", "airtapd.service", "--no-pager").stdout
    assert float(report.rpartition("airtapd.service: ")[2].split()[0]) <= 2.0
    profile = "/etc/apparmor.d/usr.bin.airtap-bridge-helper"
    system.run("apparmor_parser", "--skip-kernel-load", "--skip-cache", profile)
    for name in HOOKS:
        run_hook(system, name)


def test_others_leave_our_devices_alone(system: System, package: Path) -> None:
    """What systemd-udevd says of a device, which NetworkManager and systemd-networkd go by."""
    system.install(package)
    device = "/sys/class/net/airtap7"
    system.run(*("ip", "link", "add", "airtap7", "group", str(GROUP), "type", "bridge"))
    try:
        rules = system.run("udevadm", "test", device)
        assert "NM_UNMANAGED=1" in rules.stdout + rules.stderr
        link = system.run("udevadm", "test-builtin", "net_setup_link", device)
        assert "ID_NET_LINK_FILE=/usr/lib/systemd/network/75-airtap.link" in link.stdout
    finally:
        system.run("ip", "link", "delete", "airtap7")


def test_a_bridge_and_a_refusal(system: System, package: Path) -> None:
    """What else airtapd does under its unit's limits: taps on bridges, includes of one user's."""
    system.install(package)
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


def test_libvirt_within_the_units_limits(suite: str, package: Path) -> None:
    """What airtapd runs for libvirt's guests (mending.py) reaches libvirt, and knows the guests."""
    with Libvirtd() as libvirtd, System(suite, Path("/run/libvirt")) as system:
        card = '<interface type="direct"><source dev="up0" mode="bridge"/></interface>'
        xml = domain_xml("stored", MAC, libvirtd.serial_file("stored"), card)
        with contextlib.closing(libvirtd.connect()) as connection:
            connection.defineXML(xml)
        system.run("ln", "-s", "shared", "/run/libvirt")
        system.install(package)
        system.run(
            *("apt-get", "-qq", "install", "--yes", "--no-install-recommends"),
            *("python3-libvirt", "python3-lxml"),
        )
        # The unit as it is, but for the program.
        unit = system.run("systemctl", "cat", "airtapd.service").stdout
        unit = unit.replace("Type=notify", "Type=oneshot")
        probe = unit.replace("=/usr/bin/airtapd", "=/usr/bin/airtap domain list")
        system.run("tee", "/etc/systemd/system/probe.service", text=probe)
        system.run("systemctl", "start", "probe.service")
        log = journal(system, "probe")
        assert MAC in log and "stored" in log
        # airtapd itself looks the guests over when it starts; a wrapper has the outcome logged.
        system.run("mv", "/usr/bin/airtap", "/usr/bin/airtap.real")
        system.run("tee", "/usr/bin/airtap", text=WRAPPER)
        system.run("chmod", "755", "/usr/bin/airtap")
        system.run("systemctl", "restart", "airtapd.service")
        wait_for(lambda: "ended: domain replug, 0" in journal(system), 60, "airtap domain replug")
        assert complaints(system) == ""

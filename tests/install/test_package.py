"""Installed, upgraded under running guests, removed, purged: by apt, under a real systemd."""

import contextlib
from pathlib import Path

from lab.debian import System
from lab.lan import ROUTER4, Lan, wait_for
from lab.libvirt import Libvirtd, domain_xml
from lab.pump import PumpGuest
from lab.sandbox import command
from tests.install.conftest import FORMER, HOOKS, attach, complaints, journal, run_hook, uplink

MAC = "52:54:00:00:00:01"
WRAPPER = """#!/bin/sh
/usr/bin/airtap.real "$@"
echo "ended: $*, $?"
"""
# What dpkg, apt and systemd keep for themselves.
BOOKS = ("/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/var/log", "/var/lib/systemd", "/tmp")


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


def test_libvirt_within_the_units_limits(suite: str, package: Path) -> None:
    """What airtapd runs for libvirt guests (dispatcher.py) reaches libvirt and knows the guests."""
    with Libvirtd() as libvirtd, System(suite, Path("/run/libvirt")) as system:
        card = '<interface type="direct"><source dev="up0" mode="bridge"/></interface>'
        xml = domain_xml("stored", MAC, libvirtd.serial_file("stored"), card)
        with contextlib.closing(libvirtd.connect()) as connection:
            connection.defineXML(xml)
        system.run("ln", "-s", "shared", "/run/libvirt")
        system.install(package, "python3-libvirt", "python3-lxml")
        # The unit as it is, but for the program.
        unit = system.run("systemctl", "cat", "airtapd.service").stdout
        unit = unit.replace("Type=notify", "Type=oneshot")
        for command_line in ("domain list", "renew --user 10001"):
            probe = unit.replace("=/usr/bin/airtapd", f"=/usr/bin/airtap {command_line}")
            system.run("tee", "/etc/systemd/system/probe.service", text=probe)
            system.run("systemctl", "daemon-reload")
            system.run("systemctl", "start", "probe.service")
        log = journal(system, "probe")
        assert MAC in log and "stored" in log
        assert "user 10001 has no guest" in log
        # airtapd itself looks the guests over when it starts; a wrapper has the outcome logged.
        system.run("mv", "/usr/bin/airtap", "/usr/bin/airtap.real")
        system.run("tee", "/usr/bin/airtap", text=WRAPPER)
        system.run("chmod", "755", "/usr/bin/airtap")
        system.run("systemctl", "restart", "airtapd.service")
        wait_for(lambda: "ended: domain replug, 0" in journal(system), 60, "airtap domain replug")
        assert complaints(system) == ""

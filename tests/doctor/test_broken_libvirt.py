"""libvirt broken on purpose, a real one: hooks, networks and domains."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airtap.ipc import protocol
from lab.airtap import HELPER, Airtapd
from lab.doctor import Doctor
from lab.domains import connected, direct_card, guest_on, network_card
from lab.guest import GUEST_UID
from lab.lan import Lan, wait_for
from lab.libvirt import Libvirtd, domain_xml
from lab.sandbox import TREE, command
from tests.doctor.conftest import MACNAT_ON
from tests.doctor.test_broken_uplinks import running

HOOKS = Path("/etc/libvirt/hooks")
QEMU_HOOK = HOOKS / "qemu.d/50-airtap"
MACS = [f"52:54:00:cc:00:{n:02x}" for n in range(1, 4)]


@pytest.fixture
def airtapd(lan: Lan) -> Iterator[Airtapd]:
    """Where the hooks find it."""
    with Airtapd(config=MACNAT_ON, socket=protocol.DEFAULT_SOCKET) as daemon:
        yield daemon
        print(daemon.log())


@pytest.fixture
def libvirtd(lan: Lan) -> Iterator[Libvirtd]:
    """qemu:///system, with a network of airtap's."""
    with Libvirtd() as daemon:
        done = daemon.airtap("network", "define", "wifi", "--parent", "up0")
        assert done.returncode == 0, done.stderr
        yield daemon
        print(daemon.log())


@pytest.fixture
def doctor(airtapd: Airtapd, libvirtd: Libvirtd) -> Doctor:
    env = {"AIRTAP_CONFIG": str(airtapd.config), "LIBVIRT_DEFAULT_URI": libvirtd.uri}
    return Doctor(airtapd.env | env)


@pytest.fixture
def connection(libvirtd: Libvirtd) -> Iterator[Any]:
    with connected(libvirtd) as connection:
        yield connection


def define(connection: Any, libvirtd: Libvirtd, name: str, mac: str, card: str) -> Any:
    return connection.defineXML(domain_xml(name, mac, libvirtd.serial_file("guest"), card))


def test_healthy_with_a_guest(
    airtapd: Airtapd, libvirtd: Libvirtd, doctor: Doctor, connection: Any
) -> None:
    with guest_on(libvirtd, "wifi"):
        wait_for(airtapd.guests, 10, "airtapd to know the guest")
        assert not doctor.bad()
        assert not doctor.bad(uid=GUEST_UID)
        connection.lookupByName("guest").suspend()
        assert not doctor.bad(), "libvirt has its macvtap down meanwhile"
        connection.lookupByName("guest").resume()
        HOOKS.chmod(0o700)
        assert not doctor.bad(uid=GUEST_UID)
        HOOKS.chmod(0o755)
        of_guest = doctor.findings("guest")
        assert {f["level"] for f in of_guest} == {"ok"}
        subjects = {f["subject"] for f in of_guest}
        assert {"up0", "domain guest, card 1", str(QEMU_HOOK), "network wifi"} <= subjects
        # A device wins over a domain of its name.
        assert "network wifi" not in {f["subject"] for f in doctor.findings("up0")}


def test_hook_files(doctor: Doctor) -> None:
    text = QEMU_HOOK.read_text()
    QEMU_HOOK.unlink()
    assert doctor.only("hook-missing")["subject"] == str(QEMU_HOOK)
    QEMU_HOOK.write_text(text)
    doctor.cured(doctor.only("hook-not-executable")["remedy"])
    QEMU_HOOK.write_text("#!/bin/sh\n")
    assert doctor.only("hook-foreign")
    QEMU_HOOK.write_text(text.replace(str(TREE / "src"), "/run/gone"))
    assert "/run/gone" in doctor.only("hook-broken")["evidence"]
    QEMU_HOOK.unlink()
    Path("/run/hook").write_text(text)
    Path("/run/hook").chmod(0o755)
    QEMU_HOOK.symlink_to("/run/hook")
    doctor.cured(doctor.only("hook-not-a-file")["remedy"])
    Path("/run/hook").unlink()
    # As a package has it: a script that runs the one elsewhere.
    launcher = Path("/run/lib/hooks/qemu")
    launcher.parent.mkdir(parents=True)
    launcher.write_text(text)
    QEMU_HOOK.write_text(f'#!/bin/sh\nexec /usr/bin/python3 -IS {launcher} "$@"\n')
    assert not doctor.bad()
    shutil.rmtree("/run/lib")
    assert str(launcher) in doctor.only("hook-broken")["evidence"]


def test_hook_of_another_version(doctor: Doctor) -> None:
    other = Path("/run/other/airtap")
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('__version__ = "0.0.7"\n')
    (other / "hook.py").touch()
    QEMU_HOOK.write_text(QEMU_HOOK.read_text().replace(str(TREE / "src"), "/run/other"))
    assert "0.0.7" in doctor.only("hook-version")["evidence"]
    shutil.rmtree(other.parent)


def test_hooks_that_libvirtd_has_not_seen(airtapd: Airtapd) -> None:
    """It looks for them when it starts; restarted, it has. Another user's of that name is none."""
    libvirtd = Libvirtd()
    shutil.move(HOOKS, "/run/hooks")
    with libvirtd, running("libvirtd", uid=GUEST_UID):
        doctor = Doctor.of(airtapd)
        assert set(doctor.bad()) == {"hook-missing"}
        started = time.monotonic()
        wait_for(lambda: time.monotonic() > started + 1.5, 5, "a time that files show")
        shutil.move("/run/hooks", HOOKS)
        inactive = [f for f in doctor.findings() if f["id"] == "hooks-inactive"]
        assert len(inactive) == 2 and "libvirtd" in inactive[0]["remedy"]
        libvirtd.restart()
        assert not doctor.bad()


def test_networks(lan: Lan, libvirtd: Libvirtd, connection: Any, doctor: Doctor) -> None:
    network = connection.networkLookupByName("wifi")
    network.destroy()
    found = doctor.only("network-inactive")
    assert found["subject"] == "network wifi"
    doctor.cured(found["remedy"])
    network.setAutostart(False)
    doctor.cured(doctor.only("network-not-autostarted")["remedy"])
    command("ip", "link", "add", "eth7", "type", "veth", "peer", "name", "eth8")
    libvirtd.airtap("network", "define", "dock", "--parent", "eth7")
    command("ip", "link", "del", "eth7")
    found = doctor.only("network-parent-missing")
    assert "eth7" in found["what"]
    doctor.type(found["remedy"].partition("or ")[2].partition(", and ")[0])
    assert not doctor.bad()


def test_card_that_cannot_work(libvirtd: Libvirtd, connection: Any, doctor: Doctor) -> None:
    card = '<interface type="bridge"><source bridge="br9"/></interface>'
    define(connection, libvirtd, "web", MACS[0], card)
    found = doctor.only("card-cannot-work")
    assert (found["level"], found["subject"]) == ("warning", "domain web, card 1")
    assert "there is no bridge br9" in found["what"]
    assert doctor.only("card-cannot-work", "web")["level"] == "problem"
    assert not doctor.bad("up0")
    doctor.cured(found["remedy"])


def test_hostile_names(libvirtd: Libvirtd, connection: Any, doctor: Doctor) -> None:
    """A name may steer neither a terminal nor the shell into which a remedy is typed."""
    hostile = "\u202e\u009b31m$(touch pwned)'; touch pwned \u2028"
    card = '<interface type="bridge"><source bridge="br9"/></interface>'
    xml = domain_xml("NAME", MACS[0], libvirtd.serial_file("guest"), card)
    domain = connection.defineXML(xml.replace("NAME", hostile))
    name = domain.name()
    text = doctor.run().stdout
    assert all(c.isprintable() or c == "\n" for c in text)
    found = doctor.only("card-cannot-work", name)
    assert domain.UUIDString() in found["remedy"]
    doctor.cured(found["remedy"])
    plain = "x'; touch pwned; $(touch pwned)"
    define(connection, libvirtd, plain, MACS[1], card)
    doctor.cured(doctor.only("card-cannot-work")["remedy"])
    assert not Path("pwned").exists()


def test_clone(libvirtd: Libvirtd, connection: Any, doctor: Doctor) -> None:
    """And guests that want other kinds of device on one uplink."""
    define(connection, libvirtd, "web", MACS[0], network_card("wifi"))
    done = libvirtd.airtap("domain", "connect", "web", "--parent", "up0", "--kind", "ipvtap")
    assert done.returncode == 0, done.stderr
    xml = connection.lookupByName("web").XMLDesc()
    xml = re.sub(r"<uuid>.*?</uuid>", "", xml.replace("<name>web<", "<name>copy<"))
    connection.defineXML(xml.replace(f"<mac address='{MACS[0]}'", f"<mac address='{MACS[1]}'"))
    bad = doctor.bad()
    assert bad["device-cloned"]["subject"] == "domain copy"
    assert bad["kinds-mixed"]["subject"] == "up0"
    doctor.type(bad["device-cloned"]["remedy"])
    assert "device-cloned" not in doctor.bad()
    doctor.type(bad["kinds-mixed"]["remedy"])
    bad = doctor.bad()
    doctor.type(bad["kinds-mixed"]["remedy"])
    assert not doctor.bad()


def test_helper_of_a_session(libvirtd: Libvirtd, doctor: Doctor) -> None:
    """Of a user's own libvirt its files tell: to ask it would start it."""
    home = Path("/run/home")
    networks = home / "libvirt/qemu/networks"
    networks.mkdir(parents=True)
    user = Doctor({**doctor.env, "XDG_CONFIG_HOME": str(home)})
    assert not user.bad(uid=GUEST_UID)
    made = '<a:network xmlns:a="urn:airtap:libvirt:1"/>'
    (networks / "wifi.xml").write_text(f"<network><metadata>{made}</metadata></network>")
    found = user.only("session-helper", uid=GUEST_UID)
    file, _, line = found["remedy"].partition(": ")
    assert file == str(home / "libvirt/qemu.conf")
    Path(file).write_text(f"{line}\n")
    assert line.split('"')[1].endswith("/airtap-bridge-helper")
    Path(file).write_text(f'bridge_helper = "{HELPER}"\n')
    assert not user.bad(uid=GUEST_UID)
    shutil.rmtree(home)


def test_files_of_the_user_of_sudo(libvirtd: Libvirtd, doctor: Doctor) -> None:
    """They are read with that user's rights, and so tell nothing of what is root's."""
    home, hidden = Path("/run/sudoer"), Path("/run/hidden")
    with Path("/etc/passwd").open("a") as table:
        table.write(f"sudoer2:x:10006:10006::{home}:/bin/false\n")
    by_sudo = Doctor({**doctor.env, "SUDO_UID": "10006"})
    networks = home / ".config/libvirt/qemu/networks"
    networks.mkdir(parents=True)
    hidden.mkdir(mode=0o700)
    made = '<a:network xmlns:a="urn:airtap:libvirt:1"/>'
    (hidden / "root.xml").write_text(f"<network><metadata>{made}</metadata></network>")
    (networks / "wifi.xml").symlink_to(hidden / "root.xml")
    os.mkfifo(networks / "fifo.xml")
    assert not by_sudo.bad()
    hidden.chmod(0o755)
    (networks.parents[1] / "qemu.conf").write_text(f'bridge_helper = "{HELPER}"\n')
    assert not by_sudo.bad()
    helper = hidden / "bin/airtap-bridge-helper"
    helper.parent.mkdir(mode=0o700)
    shutil.copy("/bin/true", helper)
    (networks.parents[1] / "qemu.conf").write_text(f'bridge_helper = "{helper}"\n')
    found = by_sudo.only("session-helper")
    assert "wifi" in found["what"]
    for directory in (home, hidden):
        shutil.rmtree(directory)


def test_libvirt_that_is_not_reached(airtapd: Airtapd, doctor: Doctor) -> None:
    gone = "qemu:///system?socket=/run/nowhere"
    found = doctor.only("no-connection", f"--connect={gone}")
    assert (found["level"], found["subject"]) == ("warning", gone)


def test_card_on_a_missing_device(libvirtd: Libvirtd, connection: Any, doctor: Doctor) -> None:
    define(connection, libvirtd, "web", MACS[0], direct_card("eth9"))
    found = doctor.only("card-cannot-work", "web")
    assert "there is no device eth9" in found["what"]
    doctor.cured(found["remedy"], "web")

"""Hosts broken on purpose: the doctor names the cause, and what it says helps."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airtap.errors import Problem
from airtap.ipc import protocol
from lab import sandbox
from lab.airtap import Airtapd, in_place_of
from lab.doctor import Doctor
from lab.guest import GUEST_UID
from lab.lan import Lan, wait_for
from lab.sandbox import command
from tests.doctor.conftest import MACNAT_ON

GUEST_MAC = "52:54:00:00:00:01"
KMSG = Path("/dev/kmsg")


@contextlib.contextmanager
def over(path: str, content: str) -> Iterator[None]:
    """A file of ours in the place of a node of the machine's, here in the sandbox only."""
    file = Path("/run/over")
    file.write_text(content)
    command("mount", "--bind", str(file), path)
    try:
        yield
    finally:
        command("umount", path)
        file.unlink()


@pytest.fixture
def no_orphans() -> Iterator[None]:
    """A daemon that a remedy has started ends with the test."""
    before = sandbox.children()
    yield
    for pid in sandbox.children() - before:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if b"--exit-when-idle" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)


@pytest.mark.usefixtures("no_orphans")
def test_airtapd_is_down(airtapd: Airtapd, doctor: Doctor) -> None:
    airtapd.stop()
    found = doctor.only("airtapd-down", "up0")
    assert found["level"] == "warning" and airtapd.socket in found["evidence"]
    of_user = doctor.only("airtapd-down", "up0", uid=GUEST_UID)
    assert of_user["level"] == "problem"
    doctor.cured(found["remedy"], "up0")


def test_airtapd_that_refuses(airtapd: Airtapd, doctor: Doctor) -> None:
    """To one that is there, nobody need say how to start it."""
    with in_place_of(airtapd) as listener, doctor.asking("up0") as process:
        with listener.accept()[0] as connection:
            connection.recv(protocol.MAX_REQUEST)
            connection.send(protocol.encode(protocol.failure(Problem("busy", "too many clients"))))
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "airtapd: does not answer" in said and "too many clients" in said
    assert f"less {airtapd.socket}.log" in said and "[airtapd-down]" not in said


def test_interrupted(airtapd: Airtapd, doctor: Doctor) -> None:
    """One Ctrl-C ends the waiting for an airtapd that is silent."""
    with in_place_of(airtapd) as listener, doctor.asking() as process, listener.accept()[0] as it:
        it.recv(protocol.MAX_REQUEST)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=protocol.TIMEOUT_S * 2 / 3)[0]
    assert (process.returncode, said) == (130, "")


@pytest.mark.usefixtures("no_orphans")
def test_device_that_nobody_holds(airtapd: Airtapd, doctor: Doctor) -> None:
    with airtapd.attach("up0", GUEST_MAC):
        airtapd.kill()
        assert set(doctor.bad("up0")) == {"airtapd-down"}
    bad = doctor.bad("up0")
    assert set(bad) == {"airtapd-down", "device-stale"}
    doctor.cured(bad["device-stale"]["remedy"], "up0")


@pytest.mark.parametrize(
    ("text", "id", "says"),
    [
        ("colour = 'blue'\n", "config-invalid", "unknown key colour"),
        ("[parents.up0\n", "config-invalid", "is not TOML"),
        (None, "config-unreadable", "No such file"),
    ],
)
def test_configuration(
    airtapd: Airtapd, doctor: Doctor, text: str | None, id: str, says: str
) -> None:
    if text is None:
        airtapd.config.unlink()
    else:
        airtapd.config.write_text(text)
    found = doctor.only(id)
    assert says in found["evidence"]
    assert str(airtapd.config) in found["remedy"]


def test_configuration_for_root_only(airtapd: Airtapd, doctor: Doctor) -> None:
    airtapd.config.chmod(0o600)
    assert not doctor.bad()
    found = doctor.only("config-unreadable", uid=GUEST_UID)
    assert found["level"] == "warning"
    doctor.type(found["remedy"])
    assert not doctor.bad(uid=GUEST_UID)


@pytest.mark.parametrize("of_asker", [{}, {"AIRTAP_CONFIG": "/run/none.toml"}])
def test_files_that_airtapd_was_started_with(airtapd: Airtapd, of_asker: dict[str, str]) -> None:
    """They count, whatever is at the default paths or named where doctor runs."""
    doctor = Doctor({**airtapd.env, **of_asker})
    for uid in (0, GUEST_UID):
        assert doctor.silent(uid=uid)
        status = json.loads(airtapd.airtap("status", "--json", uid=uid).stdout)
        assert (status["config"], status["acl"]) == (str(airtapd.config), str(airtapd.acl))
    airtapd.acl.write_text("deny up0\n")
    assert str(airtapd.acl) in doctor.only("acl-denied", "up0", uid=GUEST_UID)["evidence"]
    airtapd.acl.write_text("allow all\n")
    airtapd.config.write_text("[parents.up0\n")
    assert doctor.only("config-invalid")["subject"] == str(airtapd.config)
    airtapd.stop()
    assert str(airtapd.config) not in {found["subject"] for found in doctor.findings()}
    airtapd.config.write_text("")
    airtapd.start()


def test_socket_that_not_everybody_may_use(airtapd: Airtapd, doctor: Doctor) -> None:
    os.chmod(airtapd.socket, 0o600)
    refused = doctor.only("socket-refused", uid=GUEST_UID)
    found = doctor.only("socket-mode")
    assert "0600" in found["evidence"]
    doctor.cured(found["remedy"])
    assert refused["remedy"] == f"as root: {found['remedy']}"
    assert not doctor.bad(uid=GUEST_UID)


def test_airtapd_of_another_version(lan: Lan) -> None:
    other = Path("/run/other")
    shutil.copytree(sandbox.TREE / "src/airtap", other / "airtap")
    (other / "airtap/__init__.py").write_text('__version__ = "0.0.7"\n')
    server = other / "airtap/daemon/server.py"
    server.write_text(server.read_text().replace(", **counts", ""))  # tells no files
    daemon = Airtapd(config=MACNAT_ON)
    older = f"import sys; sys.path.insert(0, {str(other)!r})"
    start = f"{older}; from airtap.daemon.main import main; main()"
    daemon.program = [sys.executable, "-c", start]
    try:
        with daemon:
            doctor = Doctor.of(daemon)
            found = doctor.only("airtapd-version")
            assert "airtapd 0.0.7" in found["evidence"]
            assert str(daemon.config) in {each["subject"] for each in doctor.findings()}
    finally:
        shutil.rmtree(other)


def test_acl_without_a_rule(airtapd: Airtapd, doctor: Doctor) -> None:
    airtapd.acl.write_text("allow eth7\n")
    assert not doctor.bad(), "libvirt's guests need none"
    found = doctor.only("acl-denied", "up0", uid=GUEST_UID)
    doctor.type(found["remedy"])
    assert not doctor.bad("up0", uid=GUEST_UID)
    airtapd.acl.write_text("allow all\ndeny up0\n")
    found = doctor.only("acl-denied", "up0", uid=GUEST_UID)
    assert "takes the line" not in found["remedy"] and "denies up0" in found["remedy"]


def test_acl_of_the_user_of_sudo(airtapd: Airtapd, doctor: Doctor) -> None:
    with Path("/etc/passwd").open("a") as table:
        table.write("sudoer:x:10005:10005::/nonexistent:/bin/false\n")
    airtapd.acl.write_text("include /run/theirs\n")
    Path("/run/theirs").write_text("allow up0\n")
    Path("/run/theirs").chmod(0o600)
    by_sudo = Doctor({**doctor.env, "SUDO_UID": "10005"})
    assert not by_sudo.bad()
    found = by_sudo.only("acl-denied", "up0")
    assert (found["level"], "sudoer" in found["what"]) == ("warning", True)
    Path("/run/theirs").chmod(0o644)
    assert not by_sudo.bad("up0")
    Path("/run/theirs").unlink()


def test_acl_that_cannot_be_read(airtapd: Airtapd, doctor: Doctor) -> None:
    airtapd.acl.write_text("permit up0\n")
    assert "permit" in doctor.only("acl-invalid")["evidence"]
    airtapd.acl.write_text("allow up0\n")
    airtapd.acl.chmod(0o600)
    assert not doctor.bad()
    found = doctor.only("acl-unreadable", uid=GUEST_UID)
    assert found["level"] == "problem"
    doctor.type(found["remedy"])
    assert not doctor.bad(uid=GUEST_UID)
    assert airtapd.acl.read_text() == "allow up0\n"
    airtapd.acl.unlink()
    doctor.cured(doctor.only("acl-unreadable")["remedy"].partition(", and")[0])


def test_no_bpf_file_system(airtapd: Airtapd, doctor: Doctor) -> None:
    command("umount", "/sys/fs/bpf")
    try:
        doctor.cured(doctor.only("no-bpffs", "up0")["remedy"], "up0")
    finally:
        if not os.path.ismount("/sys/fs/bpf"):
            command("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")


def test_no_tun(doctor: Doctor) -> None:
    command("ip", "link", "add", "br0", "type", "bridge")
    command("ip", "link", "set", "br0", "up")
    command("mount", "-t", "tmpfs", "tmpfs", "/dev/net")
    try:
        assert not doctor.bad("up0"), "a macvtap does not need it"
        assert "no-tun" in doctor.bad("br0")
    finally:
        command("umount", "/dev/net")
        command("ip", "link", "del", "br0")


@pytest.mark.parametrize("config", ['[parents.up0]\nkind = "ipvtap"\n'])
def test_kind_that_the_kernel_lacks(doctor: Doctor) -> None:
    """Runs on kernels without ipvlan; where there is one, see tests/wifi."""
    with contextlib.suppress(RuntimeError):
        command("ip", "link", "add", "link", "up0", "name", "probe", "type", "ipvtap")
        command("ip", "link", "del", "probe")
        assert not doctor.bad("up0")
        return
    found = doctor.only("no-ipvtap", "up0")
    assert "CONFIG_IPVTAP" in found["remedy"] and "airtap.toml for up0" in found["what"]


DENIALS = {
    "AppArmor": 'audit: type=1400 audit({now}.1:7): apparmor="DENIED" operation="exec" profile='
    '"libvirtd" name="/usr/bin/airtap-bridge-helper" pid=7 comm="rpc-worker"',
    "SELinux": "audit: type=1400 audit({now}.1:7): avc:  denied  { read } for  pid=7"
    ' comm="airtapd" name="tap7" dev="devtmpfs" tclass=chr_file permissive=0',
}
GARBAGE = (
    "\x00\xff;;;\n6\n,;\n99999999999999999999,1,1,-;x\n"
    + "6,9,9,-;" + "A" * 100_000 + "\n"
    + '14,3,3,-;apparmor="DENIED" name="/usr/bin/airtap" written by a program\n'
    + '6,4,4,-;audit: apparmor="DENIED" name="/usr/bin/other" comm="x"\n'
    + '6,5,5,-;audit(99.1:1): apparmor="DENIED" name="/usr/bin/airtap" of long ago\n'
) * 20  # fmt: skip


@pytest.mark.parametrize("by", DENIALS)
def test_denial_in_a_log_full_of_garbage(doctor: Doctor, by: str) -> None:
    now = subprocess.run(["date", "+%s"], text=True, capture_output=True).stdout.strip()
    with over("/dev/kmsg", GARBAGE):
        assert not doctor.bad()
    denial = DENIALS[by].replace("{now}", now)
    with over("/dev/kmsg", f"{GARBAGE}5,10,10,-;{denial} \x1b[31m\n{GARBAGE}"):
        found = doctor.only("security-denials")
        assert found["subject"] == by and denial in found["evidence"]
        assert "\x1b" not in doctor.run().stdout


def test_log_that_only_root_may_read(doctor: Doctor) -> None:
    with over("/dev/kmsg", ""):
        Path("/run/over").chmod(0o600)
        assert not doctor.bad(uid=GUEST_UID)
        [note] = [f for f in doctor.findings(uid=GUEST_UID) if f["id"] == "not-looked-at"]
        assert "/dev/kmsg" in note["what"] and "nftables" in note["what"]


def test_unknown_subject(doctor: Doctor) -> None:
    done = doctor.run("nope\x1b[2J")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no network device nope" in done.stderr and "\x1b" not in done.stderr
    assert doctor.run("one", "two").returncode == 2


def test_sorted_out_by_an_alias(airtapd: Airtapd, doctor: Doctor) -> None:
    with airtapd.config.open("a") as file:
        file.write('[aliases]\ndock = ["eth7", "up0"]\n')
    assert {f["subject"] for f in doctor.findings("dock") if f["id"] == "carrier"} == {"up0"}


def test_alias_of_nothing(airtapd: Airtapd, doctor: Doctor) -> None:
    with airtapd.config.open("a") as file:
        file.write('[aliases]\nbr0 = "eth7"\n[parents.eth8]\nkind = "macvtap"\n')
    found = doctor.only("alias-of-nothing")
    assert (found["subject"], "plug eth7 in" in found["remedy"]) == ("br0", True)


def test_device_with_a_hostile_name(airtapd: Airtapd, doctor: Doctor) -> None:
    """The kernel takes any byte but a few; what is printed steers no terminal."""
    name = "\x1b[31m$(id)'\u00e9"
    command("ip", "link", "add", name, "type", "veth", "peer", "name", "far7")
    command("ip", "link", "add", "link", name, "name", "mv0", "type", "macvtap")
    try:
        done = doctor.run()
        assert "(link-down)" not in done.stdout and "[link-down]" in done.stdout
        assert all(c.isprintable() or c == "\n" for c in done.stdout)
        assert doctor.bad(name)["link-down"]["remedy"] == "ip link set dev NAME up"
    finally:
        command("ip", "link", "del", name)


def test_for_people(airtapd: Airtapd, doctor: Doctor) -> None:
    done = doctor.run()
    assert done.returncode == 0 and "all is well" in done.stdout and "\x1b" not in done.stdout
    os.chmod(airtapd.socket, 0o600)
    lines = doctor.run().stdout.splitlines()
    [at] = [n for n, line in enumerate(lines) if line.startswith("warning")]
    assert "[socket-mode]" in lines[at]
    assert lines[at + 1].strip().startswith("seen:")
    assert lines[at + 2].strip() == f"do:   chmod 666 {airtapd.socket}"
    assert lines[-1] == "1 warning"


def test_on_a_terminal(doctor: Doctor) -> None:
    argv = f"{sandbox.TREE}/.venv/bin/python -I {sandbox.TREE}/helper/airtap doctor"
    for more, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        env = doctor.environment(**more)
        done = subprocess.run(
            ["script", "-qec", argv, "/dev/null"], env=env, text=True, capture_output=True
        )
        assert ("\x1b[32mok" in done.stdout) is coloured, done.stdout


def test_down_for_good(airtapd: Airtapd) -> None:
    """Where nothing of airtap's is there at all: it says so, and does not fail."""
    nowhere = Doctor({"AIRTAP_SOCKET": "/run/nowhere/airtapd.sock"})
    bad = nowhere.bad(uid=GUEST_UID)
    assert {"airtapd-down", "acl-unreadable"} == set(bad)
    wait_for(lambda: airtapd.alive, 1, "airtapd to be left alone")

"""The AppArmor profiles enforce, and forbid nothing that airtapd and the helper do.

A stock kernel has AppArmor; this lab's own need not.
"""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import sandbox
from lab.airtap import BIN, Airtapd, run_helper
from lab.lan import Lan
from lab.roots import root
from lab.sandbox import command
from tests.wire.strangers import STRANGER

STOCK = pytest.mark.parametrize(
    "kernel", [pytest.param("6.12", marks=pytest.mark.machine("6.12"), id="6.12")]
)

DATA = Path(__file__).parents[2] / "data"
SOCKET = "/run/airtap/airtapd.sock"
# As airtapd.service has it: no new privileges, and a /dev elsewhere, in a mount namespace.
UNDER = 'echo exec airtapd >/proc/self/attr/exec && exec "$@"'
CONFINED = f"""
mkdir -p /run/airtap/dev && mount --bind /dev /run/airtap/dev && export AIRTAP_DEV=/run/airtap/dev
exec setpriv --no-new-privs sh -c '{UNDER}' sh {BIN}/airtapd "$@"
"""
HELPED = 'echo exec airtap-bridge-helper >/proc/self/attr/exec && exec "$@"'


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Both profiles, with this tree in the place of what is installed."""
    debian = root("bookworm")
    command("mount", "-t", "securityfs", "securityfs", "/sys/kernel/security")
    for name in ("airtapd", "airtap-bridge-helper"):
        profile = tmp_path_factory.mktemp("profiles") / name
        text = (DATA / f"usr.bin.{name}").read_text()
        assert "complain" not in text
        here = f"  {BIN.parents[1]}/{{,**}} mr,\n  /run/tree/{{,**}} mr,\n  /run/airtapd-*/log w,\n"
        here += f"  {BIN}/airtap ix,\n"
        profile.write_text(text.replace("\n\n  include if", f"\n\n{here}\n  include if"))
        parser = [str(debian / "sbin/apparmor_parser"), "--base", str(debian / "etc/apparmor.d")]
        command(*parser, "--skip-cache", "--replace", str(profile))
    yield
    command("umount", "/sys/kernel/security")


@STOCK
def test_profiles_allow_what_is_needed(lan: Lan, profiles: None, kernel: str) -> None:
    config = f"[parents.{lan.near}]\nmacnat = 'on'\n"
    airtapd = Airtapd(socket=SOCKET, config=config)
    airtapd.program = ["unshare", "--mount", "sh", "-c", CONFINED, "airtapd"]
    command("ip", "link", "add", "br7", "up", "type", "bridge")
    try:
        with airtapd:
            label = Path(f"/proc/{airtapd.pid}/attr/current").read_text()
            assert label == "airtapd (enforce)\n"
            for device in (lan.near, "br7"):
                tap = run_helper(
                    ["--br=" + device], prefix=["sh", "-c", HELPED, "sh"], env=airtapd.env
                )
                assert tap.status == 0, tap.stderr
                with tap:
                    assert [guest["device"] for guest in airtapd.guests()] == [tap.device]
            assert "denied" not in airtapd.log().lower()
            airtapd.kill()
            airtapd.start()
    finally:
        command("ip", "link", "delete", "br7")
    denied = [line for line in dmesg() if 'apparmor="DENIED"' in line]
    assert [line for line in denied if "airtap" in line] == []


def dmesg() -> list[str]:
    return subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout.splitlines()


@STOCK
def test_what_they_run(profiles: None, kernel: str) -> None:
    """airtapd runs airtap; with the unit's NoNewPrivileges= it cannot leave its profile."""
    run = "import subprocess, sys; subprocess.run(sys.argv[1:], check=True)"
    python = [str(BIN / "python"), "-c", run]
    airtapd = ["setpriv", "--no-new-privs", "sh", "-c", UNDER, "sh", *python]
    subprocess.run([*airtapd, str(BIN / "airtap"), "--help"], stdout=subprocess.DEVNULL, check=True)
    for confined in (airtapd, ["sh", "-c", HELPED, "sh", *python]):
        refused = subprocess.run([*confined, "/bin/true"], capture_output=True, text=True)
        assert "Permission denied" in refused.stderr


TRIES = """
import socket, sys
def tried(what):
    try:
        what().close()
    except OSError as exc:
        return exc.errno
    return 0
for path in sys.argv[1:]:
    print(tried(lambda: open(path[1:], path[0])))
for family in socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK:
    print(tried(lambda: socket.socket(family, socket.SOCK_DGRAM)))
"""


@STOCK
def test_what_they_write_and_speak(profiles: None, kernel: str) -> None:
    """airtapd as root, and the helper as a user, by whom its own rights are not meant."""
    directory = Path("/run/others")
    directory.mkdir()
    roots, users = directory / "roots", directory / "users"
    for file, uid, mode in (roots, 0, 0o666), (users, STRANGER, 0o600):
        file.touch()
        os.chown(file, uid, uid)
        file.chmod(mode)

    def tried(*argv: str) -> list[int]:
        python = str(sandbox.TREE / ".venv/bin/python")
        paths = [f"{how}{file}" for file in (roots, users) for how in "ra"]
        done = subprocess.run(
            [*argv, "sh", python, "-c", TRIES, *paths], capture_output=True, text=True, check=True
        )
        return [int(line) for line in done.stdout.split()]

    no = errno.EACCES
    user = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
    try:
        assert tried("sh", "-c", 'exec "$@"') == [0, 0, 0, 0, 0, 0, 0]
        assert tried("sh", "-c", UNDER) == [0, no, no, no, no, no, 0]
        assert tried(*user, "sh", "-c", 'exec "$@"') == [0, 0, 0, 0, 0, 0, 0]
        assert tried(*user, "sh", "-c", HELPED) == [no, no, no, 0, no, no, no]
    finally:
        for file in roots, users:
            file.unlink()
        directory.rmdir()

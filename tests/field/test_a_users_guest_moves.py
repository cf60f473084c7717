"""After the laptop was carried to another network its guests go on with leases of the former one,
where VMware's and VirtualBox's ask for new ones: a guest of QEMU's command line, or of
qemu:///session, has nobody who takes its cable out.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab.airtap import HELPER, Airtapd
from lab.domains import booted, guest_on
from lab.guest import GUEST_UID
from lab.kinds import BOTH_KINDS
from lab.lan import Lan, wait_for
from lab.laptop import ELSEWHERE
from lab.libvirt import Libvirtd
from lab.linux import LinuxGuest
from lab.traffic import status_of
from lab.users import listening, runtime_of

MAC, CARD_MAC, OTHER_MAC = (f"52:54:00:aa:00:{number:02x}" for number in (1, 2, 3))
OTHER_UID = GUEST_UID + 1
NETDEV = f"tap,id=n0,helper={HELPER},br=up0"
BY_HAND = "in QEMU's monitor type: set_link"


@pytest.fixture
def runtime() -> Iterator[Path]:
    with runtime_of(GUEST_UID) as directory:
        yield directory


def told(airtapd: Airtapd) -> int:
    return airtapd.log().count("link down and up")


def renew(airtapd: Airtapd, *options: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
    return airtapd.airtap("renew", *options, uid=uid, check=False)


def leased_there(lan: Lan, mac: str) -> str:
    address = wait_for(lambda: lan.leases().get(mac), 15, "a lease there") or ""
    assert address.startswith(ELSEWHERE.ipv4)
    return address


@BOTH_KINDS
def test_a_qemu_that_listens_for_qmp(lan: Lan, airtapd: Airtapd, runtime: Path) -> None:
    extra = listening(runtime, "web")
    with LinuxGuest(MAC, NETDEV, env=airtapd.env, extra=extra) as guest:
        guest.wait_leases(1)
        lan.resettle(ELSEWHERE)
        address = leased_there(lan, MAC)
        assert lan.ping(address, timeout=5)
        wait_for(lambda: not status_of(airtapd, MAC)["stranded"], 5, "it to be heard there")
        assert told(airtapd) == 1
        guest.wait_leases(2)


def test_a_card_that_was_plugged_in(lan: Lan, airtapd: Airtapd, runtime: Path) -> None:
    """Of another model, while the guest runs; the guest's first card has no uplink."""
    extra = listening(runtime, "web")
    with LinuxGuest(MAC, None, env=airtapd.env, extra=extra) as guest:
        guest.qmp("netdev_add", type="tap", id="n9", helper=str(HELPER), br="up0")
        guest.qmp("device_add", driver="virtio-net-pci", netdev="n9", mac=CARD_MAC, id="d9")
        guest.mac = CARD_MAC
        guest.wait_leases(1)
        lan.resettle(ELSEWHERE)
        assert lan.ping(leased_there(lan, CARD_MAC), timeout=5)


def test_a_guest_of_a_users_libvirt(lan: Lan, airtapd: Airtapd, runtime: Path) -> None:
    with Libvirtd(uid=GUEST_UID, env=airtapd.env) as session:
        (runtime / "libvirt").symlink_to(session.directory / "runtime/libvirt")
        define = ("network", "define", "mine", "--parent", "up0", "--kind", "session")
        done = session.airtap(*define, "--write-config", "--connect", session.uri)
        assert done.returncode == 0, done.stderr
        session.stop()
        session.start()
        with guest_on(session, "mine", MAC):
            booted(lan, session, MAC)
            lan.resettle(ELSEWHERE)
            wait_for(lambda: told(airtapd), 15, "the guest to be told")
            assert MAC in airtapd.log()


def test_of_whom_nobody_can_tell_it_is_said_how(lan: Lan, airtapd: Airtapd, runtime: Path) -> None:
    """One does not listen; of the other, somebody speaks with its QEMU already."""
    extra = listening(runtime, "busy")
    with (
        LinuxGuest(MAC, NETDEV, name="deaf", env=airtapd.env) as deaf,
        LinuxGuest(OTHER_MAC, NETDEV, name="busy", env=airtapd.env, extra=extra) as busy,
        socket.socket(socket.AF_UNIX) as talker,
    ):
        for guest in (deaf, busy):
            guest.wait_leases(1)
        talker.connect(str(runtime / "qemu/busy.qmp"))
        done = renew(airtapd, uid=GUEST_UID)
        assert done.returncode == 1
        devices = [status_of(airtapd, mac)["device"] for mac in (MAC, OTHER_MAC)]
        for device in devices:
            assert f"nobody here can tell the guest of {device}; {BY_HAND}" in done.stderr
        assert "busy.qmp: it does not answer; another program may speak with it" in done.stderr
        talker.close()
        done = renew(airtapd, uid=GUEST_UID)
        assert (done.returncode, done.stdout.count("link down and up")) == (0, 1)
        busy.wait_leases(2)
        lan.resettle(ELSEWHERE)
        leased_there(lan, OTHER_MAC)
        wait_for(lambda: status_of(airtapd, MAC)["stranded"], 5, "the deaf one to be named")
        assert f"try airtap renew --user {GUEST_UID}" in airtapd.airtap("status").stdout


def test_no_such_user(lan: Lan, airtapd: Airtapd) -> None:
    for user in ("nobody-at-all", "4294967295", "99999999999999"):
        done = renew(airtapd, "--user", user)
        assert (done.returncode, done.stderr) == (1, f"airtap: there is no user {user}\n")
    done = renew(airtapd, "--user", "0", uid=GUEST_UID)
    assert done.returncode == 1
    assert "cannot become user 0: Operation not permitted" in done.stderr


def test_only_the_users_own(lan: Lan, airtapd: Airtapd, runtime: Path) -> None:
    """Not a guest of another user's, whose QEMU listens there; nor what looks like a socket."""
    extra = listening(runtime, "theirs")
    (runtime / "qemu/file.qmp").write_text("no socket")
    (runtime / "qemu/link.qmp").symlink_to("/run/airtap/airtapd.sock")
    (runtime / "qemu").chmod(0o777)
    runtime.chmod(0o777)
    with ExitStack() as undo:
        guest = LinuxGuest(MAC, NETDEV, uid=OTHER_UID, env=airtapd.env, extra=extra)
        undo.enter_context(guest).wait_leases(1)
        os.chmod(runtime / "qemu/theirs.qmp", 0o777)
        done = renew(airtapd, "--user", str(GUEST_UID))
        assert (done.returncode, done.stdout) == (
            0,
            f"user {GUEST_UID} has no guest on any uplink\n",
        )
        undo.enter_context(LinuxGuest(OTHER_MAC, NETDEV, name="own", env=airtapd.env)).wait_leases(
            1
        )
        done = renew(airtapd, "--user", str(GUEST_UID))
        assert done.returncode == 1
        assert f"theirs.qmp: it is user {OTHER_UID}'s" in done.stderr
        assert len(guest.leases()) == 1


@contextmanager
def endless(path: Path) -> Iterator[None]:
    """Somebody at a socket who says things, and never what was asked."""
    code = (
        "import os, socket, sys, time\n"
        f"os.setresuid(*[{GUEST_UID}] * 3)\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind(sys.argv[1])\n"
        "listener.listen()\n"
        "peer = listener.accept()[0]\n"
        "while True: peer.sendall(b'{}\\n' * 1000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.DEVNULL)
    try:
        wait_for(path.exists, 10, "the socket")
        yield
    finally:
        process.kill()
        process.wait()


def test_one_who_never_ends(lan: Lan, airtapd: Airtapd, runtime: Path) -> None:
    """It is given up, and delays no other user."""
    with (
        runtime_of(OTHER_UID) as theirs,
        endless(runtime / "qemu/x.qmp"),
        LinuxGuest(MAC, NETDEV, env=airtapd.env) as one,
        LinuxGuest(
            *(OTHER_MAC, NETDEV), uid=OTHER_UID, env=airtapd.env, extra=listening(theirs, "web")
        ) as other,
    ):
        for guest in (one, other):
            guest.wait_leases(1)
        lan.resettle(ELSEWHERE)
        leased_there(lan, OTHER_MAC)
        wait_for(lambda: "x.qmp: it does not answer" in airtapd.log(), 15, "it to be given up")

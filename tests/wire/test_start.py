"""How the daemon comes to run: started by a client, by systemd's protocol, and how it ends."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import sandbox
from lab.airtap import BIN, Airtapd, answers, run_helper
from lab.lan import Lan, wait_for
from lab.links import guest_devices

MAC = "52:54:00:00:00:01"
DEFAULT_SOCKET = Path("/run/airtap/airtapd.sock")


@pytest.fixture
def defaults() -> Iterator[None]:
    """The default configuration in the sandbox's own /etc and /run; daemons end afterwards."""
    Path("/etc/airtap").mkdir()
    Path("/etc/airtap/bridge.conf").write_text("allow all\n")
    try:
        yield
    finally:
        for pid in daemons():
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not daemons(), 10, "the daemons to end")
        subprocess.run(["rm", "-rf", "/etc/airtap", "/run/airtap"], check=True)


def daemons() -> list[int]:
    """Daemons that clients started: orphans, of which this process is the subreaper."""
    found = []
    for pid in sandbox.children():
        with contextlib.suppress(FileNotFoundError):
            cmdline = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"airtapd\0" in cmdline:
                found.append(pid)
            elif not cmdline:  # it ends, or has ended
                os.waitpid(pid, 0)
    return found


@pytest.mark.usefixtures("defaults")
def test_helper_of_root_starts_the_daemon(lan: Lan) -> None:
    tap = run_helper([f"--br={lan.near}", f"--mac={MAC}"], uid=0)
    assert tap.status == 0, tap.stderr
    [pid] = daemons()
    log = f"{DEFAULT_SOCKET}.log"
    assert os.readlink(f"/proc/{pid}/fd/2") == log
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert os.getsid(pid) == pid
    # Now it serves ordinary users too.
    other = run_helper([f"--br={lan.near}"])
    assert other.status == 0, other.stderr
    assert daemons() == [pid]
    tap.close()
    other.close()


@pytest.mark.usefixtures("defaults")
def test_cli_of_root_starts_the_daemon() -> None:
    done = subprocess.run([BIN / "airtap", "status"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "no guests\n")
    assert len(daemons()) == 1


@pytest.mark.usefixtures("defaults")
def test_a_crowd_of_starters_starts_one(lan: Lan) -> None:
    with ThreadPoolExecutor(20) as pool:
        taps = list(pool.map(lambda _: run_helper([f"--br={lan.near}"], uid=0), range(20)))
    assert [tap.stderr for tap in taps if tap.status] == []
    assert len(daemons()) == 1
    assert len(guest_devices()) == 20
    for tap in taps:
        tap.close()


@pytest.mark.usefixtures("defaults")
def test_user_does_not_start_the_daemon(lan: Lan) -> None:
    refused = run_helper([f"--br={lan.near}"])
    assert refused.status == 1
    assert f"airtapd does not answer at {DEFAULT_SOCKET}" in refused.stderr
    assert daemons() == []


@pytest.mark.usefixtures("defaults")
def test_under_systemd_nobody_starts_the_daemon(lan: Lan) -> None:
    Path("/run/systemd/system").mkdir(parents=True)
    try:
        refused = run_helper([f"--br={lan.near}"], uid=0)
        assert refused.status == 1
        assert "systemctl enable --now airtapd.socket" in refused.stderr
        assert daemons() == []
    finally:
        Path("/run/systemd/system").rmdir()
        Path("/run/systemd").rmdir()


@pytest.mark.usefixtures("defaults")
def test_daemon_that_cannot_start_is_said(lan: Lan) -> None:
    Path("/etc/airtap/airtap.toml").write_text("oops = 1\n")
    refused = run_helper([f"--br={lan.near}"], uid=0)
    assert refused.status == 1
    assert "airtapd.sock.log" in refused.stderr
    assert "unknown key oops" in Path(f"{DEFAULT_SOCKET}.log").read_text()


@pytest.mark.usefixtures("defaults")
def test_idle_daemon_ends_but_not_while_it_has_a_guest(lan: Lan) -> None:
    program = [str(BIN / "airtapd"), "--exit-when-idle", "0.5"]
    daemon = subprocess.Popen(program, stderr=subprocess.DEVNULL)
    wait_for(lambda: answers(str(DEFAULT_SOCKET)), 10, "the daemon")
    tap = run_helper([f"--br={lan.near}"])
    time.sleep(1.5)
    assert daemon.poll() is None
    tap.close()
    assert daemon.wait(10) == 0
    assert not DEFAULT_SOCKET.exists()


@pytest.mark.usefixtures("defaults")
def test_idle_end_loses_no_client(lan: Lan) -> None:
    """A daemon that ends after 0.05 s without anybody, and clients that come about then.

    Each comes a bit later than the one before, until the daemon has ended; its device goes first,
    which takes as long as the machine is busy.
    """
    pause, daemons = 0.03, 0
    while daemons < 8:
        if not answers(str(DEFAULT_SOCKET)):
            daemon = subprocess.Popen(
                [str(BIN / "airtapd"), "--exit-when-idle", "0.05"], stderr=subprocess.DEVNULL
            )
            wait_for(lambda: answers(str(DEFAULT_SOCKET)), 10, "the daemon", interval=0.005)
            daemons += 1
            pause /= 2
        result = run_helper([f"--br={lan.near}"], uid=0)
        assert result.status == 0, result.stderr
        result.close()
        time.sleep(pause)
        pause += 0.005
        assert pause < 5
    wait_for(lambda: daemon.poll() is not None, 10, "the last daemon to end")


ACTIVATE = f"""
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv("{BIN}/airtapd", ["airtapd", "--config", sys.argv[2]])
"""


def test_socket_activation_and_readiness(lan: Lan) -> None:
    """sd_listen_fds(3) and sd_notify(3), as systemd does them for data/*.service."""
    airtapd = Airtapd()
    notify_path = f"{airtapd.directory}/notify"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        notify.bind(notify_path)
        notify.settimeout(10)
        listener.bind(airtapd.socket)
        os.chmod(airtapd.socket, 0o666)
        listener.listen(64)
        daemon = subprocess.Popen(
            [sys.executable, "-c", ACTIVATE, str(listener.fileno()), str(airtapd.config)],
            pass_fds=[listener.fileno()],
            env={**os.environ, "LISTEN_FDS": "1", "NOTIFY_SOCKET": notify_path},
            stderr=subprocess.DEVNULL,
        )
        assert notify.recv(100) == b"READY=1"
        airtapd.attach(lan.near, MAC).close()
        daemon.terminate()
        assert daemon.wait(10) == 0
        assert notify.recv(100) == b"STOPPING=1"
    assert Path(airtapd.socket).exists(), "systemd's socket is systemd's"


def test_systemd_units_are_valid() -> None:
    for unit in ("airtapd.service", "airtapd.socket"):
        text = (Path(__file__).parents[2] / "data" / unit).read_text()
        assert "[Unit]" in text
    # It leaves /run/systemd behind, by which others would tell that systemd runs here.
    verify = 'mount -t tmpfs tmpfs /run && exec systemd-analyze verify --man=no "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", verify, "sh", *map(str, unit_files())],
        capture_output=True,
        text=True,
    )
    complaints = [line for line in done.stderr.splitlines() if "airtapd" in line]
    # The program is where `make install` puts it, not here.
    assert [line for line in complaints if "is not executable" not in line] == []


def unit_files() -> list[Path]:
    return sorted((Path(__file__).parents[2] / "data").glob("airtapd.*"))


def test_daemon_needs_root() -> None:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", "from airtap.daemon.main import main; raise SystemExit(main())"],
        user=10001,
        group=10001,
        extra_groups=[],
        env={"PYTHONPATH": f"{sandbox.TREE}/src:{site_packages()}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "must run as root" in done.stderr


def site_packages() -> Path:
    [found] = (sandbox.TREE / ".venv/lib").glob("python3*/site-packages")
    return found

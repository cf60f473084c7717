"""airtap-bridge-helper: its command line, and the whole program against a daemon played here."""

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtap import helper
from airtap.errors import Problem
from airtap.ipc import protocol

TREE = Path(__file__).resolve().parents[2]
PROGRAM = TREE / "helper/airtap-bridge-helper"
# As in the launcher's first line, with room for options of Python's.
PYTHON = ("/usr/bin/python3", "-I", "-S")

# What a successful run may import beyond a bare start of Python. Each of them costs every guest
# start; json, re, socket, enum, struct, argparse, subprocess or pathlib would double the whole.
# With /usr/bin/python3 of Debian 12, site and so os are not part of `python3 -I -S -c pass`.
BUDGET = {
    "os",
    "stat",
    "_stat",
    "posixpath",
    "genericpath",
    "abc",
    "_abc",
    "_collections_abc",
    "_socket",
    "_json",
    "airtap",
    "airtap.helper",
    "airtap.ipc",
    "airtap.ipc.client",
    "airtap.ipc.protocol",
    "airtap.errors",
}


# The command line.

FD = ["--fd=3"]
BR = ["--br=br0"]


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        (["--br=br0", "--fd=3"], ("br0", 3, None, False)),
        (["--use-vnet", "--fd=3", "--br=br0"], ("br0", 3, None, True)),
        (["--fd=3", "--br=br0", "--use-vnet", "--use-vnet"], ("br0", 3, None, True)),
        (["--mac=52:54:00:12:34:56", *BR, *FD], ("br0", 3, "52:54:00:12:34:56", False)),
        # Empty and strange values are the broker's to judge: it knows what a name is.
        (["--br=", *FD], ("", 3, None, False)),
        (["--mac=", *BR, *FD], ("br0", 3, "", False)),
        (["--br=--fd=4", *FD], ("--fd=4", 3, None, False)),
        (["--br=a=b", *FD], ("a=b", 3, None, False)),
        (["--br=" + "x" * 5000, *FD], ("x" * 5000, 3, None, False)),
        # The last one counts.
        (["--br=br1", *BR, *FD], ("br0", 3, None, False)),
        ([*BR, "--br=", *FD], ("", 3, None, False)),
        ([*BR, "--fd=x", *FD], ("br0", 3, None, False)),
        (["--mac=x", "--mac=y", *BR, *FD], ("br0", 3, "y", False)),
    ],
)
def test_parse(arguments: list[str], parsed: tuple[str, int, str | None, bool]) -> None:
    assert helper.parse(arguments) == parsed


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ([], "no --br="),
        (BR, "no --fd="),
        (FD, "no --br="),
        ([*BR, *FD, "--vnet"], "--vnet"),
        ([*BR, *FD, "--use-vnet="], "--use-vnet="),
        ([*BR, *FD, "--use-vnet=1"], "--use-vnet=1"),
        ([*BR, *FD, ""], "''"),
        ([*BR, *FD, "br1"], "br1"),
        ([*BR, *FD, "--"], "--"),
        ([*BR, *FD, "-h"], "-h"),
        ([*BR, *FD, "--help"], "--help"),
        (["--help", *BR, *FD], "--help"),
        (["--help", "--help"], "--help"),
        ([*BR, *FD, "--mac"], "--mac"),
        ([*BR, *FD, "--Br=br0"], "--Br=br0"),
        (["--br", "br0", *FD], "--br"),
        ([*BR, "--fd", "3"], "--fd"),
        ([*FD, *BR, " --use-vnet"], " --use-vnet"),
        ([*BR, *FD, "--\udcff\n"], "--\\udcff\\n"),
        ([*BR, *FD, "-" * 100_000], "----"),
        # The last --fd counts here too.
        ([*BR, *FD, "--fd="], "no --fd="),
        ([*BR, *FD, "--fd=-1"], "no --fd="),
    ],
)
def test_usage_errors(arguments: list[str], about: str) -> None:
    with pytest.raises(Problem) as caught:
        helper.parse(arguments)
    text = str(caught.value)
    assert caught.value.code == "usage"
    assert about in text
    assert text.isprintable() and len(text) < 300
    assert "usage: airtap-bridge-helper" in text


# What atoi() makes of a text: blanks and a sign in front, anything behind.
NUMBERS = {
    0: ["0", "0x10"],
    1: ["1.5", "1e3"],
    3: ["3", "3\n", "3-", " 3", "\t\n\v\f\r 3", "+3", " +3", "3\udcff"],
    7: ["007"],
    12: ["12", "12x", "12 7"],
    999999999: ["999999999"],
}
NO_NUMBERS = ["", "x", "x3", "++3", "+-3", "+ 3", "+", " ", "\xa03", "\u0663", "\u00b2", "\uff13"]
NO_DESCRIPTORS = ["-1", "-0", "-3", "--fd=3", "1000000000", "2147483648", "4294967299", "9" * 5000]


@pytest.mark.parametrize(
    ("text", "number"), [(text, number) for number, texts in NUMBERS.items() for text in texts]
)
def test_fd_is_read_as_by_atoi(text: str, number: int) -> None:
    assert helper.parse([*BR, f"--fd={text}"])[1] == number


@pytest.mark.parametrize("text", NO_NUMBERS + NO_DESCRIPTORS)
def test_fd_that_is_none(text: str) -> None:
    with pytest.raises(Problem):
        helper.parse([*BR, f"--fd={text}"])


@given(st.integers(0, 999_999_999), st.sampled_from(["", " ", "\t+", "00"]), st.text())
def test_any_fd_and_anything_behind_it(number: int, before: str, behind: str) -> None:
    if behind[:1].isdecimal() or len(before + str(number)) > 9:
        behind, before = "", ""
    assert helper.parse([*BR, f"--fd={before}{number}{behind}"])[1] == number


_WORDS = st.sampled_from(["--br=", "--fd=", "--mac=", "--use-vnet", "--help", "3", "br0", "=", "-"])


@given(st.lists(st.lists(_WORDS | st.text()).map("".join)))
def test_parse_raises_nothing_but_a_problem(arguments: list[str]) -> None:
    try:
        br, fd, mac, _vnet = helper.parse(arguments)
    except Problem as problem:
        assert problem.code == "usage"
        return
    assert f"--br={br}" in arguments
    assert mac is None or f"--mac={mac}" in arguments
    assert 0 <= fd < 10**9


# The socket.


def test_socket_of_qemu() -> None:
    near, far = socket.socketpair()
    with near:
        taken = helper.qemu_socket(far.detach())
        taken.send(b"x")
        assert near.recv(2) == b"x"
        taken.close()


def test_fd_that_is_closed() -> None:
    near, far = socket.socketpair()
    number = far.fileno()
    near.close()
    far.close()
    with pytest.raises(Problem) as caught:
        helper.qemu_socket(number)
    assert caught.value.code == "bad-fd"
    assert f"--fd={number} is not a socket: Bad file descriptor" in str(caught.value)


def test_fd_that_is_no_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(Problem) as caught:
            helper.qemu_socket(file.fileno())
        assert caught.value.code == "bad-fd"
        assert stat.S_ISREG(os.fstat(file.fileno()).st_mode)  # it is not ours to close


def test_huge_fd() -> None:
    with pytest.raises(Problem) as caught:
        helper.qemu_socket(999_999_999)
    assert caught.value.code == "bad-fd"


# The program.


@dataclass
class Run:
    """What became of a run: descriptors are closed, "fds" says how many had come."""

    status: int
    stdout: str
    stderr: str
    data: bytes
    fds: int
    request: bytes


class Daemon:
    """A socket where this process plays airtapd."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()
        self.listener.settimeout(20)

    @contextmanager
    def answer(self, packet: bytes, fds: list[int]) -> Iterator[list[bytes]]:
        """Answer the one request that comes while the block runs."""
        seen: list[bytes] = []
        yield seen
        connection, _ = self.listener.accept()
        with connection:
            seen.append(connection.recv(protocol.MAX_REQUEST + 1))
            if packet:
                socket.send_fds(connection, [packet], fds)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    played = Daemon(tmp_path / "airtapd.sock")
    with played.listener:
        yield played


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDWR)
    yield fd
    os.close(fd)


GOOD = b'{"ok": true, "device": "airtap0"}'


def run(
    arguments: list[str | bytes],
    *,
    daemon: Daemon | None = None,
    answer: tuple[bytes, list[int]] | None = None,
    python: tuple[str, ...] = PYTHON,
    env: dict[str, str] | None = None,
) -> Run:
    """Run the helper; "@" in arguments is the number of its socket."""
    near, far = socket.socketpair()
    with near, far:
        number = str(far.fileno())
        words = [
            w.replace(b"@", number.encode()) if isinstance(w, bytes) else w.replace("@", number)
            for w in arguments
        ]
        where = str(daemon.path) if daemon else "/nowhere/airtapd.sock"
        process = subprocess.Popen(
            [*python, PROGRAM, *words],
            pass_fds=[far.fileno()],
            env={"LC_ALL": "C.UTF-8", "AIRTAP_SOCKET": where, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        requests: list[bytes] = []
        if daemon and answer:
            with daemon.answer(*answer) as requests:
                pass
        stdout, stderr = process.communicate(timeout=20)
        far.close()
        data, fds, _flags, _address = socket.recv_fds(near, 16, 4)
        for fd in fds:
            os.close(fd)
    return Run(process.returncode, stdout, stderr, data, len(fds), requests[0] if requests else b"")


def imported(python_stderr: str) -> set[str]:
    """The modules in the output of python -X importtime."""
    lines = [line for line in python_stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


def test_import_budget(daemon: Daemon, null: int) -> None:
    """A successful run imports no more than it has to."""
    timed = (*PYTHON, "-X", "importtime")
    bare = subprocess.run(
        [*timed, "-c", "pass"], env={"LC_ALL": "C.UTF-8"}, text=True, capture_output=True
    )
    done = run(
        ["--use-vnet", "--fd=@", "--br=br0"], daemon=daemon, answer=(GOOD, [null]), python=timed
    )
    assert (done.status, done.data, done.fds) == (0, b"\0", 1)
    loaded = imported(done.stderr) - imported(bare.stderr)
    assert loaded - BUDGET == set(), "a new import: every guest start pays for it"
    assert {name for name in BUDGET if name.startswith("airtap")} <= loaded


@pytest.mark.parametrize("uses", ["--mac=52:54:00:12:34:56", "--use-vnet"])
def test_success(daemon: Daemon, null: int, uses: str) -> None:
    done = run([uses, "--br=eth0", "--fd=@"], daemon=daemon, answer=(GOOD, [null]))
    assert (done.status, done.data, done.fds) == (0, b"\0", 1)
    assert (done.stdout, done.stderr) == ("", "")
    mac = uses.removeprefix("--mac=") if "mac" in uses else None
    expected = {"op": "attach", "br": "eth0", "mac": mac, "vnet_hdr": uses == "--use-vnet"}
    assert protocol.decode(done.request) == expected


def refused(done: Run) -> str:
    """The one line of a run that failed."""
    assert (done.status, done.data, done.fds, done.stdout) == (1, b"", 0, "")
    assert done.stderr.startswith("airtap-bridge-helper: ")
    assert done.stderr.endswith("\n") and done.stderr[:-1].isprintable()
    return done.stderr


def test_refusal_is_passed_on(daemon: Daemon) -> None:
    answer = protocol.encode(protocol.failure(Problem("access-denied", "no\nway", "ask nicely")))
    done = run(["--br=eth0", "--fd=@"], daemon=daemon, answer=(answer, []))
    assert refused(done) == "airtap-bridge-helper: no\\nway; ask nicely\n"


@pytest.mark.parametrize(
    "packet", [GOOD, b"{}", b"[]", b"null", b"\xff", b"x" * 60_000, b'{"ok": false}']
)
def test_senseless_answers(daemon: Daemon, packet: bytes) -> None:
    refused(run(["--br=eth0", "--fd=@"], daemon=daemon, answer=(packet, [])))


def test_daemon_hangs_up(daemon: Daemon) -> None:
    done = run(["--br=eth0", "--fd=@"], daemon=daemon, answer=(b"", []))
    assert "ended the connection" in refused(done)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--br=eth0"],
        ["--fd=@"],
        ["--br=eth0", "--fd=@", "--nonsense"],
        ["--help", "--br=eth0", "--fd=@"],
        ["--br=eth0", "--fd=@", "--help"],
        ["--br=eth0", "--fd="],
        ["--br=eth0", "--fd=-1"],
        ["--br=eth0", "--fd=0"],
        ["--br=eth0", "--fd=1"],
        ["--br=eth0", "--fd=999"],
        ["--br=eth0", "--fd=99999999999999999999"],
        [b"--br=eth0", b"--fd=@", b"--\xff"],
        ["--br=eth0", "--fd=@", "x" * 100_000],
        # Longer than a request may be.
        ["--br=" + "x" * 5000, "--fd=@"],
        [b"--br=" + b"\xff" * 1000, b"--fd=@"],
    ],
)
def test_refused_before_the_daemon_hears_of_it(
    daemon: Daemon, arguments: list[str | bytes]
) -> None:
    refused(run(arguments, daemon=daemon))
    daemon.listener.settimeout(0)
    try:
        connection, _ = daemon.listener.accept()
    except BlockingIOError:
        return
    with connection:
        assert connection.recv(1) == b""


def test_any_name_is_asked_for_as_it_was_typed(daemon: Daemon) -> None:
    """Whatever the bytes: the broker says what is wrong with them."""
    answer = protocol.encode(protocol.failure(Problem("bad-name", "no")))
    for locale in ("C", "C.UTF-8", "POSIX", "xx_XX.nonsense"):
        done = run(
            [b"--br=\xc3\xbc\xff\n", b"--fd=@"],
            daemon=daemon,
            answer=(answer, []),
            env={"LC_ALL": locale},
        )
        refused(done)
        assert protocol.decode(done.request)["br"] == "ü\udcff\n"


def test_nobody_reads_what_is_sent(daemon: Daemon, null: int) -> None:
    """QEMU has gone: status 1 and a line that says so, not death by SIGPIPE."""
    near, far = socket.socketpair()
    near.close()
    number = far.fileno()
    with far:
        process = subprocess.Popen(
            [*PYTHON, PROGRAM, "--br=eth0", f"--fd={number}"],
            pass_fds=[number],
            env={"AIRTAP_SOCKET": str(daemon.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with daemon.answer(GOOD, [null]):
            pass
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert stderr == f"airtap-bridge-helper: cannot send on --fd={number}: Broken pipe\n"


def test_help() -> None:
    done = run(["--help"])
    assert (done.status, done.stderr, done.data, done.fds) == (0, "", b"", 0)
    assert "--br=NAME" in done.stdout and "bridge.conf" in done.stdout


def test_launcher_does_not_read_the_environment_or_site(daemon: Daemon, tmp_path: Path) -> None:
    """It is run by QEMU in whatever surroundings; PYTHONPATH must not reach it."""
    (tmp_path / "airtap.py").write_text("raise SystemExit(42)\n")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit(43)\n")
    done = run(
        ["--br=eth0", "--fd=@"],
        daemon=daemon,
        answer=(b"{}", []),
        env={"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "airtap.py")},
        python=(),  # by its first line
    )
    refused(done)

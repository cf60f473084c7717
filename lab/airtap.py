"""The programs under test: airtapd in the sandbox, and the bridge helper as QEMU runs it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airtap.cli.commands.status import fetch
from airtap.ipc import client, protocol
from lab import sandbox
from lab.guest import GUEST_UID
from lab.lan import wait_for
from lab.running import Running

BIN = Path(__file__).resolve().parent.parent / ".venv/bin"
# The path by which every user reaches the helper.
HELPER = sandbox.TREE / ".venv/bin/airtap-bridge-helper"

# Constants of an airtapd that drops after a second who is silent or does not read, not after ten.
IMPATIENT = {"daemon.server.IDLE_S": 1.0}


@dataclass(frozen=True)
class Function:
    """A value of airtapd's constants that is written as an expression: think of a lambda."""

    source: str


class Airtapd(Running):
    """One airtapd in the foreground, with a configuration of its own.

    config: the text of airtap.toml after its acl line. acl: the text of bridge.conf; None for
    no such file. socket: its path; None for one of its own. environment: more of its variables.
    constants: of its modules, that have another value in this one: {"daemon.server.IDLE_S": 1.0}.
    It can be killed and started again on the same files.
    """

    def __init__(
        self,
        *,
        config: str = "",
        acl: str | None = "allow all\n",
        socket: str | None = None,
        environment: Mapping[str, str] | None = None,
        constants: Mapping[str, object] | None = None,
    ) -> None:
        sandbox.require()
        self.directory = Path(tempfile.mkdtemp(prefix="airtapd-", dir="/run"))
        self.directory.chmod(0o755)
        self.socket = socket or str(self.directory / "airtapd.sock")
        self.acl = self.directory / "bridge.conf"
        self.config = self.directory / "airtap.toml"
        self.config.write_text(f'acl = "{self.acl}"\n{config}')
        if acl is not None:
            self.acl.write_text(acl)
            self.acl.chmod(0o644)
        self.env = {"AIRTAP_SOCKET": self.socket}
        self._environment = {**os.environ, **(environment or {})}
        self.program = _changed(constants) if constants else [str(BIN / "airtapd")]
        self.arguments: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._orphans: set[int] = set()

    def close(self) -> None:
        if self.alive:  # what has just been closed may be held at its first look
            with contextlib.suppress(TimeoutError):
                wait_for(lambda: not _devices(), 1, "the devices of guests that have ended to go")
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until its socket answers. RuntimeError carries what it said."""
        files = ["--config", str(self.config), "--socket", self.socket]
        with self._log().open("ab") as log:
            self._process = subprocess.Popen(
                sandbox.dying_with_us([*self.program, *files, *self.arguments]),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, 60, "airtapd's socket to answer", interval=0.01)
        self._await_orphans()

    def stop(self) -> int:
        """End it as systemd does; returns its exit status. Stopping twice is fine."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(10)
        self._await_orphans()
        return status

    def kill(self) -> None:
        """End it as a crash would. Commands that it has begun go on, until start() or stop()."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # from now on it begins none
        with contextlib.suppress(FileNotFoundError):  # it has ended already
            self._orphans |= sandbox.children(self.pid)
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        return self._log().read_text()

    def fds(self) -> list[str]:
        """What its open file descriptors point to."""
        found = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(link))
        return sorted(found)

    def settled_fds(self) -> list[str]:
        """fds(), once a client that has just left is gone from them."""
        seen = self.fds()
        while True:
            time.sleep(0.1)
            if (now := self.fds()) == seen:
                return now
            seen = now

    def status(self) -> dict[str, Any]:
        """What airtap status --json has for root; no program starts, which takes longer than it."""
        with contextlib.closing(client.Connection(self.socket, start=False)) as connection:
            return fetch(connection)

    def guests(self) -> list[dict[str, Any]]:
        """Every guest of the status, of whatever uplink."""
        return [guest for uplink in self.status()["uplinks"] for guest in uplink["guests"]]

    def airtap(
        self, *argv: str, uid: int = 0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run the CLI as a user: from where users other than root find it."""
        program = BIN / "airtap" if uid == 0 else sandbox.TREE / "helper/airtap"
        return subprocess.run(
            [str(program), *argv],
            env={**os.environ, **self.env},
            user=uid,
            group=uid,
            extra_groups=[],
            check=check,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )

    def tap(self, br: str, mac: str | None = None) -> Attached:
        """Ask for a tap as the helper does, but from here: by root, and without its start."""
        with contextlib.closing(client.Connection(self.socket, start=False)) as connection:
            connection.send("attach", br=br, mac=mac, vnet_hdr=True)
            answer, fd = connection.receive()
        protocol.read_answer(answer)
        assert fd is not None
        return Attached(0, "", fd, b"")

    def attach(self, br: str, mac: str | None = None, *, uid: int = GUEST_UID) -> Attached:
        """Run the helper as QEMU does; AssertionError, with its complaint, if it refuses."""
        options = [] if mac is None else [f"--mac={mac}"]
        result = run_helper([*options, f"--br={br}"], env=self.env, uid=uid)
        assert result.status == 0, result.stderr
        return result

    def _await_orphans(self) -> None:
        while self._orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._orphans.pop(), 0)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"airtapd: exit {self._process.returncode}: {self.log()}")
        # Not another: a command that its predecessor was just beginning has a copy of that one's
        # socket until it executes its program.
        return listener_of(self.socket) == self.pid

    def _log(self) -> Path:
        return self.directory / "log"


def _changed(constants: Mapping[str, object]) -> list[str]:
    """airtapd with other values of constants: what it runs."""
    modules = {"daemon.main", *(name.rpartition(".")[0] for name in constants)}
    imports = [f"import airtap.{module}" for module in sorted(modules)]
    settings = [f"airtap.{name} = {_source(value)}" for name, value in constants.items()]
    place = f"import sys; sys.argv[0] = {str(BIN / 'airtapd')!r}"  # the commands are beside it
    lines = [*imports, *settings, place, "airtap.daemon.main.main()"]
    return [str(BIN / "python"), "-c", "\n".join(lines)]


def _source(value: object) -> str:
    return value.source if isinstance(value, Function) else repr(value)


def listener_of(path: str) -> int:
    """Return the id of the process that began to listen at path; 0 if nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except OSError:
            return 0
        pid, _uid, _gid = struct.unpack(
            "3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        return int(pid)


def answers(path: str) -> bool:
    """Tell whether a daemon accepts connections at path."""
    return listener_of(path) != 0


@contextlib.contextmanager
def in_place_of(airtapd: Airtapd) -> Iterator[socket.socket]:
    """A listener at airtapd's socket, which runs again afterwards: what is said is the test's."""
    airtapd.stop()
    Path(airtapd.socket).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(airtapd.socket)
        os.chmod(airtapd.socket, 0o666)
        listener.listen()
        listener.settimeout(60)
        try:
            yield listener
        finally:
            os.unlink(airtapd.socket)
    airtapd.start()


@dataclass
class Attached:
    """What became of one run of a bridge helper.

    fd: the tap that it sent, -1 if it sent none. data: the bytes that came with it.
    """

    status: int
    stderr: str
    fd: int
    data: bytes

    @property
    def device(self) -> str:
        """The name of the network device behind the tap."""
        for line in Path(f"/proc/self/fdinfo/{self.fd}").read_text().splitlines():
            if line.startswith("iff:"):
                return line.split()[1]
        return self._macvtap()

    def _macvtap(self) -> str:
        rdev = os.fstat(self.fd).st_rdev
        node = Path(f"/sys/dev/char/{os.major(rdev)}:{os.minor(rdev)}")
        if not node.exists():
            raise LookupError(f"no device has the tap {node.name}")
        return node.resolve().parent.parent.name

    def take(self) -> int:
        """The descriptor, which the caller owns from now on."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.take())

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def run_helper(
    options: Sequence[str],
    *,
    program: Path | str | None = None,
    prefix: Sequence[str] = (),
    env: dict[str, str] | None = None,
    uid: int = GUEST_UID,
    gid: int | None = None,
    groups: Sequence[int] = (),
    vnet: bool = True,
    fd_option: str | None = None,
    timeout: float = 40.0,
) -> Attached:
    """Run a bridge helper as QEMU's net/tap.c does: one end of a socket pair as --fd.

    fd_option: what to write instead of --fd=N, "{fd}" standing for N. prefix: words that run it
    elsewhere and as another user; uid, gid and groups then do not count.
    """
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with near, far:
        fd_word = (fd_option or "--fd={fd}").format(fd=far.fileno())
        helper = [*prefix, str(program or HELPER)]
        vnet_option = ["--use-vnet"] if vnet else []
        argv = [*helper, *vnet_option, fd_word, *options]
        if prefix:
            uid, gid, groups = 0, 0, ()
        done = subprocess.run(
            argv,
            pass_fds=[far.fileno()],
            env={**os.environ, **(env or {})},
            user=uid,
            group=uid if gid is None else gid,
            extra_groups=list(groups),
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            cwd="/",
        )
        far.close()
        data, fds, _flags, _address = socket.recv_fds(near, 16, 4)
    fd = fds[0] if fds else -1
    return Attached(done.returncode, done.stderr, fd, data)


def _devices() -> list[str]:
    return [name for name in sandbox.host_links() if name.startswith("airtap")]


@contextlib.contextmanager
def airtapd(**options: Any) -> Iterator[Airtapd]:
    """A running airtapd."""
    with Airtapd(**options) as daemon:
        yield daemon

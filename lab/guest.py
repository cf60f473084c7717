"""A real QEMU guest with iPXE as its operating system: DHCP, TFTP, ARP and ping, and no disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lab import sandbox
from lab.lan import Lan, wait_for
from lab.running import Running

GUEST_UID = 10001
ISO = Path("/usr/lib/ipxe/ipxe.iso")

# iPXE waits here for two seconds, if no other key is pressed.
PROMPT = "Press Ctrl-B for the iPXE command line..."

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BOOTED = re.compile(r"AIRTAP-GUEST ([0-9a-f:]{17}) ([0-9.]+) booted")

T = TypeVar("T")


class QmpError(Exception):
    """QEMU refused a command; str() is its description."""


class QemuGuest(Running):
    """One QEMU process that boots from the network, run by an unprivileged user."""

    def __init__(
        self,
        mac: str,
        netdev: str | None,
        *,
        name: str = "guest",
        uid: int = GUEST_UID,
        gid: int | None = None,
        groups: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        memory: int = 64,
        extra: Sequence[str] = (),
    ) -> None:
        """Describe the guest; nothing runs before start().

        netdev: the argument of -netdev, with an id=; None for a guest without a network card.
        gid: the uid's number if None. env: added to this process's environment. memory: in MiB.
        extra: more QEMU arguments.
        """
        self.mac = mac.lower()
        self.netdev = netdev
        self.name = name
        self.uid = uid
        self.gid = uid if gid is None else gid
        self.groups = list(groups)
        self.env = dict(env or {})
        self.pass_fds = tuple(pass_fds)
        self.memory = memory
        self.extra = list(extra)
        self.directory = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: _Monitor | None = None
        self._last: dict[str, str] = {}
        self._runs = 0

    @property
    def pid(self) -> int:
        """The process id of QEMU itself."""
        return self._started().pid

    @property
    def alive(self) -> bool:
        """Whether QEMU is running."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start QEMU and return at once; a refused helper shows as an early exit, not here."""
        if self.alive:
            raise RuntimeError(f"{self.name} is running already")
        self.close()
        self._last = {}
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir="/run"))
        os.chown(self.directory, self.uid, self.gid)
        with (self.directory / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                sandbox.dying_with_us(self._argv()),
                user=self.uid,
                group=self.gid,
                extra_groups=self.groups,
                env={**os.environ, "HOME": str(self.directory), **self.env},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=self.pass_fds,
                start_new_session=True,
            )

    def stop(self, timeout: float = 5.0) -> None:
        """End QEMU: asked first, killed after timeout seconds; stopping twice is fine."""
        if self._qmp:
            self._qmp.close()
            self._qmp = None
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End QEMU as a crash would."""
        process = self._started()
        process.kill()
        process.wait()

    def close(self) -> None:
        """Stop, and remove the guest's files; serial() and stderr() keep their last text."""
        self.stop()
        if self.directory != Path():
            self._last = {name: self._read(name) for name in ("serial", "stderr")}
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = Path()

    def wait_exit(self, timeout: float = 10.0) -> int:
        """Return QEMU's exit status, waiting up to timeout seconds for its end."""
        try:
            return self._started().wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"waited {timeout:g} s for {self.name} to end") from None

    def serial(self) -> str:
        """Return what firmware and guest have printed, without terminal escapes."""
        return _ESCAPES.sub("", self._read("serial"))

    def stderr(self) -> str:
        """Return what QEMU, and a helper that it ran, have complained about."""
        return self._read("stderr")

    def booted(self) -> str | None:
        """Return the guest's IPv4 address once it runs the boot script, else None."""
        found = _BOOTED.findall(self.serial())
        return next((address for mac, address in found if mac == self.mac), None)

    def wait_booted(self, timeout: float = 60.0) -> str:
        """Return booted(), waiting up to timeout seconds for it.

        Raises RuntimeError when QEMU ends before that; both errors carry what it has said.
        """
        return self._wait(self.booted, timeout, "boot")

    def run(self, lan: Lan, *commands: str, timeout: float = 60.0) -> str:
        """Have a booted guest run iPXE commands, and return what they print, cut at 80 columns.

        Each runs whatever became of the one before it. lan: where the guest has booted; it gets
        them from there, as the script that it fetches when Ctrl-C is pressed. Raises as
        wait_booted() does.
        """
        self._runs += 1
        begin, end = f"AIRTAP-RUN {self._runs} begins", f"AIRTAP-RUN {self._runs} ends"
        lines = ("#!ipxe", f"echo {begin}", *(f"{line} ||" for line in commands), f"echo {end}")
        script = lan.tftp_root / f"{self.mac.replace(':', '-')}.ipxe"
        script.write_text("".join(f"{line}\n" for line in lines))
        self._press("ctrl", "c")
        between = re.compile(rf"^{begin}\n(.*)^{end}\n", re.DOTALL | re.MULTILINE)
        return self._wait(lambda: between.search(self.serial()), timeout, f"run {commands}")[1]

    def qmp(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Run a QMP command and return its result; events that arrive meanwhile are dropped.

        Raises QmpError when QEMU refuses. Argument names with a dash need a `**{...}`.
        """
        if self._qmp is None:
            self._qmp = _Monitor(self._connect())
        return self._qmp.ask(command, arguments)

    def _press(self, *keys: str) -> None:
        self.qmp("send-key", keys=[{"type": "qcode", "data": key} for key in keys])

    def _connect(self) -> socket.socket:
        path = str(self.directory / "qmp")

        def connection() -> socket.socket | None:
            if not self.alive:
                raise RuntimeError(f"{self.name} has ended{self._said()}")
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return _connected(path)
            return None

        peer = wait_for(connection, 10.0, f"the QMP socket of {self.name}")
        assert peer is not None
        return peer

    def _argv(self) -> list[str]:
        argv = [
            *("qemu-system-x86_64", "-name", self.name, "-accel", "tcg", "-m", str(self.memory)),
            # graphics=off: firmware and iPXE print to the serial port.
            *("-machine", "pc,graphics=off", "-display", "none"),
            *("-nodefaults", "-no-user-config", "-boot", "n"),
            *("-serial", f"file:{self.directory / 'serial'}"),
            *("-qmp", f"unix:{self.directory / 'qmp'},server=on,wait=off"),
        ]
        if self.netdev is not None:
            device = f"virtio-net-pci,netdev={_netdev_id(self.netdev)},mac={self.mac}"
            argv += ["-netdev", self.netdev, "-device", device]
        return argv + self.extra

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process

    def _read(self, name: str) -> str:
        path = self.directory / name
        if self.directory == Path() or not path.exists():
            return self._last.get(name, "")
        return path.read_text(errors="replace")

    def _wait(self, predicate: Callable[[], T | None], timeout: float, what: str) -> T:
        """wait_for() it while QEMU lives; errors carry what the guest has said."""

        def true_or_dead() -> T | None:
            if not self.alive:
                raise RuntimeError(f"{self.name} ended before it could {what}{self._said()}")
            if self.serial().endswith(PROMPT):
                self._press("spc")
            return predicate()

        try:
            found = wait_for(true_or_dead, timeout, f"{self.name} to {what}")
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}{self._said()}") from None
        assert found is not None
        return found

    def _said(self) -> str:
        return f"\nstderr: {self.stderr()[-2000:]}\nserial: {self.serial()[-2000:]}"


def _netdev_id(netdev: str) -> str:
    found = re.search(r"(?:^|,)id=([^,]+)", netdev)
    if not found:
        raise ValueError(f"-netdev {netdev} has no id=")
    return found[1]


def _connected(path: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.settimeout(30.0)
        peer.connect(path)
    except BaseException:
        peer.close()
        raise
    return peer


class _Monitor:
    """A QMP session: one command at a time, events ignored."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._lines = peer.makefile("rb")
        self._lines.readline()  # the greeting
        self.ask("qmp_capabilities", {})

    def ask(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        request = json.dumps({"execute": command, "arguments": arguments})
        self._peer.sendall(request.encode() + b"\n")
        for line in self._lines:
            answer = json.loads(line)
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                result: dict[str, Any] = answer["return"]
                return result
        raise QmpError(f"{command}: QEMU closed the connection")

    def close(self) -> None:
        self._lines.close()
        self._peer.close()

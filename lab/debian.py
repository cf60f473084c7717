"""A Debian that boots by systemd, in namespaces of its own: to install airtap's package in.

systemd is process 1 of a PID namespace, its root an overlay in memory over one of lab/roots.py; so
units run with all that systemd restricts. It shares the sandbox's network, and the kernel and the
device nodes of this system, which it can open and not change. Of its own it starts journald only.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab import sandbox
from lab.lan import wait_for
from lab.roots import root
from lab.running import Running

# Units of the root itself would set up this system's kernel: sysctl, device nodes, consoles.
_BOOT = """\
set -e
mount -t tmpfs tmpfs {directory}/tree
cd {directory}/tree
mkdir upper work root
mount -t overlay overlay -o lowerdir={lower},upperdir=upper,workdir=work root
cd root
rm -rf lib/systemd/system/*.wants etc/systemd/system/*.wants
mkdir etc/systemd/system/multi-user.target.wants
ln -s /lib/systemd/system/systemd-journald.service etc/systemd/system/multi-user.target.wants
: >etc/machine-id
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t bpf bpf sys/fs/bpf
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -o remount,bind,ro sys
mount --bind /dev dev
mount -o remount,bind,ro dev
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir run/shared
mount --bind {shared} run/shared
# No chroot: whoever enters a mount namespace below, as libvirt does, is at that one's root.
pivot_root . .
umount --lazy .
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    /lib/systemd/systemd --unit=multi-user.target
"""

_ALONE = (
    "unshare",
    "--mount",
    "--uts",
    "--ipc",
    "--pid",
    "--fork",
    "--cgroup",
    "--kill-child=KILL",
)
_ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")


class System(Running):
    """One such system, from start() to close()."""

    def __init__(self, suite: str, shared: Path | None = None) -> None:
        """suite: of lab.roots.SUITES. shared: a directory to see at /run/shared; else a new one."""
        sandbox.require()
        self._lower = root(suite)
        self._directory = Path()
        self._shared = shared
        self._process: subprocess.Popen[bytes] | None = None
        self._first = 0

    @property
    def shared(self) -> Path:
        """What it sees at /run/shared."""
        return self._shared or self._directory / "shared"

    def start(self) -> None:
        """Boot it, and wait until that is done. RuntimeError if systemd ends."""
        self._directory = Path(tempfile.mkdtemp(prefix="debian-"))
        try:
            self._boot()
            wait_for(self._booted, 60, "systemd to have booted")
        except BaseException:
            print(self._log.read_text() if self._log.exists() else "")
            self.close()
            raise

    def _boot(self) -> None:
        for name in ("tree", "shared", "cgroups"):
            (self._directory / name).mkdir()
        sandbox.command("mount", "-t", "cgroup2", "cgroup2", str(self._directory / "cgroups"))
        self._cgroup.mkdir()
        script = _BOOT.format(
            directory=self._directory,
            shared=shlex.quote(str(self.shared)),
            lower=shlex.quote(str(self._lower)),
        )
        enter = f'echo $$ >{self._cgroup}/cgroup.procs && exec "$@"'
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                sandbox.dying_with_us(["sh", "-c", enter, "sh", *_ALONE, "--", "sh", "-c", script]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def close(self) -> None:
        """End all of its processes; nothing of it remains."""
        if self._process is not None:
            # Process 1, and so all others, and so unshare, our child.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._first or self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process, self._first = None, 0
        if self._directory == Path():
            return
        wait_for(lambda: not self._processes(), 30, "the system's processes to end")
        for directory, _names, _files in os.walk(self._cgroup, topdown=False):
            Path(directory).rmdir()
        sandbox.command("umount", str(self._directory / "cgroups"))
        sandbox.command("rm", "-rf", "--one-file-system", str(self._directory))
        self._directory = Path()

    def prefix(self, uid: int = 0) -> list[str]:
        """The words that, put before a command, run it there, as a user."""
        as_user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        return [
            *("nsenter", f"--target={self._first}", "--mount", "--uts", "--ipc", "--pid"),
            *("--cgroup", "--root", "--wdns=/", "--", "env", "-i", *_ENVIRONMENT, *as_user),
        ]

    def run(
        self, *argv: str, check: bool = True, uid: int = 0, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there. text: its standard input. With check, RuntimeError if it fails."""
        return _checked([*self.prefix(uid), *argv], check, text)

    def install(self, package: Path, *others: str) -> None:
        """Have apt install a package's file, and others, with their dependencies. RuntimeError."""
        name = self.shared / package.name
        name.write_bytes(package.read_bytes())
        self.run(
            *("apt-get", "-qq", "install", "--yes", "--no-install-recommends"),
            *("--allow-downgrades", f"/run/shared/{package.name}", *others),
        )

    def files(self) -> set[str]:
        """All files and directories that are not of the kernel's or in memory."""
        found = self.run("find", "/", "-xdev", "-not", "-type", "s").stdout
        return set(found.splitlines())

    @property
    def _cgroup(self) -> Path:
        return self._directory / "cgroups" / self._directory.name

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _processes(self) -> list[str]:
        return [
            line for path in self._cgroup.rglob("cgroup.procs") for line in path.read_text().split()
        ]

    def _booted(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError("systemd has ended")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return False
        self._first = int(children[0])
        try:
            state = self.run("systemctl", "is-active", "multi-user.target", check=False).stdout
        except OSError:
            return False
        return state.strip() == "active"


def _checked(
    argv: Sequence[str], check: bool, text: str | None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, text=True, capture_output=True, input="" if text is None else text)
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {said[-2000:]}")
    return done

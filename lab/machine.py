"""A throw-away machine with a stock Debian kernel, for what the sandbox's kernel has not: Wi-Fi.

    python -m lab.machine 6.12 -- COMMAND    boot a kernel of lab/kernels.py, run COMMAND there

The machine sees this system's files, read-only, through 9p, and has memory file systems over
/run, /tmp and /var; nothing of it remains. It is emulated (TCG), so that it runs the same
everywhere, and some ten times slower than this system: a Python starts in seconds.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import sandbox
from lab.kernels import REPOSITORY, SUITES, kernel
from lab.running import Running

# Where the machine sees Machine.directory. Not below /run: the sandbox covers that.
SHARED = Path("/tmp/shared")

_MODULES = ("macvtap", "ipvtap", "veth", "tun", "cls_bpf", "sch_ingress")

# What a distribution's boot would have done: modules that nothing else loads, and the node of
# tun. The output goes to a file: the console is slow and lossy.
_INIT = """\
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export AIRTAP_LAB_SLOWNESS=5
{environment}
exec >{shared}/log 2>&1 </dev/null
cached=ro,version=9p2000.L,trans=virtio,msize=524288,cache=loose
mkdir -p {repository} /tmp/usr
mount -t 9p -o $cached repository {repository}
mount -t 9p -o $cached usr /tmp/usr
# A kernel package has lib/modules, and this system may have no such directory to mount it on.
mount -t overlay -o lowerdir={kernel}:/tmp/usr overlay /usr
# The sandbox copies /etc: half a minute, file by file.
mount -t tmpfs -o mode=755 tmpfs /etc && tar -C /etc -xf {shared}/etc.tar
{modules}
mkdir -p /dev/net && {{ [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200; }}
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
ip link set lo up
cd {repository} && echo booted >{shared}/booted && {command}
echo $? >{shared}/status
sync
"""


# Directories that do not change while a machine runs, and where it shows them first. virtme mounts
# without a cache, and then the imports of one test module take a minute.
_LASTING = {"usr": Path("/usr"), "repository": REPOSITORY}
_EXPORT = (
    "-fsdev local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap "
    "-device virtio-9p-pci,fsdev={tag},mount_tag={tag}"
)


class Machine(Running):
    """A machine that boots, runs one command and goes; see _INIT for what is ready there.

    Use it as a context manager: at the end the machine is gone, whatever it was at.
    """

    def __init__(
        self,
        image: Path,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cpus: int = 2,
        memory: str = "2G",
    ) -> None:
        """Describe the machine; nothing runs before start().

        image: a vmlinuz, see lab.kernels.kernel(). argv: the command, run in the repository's
        directory; its standard output and error are log(). env: more of its environment.
        """
        self.image = image
        self.argv = list(argv)
        self.env = dict(env or {})
        self.cpus = cpus
        self.memory = memory
        self.directory = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: dict[str, str] = {}

    @property
    def running(self) -> bool:
        """Whether the machine is there; it goes when its command has ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def booted(self) -> bool:
        """Whether the kernel is up and the command has begun."""
        return bool(self.read("booted"))

    @property
    def status(self) -> int | None:
        """The exit status of the command; None before its end, or if the machine died first."""
        said = self.read("status").strip()
        return int(said) if said else None

    def log(self) -> str:
        """Return what the command has printed so far."""
        return self.read("log")

    def console(self) -> str:
        """Return what the kernel and virtme-ng have printed so far."""
        return self.read("console")

    def start(self) -> None:
        """Boot the machine; returns at once. A failure to boot shows as its early end."""
        self.directory = Path(tempfile.mkdtemp(prefix="machine-"))
        (self.directory / "init").write_text(self._init())
        sandbox.command("tar", "-C", "/etc", "-cf", str(self.directory / "etc.tar"), ".")
        with (self.directory / "console").open("wb") as console:
            self._process = subprocess.Popen(
                sandbox.dying_with_us([*_ALONE, *self._virtme()]),
                env={
                    **os.environ,
                    # virtme-ng looks for programs of its own environment by name,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                    # and leaves files behind when it is killed.
                    "TMPDIR": str(self.directory),
                },
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def wait(self, timeout: float) -> int | None:
        """Return status once the machine has gone. TimeoutError if not in timeout seconds."""
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the machine still runs after {timeout:g} s") from None
        return self.status

    def close(self) -> None:
        """End the machine and remove its files; log() and console() keep their last text."""
        if self._process is not None:
            self._end(self._process)
        if self.directory != Path():
            names = ("log", "console", "booted", "status")
            self._said = {name: self.read(name) for name in names}
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = Path()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """Kill the first process of the machine's PID namespace, and so all that are in it.

        QEMU is a grandchild of virtme-ng. unshare, our child, ends once that namespace is empty.
        """
        with contextlib.suppress(FileNotFoundError):
            for first in (
                Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            ):
                os.kill(int(first), signal.SIGKILL)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _virtme(self) -> list[str]:
        exports = (_EXPORT.format(tag=tag, path=path) for tag, path in _LASTING.items())
        return [
            *(str(Path(sys.executable).parent / "virtme-ng"), "--run", str(self.image)),
            *("--user", "root", "--memory", self.memory, "--cpus", str(self.cpus)),
            # Never KVM: /dev/kvm may be there and still hang a stock kernel.
            *("--disable-kvm", "--force-9p", "--verbose"),
            *("--rwdir", f"{SHARED}={self.directory}"),
            f"--qemu-opts={' '.join(exports)}",
            *("--exec", f"bash {SHARED}/init"),
        ]

    def _init(self) -> str:
        exports = (f"export {name}={shlex.quote(value)}" for name, value in self.env.items())
        return _INIT.format(
            environment="\n".join(exports),
            kernel=shlex.quote(str(self.image.parent.parent)),
            modules="\n".join(f"modprobe {module}" for module in _MODULES),
            shared=SHARED,
            repository=shlex.quote(str(REPOSITORY)),
            command=shlex.join(self.argv),
        )

    def read(self, name: str) -> str:
        """Return a file of SHARED as it is now, or was at the end; empty if there is none."""
        path = self.directory / name
        if self.directory == Path() or not path.exists():
            return self._said.get(name, "")
        return path.read_text(errors="replace")


# A PID namespace: whoever ends its first process, or dies, takes virtme-ng's whole family along.
_ALONE = ("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--")


def main(words: Sequence[str]) -> int:
    """Run the command line in the module's docstring. Returns the exit status."""
    if len(words) < 3 or words[0] not in SUITES or words[1] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    with Machine(kernel(words[0]), words[2:]) as machine:
        shown = 0
        while True:
            gone = not machine.running
            text = machine.log()
            print(text[shown:], end="", flush=True)
            shown = len(text)
            if gone:
                break
            time.sleep(0.2)
        if machine.status is None:
            print(machine.console()[-4000:], file=sys.stderr)
            return 125
        return machine.status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))

"""A throw-away machine for what the sandbox's kernel has not: Wi-Fi, ipvtap, bonds, VLANs.

    python -m lab.machine um -- COMMAND    boot a kernel of VERSIONS, run COMMAND there

"um" runs as a program of this system (lab/uml.py): it boots in a second and is nearly as fast as
this system. "6.1" and "6.12" are stock kernels of Debian's in an emulated processor
(lab/virtme.py), ten times slower, for what only they can show.

A machine sees this system's files, read-only, and has memory file systems over /run, /tmp, /var
and /etc; nothing of it remains.
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

from lab import sandbox, uml, virtme
from lab.kernels import REPOSITORY, SUITES
from lab.running import Running

VERSIONS = ("um", *SUITES)

# Where the machine sees Machine.directory. Not below /run: the sandbox covers that.
SHARED = Path("/tmp/shared")

# The output goes to a file: the console is slow and lossy.
_INIT = """\
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
{environment}
{prologue}
exec >{shared}/log 2>&1 </dev/null
ip link set lo up
cd {repository} && echo booted >{shared}/booted && {command}
echo $? >{shared}/status
sync
{epilogue}
"""


class Machine(Running):
    """A machine that boots, runs one command and goes; see _INIT for what is ready there.

    Use it as a context manager: at the end the machine is gone, whatever it was at.
    """

    def __init__(
        self,
        version: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        memory: str = "2G",
    ) -> None:
        """Describe the machine; nothing runs before start().

        version: one of VERSIONS. argv: the command, run in the repository's directory; its standard
        output and error are log(). env: more of its environment.
        """
        self.version = version
        self.argv = list(argv)
        self.env = dict(env or {})
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
        """Return what the kernel, and what boots it, have printed so far."""
        return self.read("console")

    def start(self) -> None:
        """Boot the machine; returns at once. A failure to boot shows as its early end.

        FileNotFoundError, saying what to do, if there is no such kernel.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="machine-"))
        init = self.directory / "init"
        init.write_text(self._init())
        init.chmod(0o755)
        sandbox.command("tar", "-C", "/etc", "-cf", str(self.directory / "etc.tar"), ".")
        with (self.directory / "console").open("wb") as console:
            self._process = subprocess.Popen(
                sandbox.dying_with_us([*_ALONE, *self._boot()]),
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

        QEMU is a grandchild of virtme-ng, and a user-mode kernel has a process for each of its
        own. unshare, our child, ends once that namespace is empty.
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

    def _boot(self) -> list[str]:
        if self.version == "um":
            return uml.argv(self.directory, self.memory)
        return virtme.argv(self.version, self.directory, SHARED, self.memory)

    def _init(self) -> str:
        kind = uml if self.version == "um" else virtme
        exports = (f"export {name}={shlex.quote(value)}" for name, value in self.env.items())
        places = {
            "repository": shlex.quote(str(REPOSITORY)),
            "directory": shlex.quote(str(self.directory)),
            "shared": SHARED,
        }
        return _INIT.format(
            environment="\n".join(exports),
            prologue=kind.PROLOGUE.format(**places),
            command=shlex.join(self.argv),
            epilogue=kind.EPILOGUE,
            **places,
        )

    def read(self, name: str) -> str:
        """Return a file of SHARED as it is now, or was at the end; empty if there is none."""
        path = self.directory / name
        if self.directory == Path() or not path.exists():
            return self._said.get(name, "")
        return path.read_text(errors="replace")


# A PID namespace: whoever ends its first process, or dies, takes a machine's whole family along.
_ALONE = ("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--")


def main(words: Sequence[str]) -> int:
    """Run the command line in the module's docstring. Returns the exit status."""
    if len(words) < 3 or words[0] not in VERSIONS or words[1] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    with Machine(words[0], words[2:]) as machine:
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

"""A host such as the documentation has in mind, for its examples to run on.

airtap is installed; wlan0 is the uplink, here a wire that takes one MAC only; enp3s0 goes to
another LAN; airtapd and libvirtd run, and a libvirt of a user's own. live.iso, in the directory
where commands are run, is one that boots from the network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from airtap import config
from airtap.ipc import protocol
from lab import sandbox
from lab.airtap import answers
from lab.guest import GUEST_UID, ISO
from lab.lan import Lan, Subnet, end_process, wait_for
from lab.libvirt import Libvirtd
from lab.programs import Programs
from lab.running import Running

ELSEWHERE = Subnet("198.51.100.", "2001:db8:e::")
OTHER_MAC = "02:00:5e:00:53:11"
ACL = Path("/etc/airtap/bridge.conf")

_ONE_MAC = '[parents.wlan0]\nmacnat = "on"  # as by itself on a Wi-Fi station\n'


class Host(Running):
    """The host, from start() to close().

    libvirtd: the system's; session: the user's own. airtapd: the process.
    """

    libvirtd: Libvirtd
    session: Libvirtd
    airtapd: subprocess.Popen[bytes]

    def __init__(self) -> None:
        self.lan = Lan(near="wlan0", one_mac=True)
        self.cable = Lan(
            near="enp3s0",
            far="lan1",
            namespace="lan1",
            near_mac=OTHER_MAC,
            host=False,
            subnet=ELSEWHERE,
        )
        self._undo = contextlib.ExitStack()

    def start(self) -> None:
        with contextlib.ExitStack() as undo:
            self.directory = Path(tempfile.mkdtemp(prefix="host-", dir="/run"))
            undo.callback(shutil.rmtree, self.directory)
            self.directory.chmod(0o755)
            shutil.copy(ISO, self.directory / "live.iso")
            undo.enter_context(Programs())
            undo.enter_context(self.lan)
            undo.enter_context(self.cable)
            self._configure(undo)
            self.airtapd = undo.enter_context(self.running("airtapd"))
            wait_for(lambda: answers(protocol.DEFAULT_SOCKET), 60, "airtapd's socket to answer")
            self.libvirtd = undo.enter_context(Libvirtd())
            self.session = undo.enter_context(Libvirtd(uid=GUEST_UID))
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def run(self, script: str, uid: int = 0) -> str:
        """Run shell commands as a user, and return what they print. AssertionError: one fails."""
        done = subprocess.run(
            self._argv(script, uid),
            cwd=self.directory,
            env=self._environment(uid),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    @contextlib.contextmanager
    def running(self, script: str, uid: int = 0) -> Iterator[subprocess.Popen[bytes]]:
        """A command that goes on, until the end of the block."""
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                sandbox.dying_with_us(self._argv(f"exec {script}", uid)),
                cwd=self.directory,
                env=self._environment(uid),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                yield process
            finally:
                end_process(process)
                output.seek(0)
                print(output.read().decode(errors="replace"))  # shown with a test that fails

    def _argv(self, script: str, uid: int) -> list[str]:
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
        return [*(user if uid else []), "bash", "-ec", script]

    def _environment(self, uid: int) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "TERM") if key in os.environ}
        plain = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.directory), **kept}
        return {**plain, **(self.session.env if uid else {})}

    def allow(self, name: str) -> None:
        """Let everybody use a device."""
        ACL.write_text(f"allow {name}\n")

    def file(self, text: str) -> str:
        """The path of a file with that text."""
        path = self.directory / "example"
        path.write_text(text)
        return str(path)

    def _configure(self, undo: contextlib.ExitStack) -> None:
        """The sandbox's own /etc/airtap."""
        ACL.parent.mkdir(exist_ok=True)
        undo.callback(shutil.rmtree, ACL.parent)
        ACL.parent.chmod(0o755)
        Path(config.DEFAULT_PATH).write_text(_ONE_MAC)
        ACL.write_text("# nothing is allowed\n")
        ACL.chmod(0o644)

"""airtap where an installation has it: its programs in /usr/bin, of the sandbox alone.

They are this tree's launchers, run by the virtual environment's Python: it has lxml and libvirt.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from lab import sandbox
from lab.running import Running
from lab.sandbox import command

PROGRAMS = ("airtap", "airtapd", "airtap-bridge-helper")

_BIN = Path("/usr/bin")


class Installed(Running):
    """The programs are there from start() to close()."""

    def start(self) -> None:
        sandbox.require()
        self._directory = tempfile.TemporaryDirectory(prefix="installed-", dir="/run")
        upper, work = (Path(self._directory.name, name) for name in ("upper", "work"))
        for path in (upper, work):
            path.mkdir()
            path.chmod(0o755)
        options = f"lowerdir={_BIN},upperdir={upper},workdir={work}"
        command("mount", "-t", "overlay", "-o", options, "overlay", str(_BIN))
        for name in PROGRAMS:
            _install(name)

    def close(self) -> None:
        command("umount", "--lazy", str(_BIN))
        self._directory.cleanup()


def _install(name: str) -> None:
    python, source = sandbox.TREE / ".venv/bin/python", sandbox.TREE / "src"
    text = (sandbox.TREE / "helper" / name).read_text()
    text = re.sub(r"^#!\S+", f"#!{python}", text)
    path = f'sys.path.insert(0, "{source}")'
    program = _BIN / name
    program.unlink(missing_ok=True)
    program.write_text(re.sub(r"^sys\.path\.insert.*$", path, text, flags=re.MULTILINE))
    program.chmod(0o755)

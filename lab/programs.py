"""airtap's programs in /usr/bin, where its documentation has them; in the sandbox alone.

They are this tree's launchers, run by the virtual environment's Python: it has lxml and libvirt.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from lab import sandbox
from lab.running import Running
from lab.sandbox import command

_PROGRAMS = ("airtap", "airtapd", "airtap-bridge-helper")
_BIN = Path("/usr/bin")


class Programs(Running):
    """They are there from start() to close(), over what else is there."""

    def start(self) -> None:
        sandbox.require()
        self._directory = tempfile.TemporaryDirectory(prefix="programs-", dir="/run")
        for name in _PROGRAMS:
            _install(name, Path(self._directory.name))
        Path(self._directory.name).chmod(0o755)
        layers = f"lowerdir={self._directory.name}:{_BIN}"
        command("mount", "-t", "overlay", "-o", layers, "overlay", str(_BIN))

    def close(self) -> None:
        command("umount", "--lazy", str(_BIN))
        self._directory.cleanup()


def _install(name: str, directory: Path) -> None:
    python, source = sandbox.TREE / ".venv/bin/python", sandbox.TREE / "src"
    text = (sandbox.TREE / "helper" / name).read_text()
    text = re.sub(r"^#!\S+", f"#!{python}", text)
    path = f'sys.path.insert(0, "{source}")'
    program = directory / name
    program.write_text(re.sub(r"^sys\.path\.insert.*$", path, text, flags=re.MULTILINE))
    program.chmod(0o755)

"""airtap's programs and XML templates where its documentation has them; in the sandbox alone.

The programs are this tree's launchers, run by the virtual environment's Python: it has lxml and
libvirt.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from lab import sandbox
from lab.running import Running
from lab.sandbox import command

_PROGRAMS = ("airtap", "airtapd", "airtap-bridge-helper")
_BIN, _SHARE = Path("/usr/bin"), Path("/usr/share")


class Programs(Running):
    """They are there from start() to close(), over what else is there."""

    def start(self) -> None:
        sandbox.require()
        self._directory = tempfile.TemporaryDirectory(prefix="programs-", dir="/run")
        directory = Path(self._directory.name)
        directory.chmod(0o755)
        (directory / "bin").mkdir()
        for name in _PROGRAMS:
            _install(name, directory / "bin")
        shutil.copytree(sandbox.TREE / "xml-templates", directory / "share/airtap/xml-templates")
        for place in (_BIN, _SHARE):
            layers = f"lowerdir={directory / place.name}:{place}"
            command("mount", "-t", "overlay", "-o", layers, "overlay", str(place))

    def close(self) -> None:
        command("umount", "--lazy", str(_BIN), str(_SHARE))
        self._directory.cleanup()


def _install(name: str, directory: Path) -> None:
    python, source = sandbox.TREE / ".venv/bin/python", sandbox.TREE / "src"
    text = (sandbox.TREE / "helper" / name).read_text()
    text = re.sub(r"^#!\S+", f"#!{python}", text)
    path = f'sys.path.insert(0, "{source}")'
    program = directory / name
    program.write_text(re.sub(r"^sys\.path\.insert.*$", path, text, flags=re.MULTILINE))
    program.chmod(0o755)

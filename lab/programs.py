"""airtap's programs in /usr/bin, where its documentation has them; in the sandbox alone.

They are this tree's launchers, run by the virtual environment's Python: it has lxml and libvirt.
"""

from __future__ import annotations

import re
from pathlib import Path

from lab import sandbox
from lab.overlay import Overlay

_PROGRAMS = ("airtap", "airtapd", "airtap-bridge-helper")
_BIN = Path("/usr/bin")


class Programs(Overlay):
    """They are there from start() to close()."""

    def __init__(self) -> None:
        super().__init__(str(_BIN))

    def start(self) -> None:
        super().start()
        install()


def install() -> None:
    """Put them there, where that is an Overlay."""
    for name in _PROGRAMS:
        _install(name)


def remove() -> None:
    """Take them away again."""
    for name in _PROGRAMS:
        (_BIN / name).unlink()


def _install(name: str) -> None:
    python, source = sandbox.TREE / ".venv/bin/python", sandbox.TREE / "src"
    text = (sandbox.TREE / "helper" / name).read_text()
    text = re.sub(r"^#!\S+", f"#!{python}", text)
    path = f'sys.path.insert(0, "{source}")'
    program = _BIN / name
    program.unlink(missing_ok=True)
    program.write_text(re.sub(r"^sys\.path\.insert.*$", path, text, flags=re.MULTILINE))
    program.chmod(0o755)

"""Directories of this system that can be written to: in memory, and in the sandbox alone."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from lab import sandbox
from lab.running import Running
from lab.sandbox import command


class Overlay(Running):
    """Directories stay as they are below what is written to them from start() to close()."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._undo = contextlib.ExitStack()

    def start(self) -> None:
        sandbox.require()
        with contextlib.ExitStack() as undo:
            directory = Path(
                undo.enter_context(tempfile.TemporaryDirectory(prefix="overlay-", dir="/run"))
            )
            directory.chmod(0o755)
            for number, path in enumerate(self._paths):
                upper, work = (directory / f"{name}{number}" for name in ("upper", "work"))
                for made in (upper, work):
                    made.mkdir()
                    made.chmod(0o755)
                options = f"lowerdir={path},upperdir={upper},workdir={work}"
                command("mount", "-t", "overlay", "-o", options, "overlay", path)
                undo.callback(command, "umount", "--lazy", path)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

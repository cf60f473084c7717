"""airtap doctor as a user runs it, and what it prints as a remedy typed."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from lab import sandbox
from lab.airtap import BIN, Airtapd
from lab.lan import wait_for

Finding = dict[str, str]
_TREE = sandbox.TREE
_DOCTOR = (str(_TREE / ".venv/bin/python"), "-I", str(_TREE / "helper/airtap"), "doctor")


@dataclass
class Doctor:
    """airtap doctor with the environment of one host."""

    env: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, airtapd: Airtapd) -> Self:
        """Of a daemon's host, with its configuration."""
        return cls({**airtapd.env, "AIRTAP_CONFIG": str(airtapd.config)})

    def run(self, *argv: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*_DOCTOR, *argv],
            env=self.environment(),
            user=uid,
            group=uid,
            extra_groups=[],
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )

    @contextmanager
    def asking(self, *argv: str) -> Iterator[subprocess.Popen[str]]:
        """While it runs, to be awaited by whoever asks for this; what it says is one stream."""
        process = subprocess.Popen(
            sandbox.dying_with_us([*_DOCTOR, *argv]),
            env=self.environment(),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def environment(self, **more: str) -> dict[str, str]:
        """Without what whoever runs the tests may have set."""
        theirs = ("SUDO_UID", "LIBVIRT_DEFAULT_URI", "AIRTAP_SOCKET", "AIRTAP_CONFIG", "NO_COLOR")
        plain = {key: value for key, value in os.environ.items() if key not in theirs}
        return plain | dict(self.env) | more

    def findings(self, *argv: str, uid: int = 0) -> list[Finding]:
        """All findings; the exit status is that of the worst."""
        done = self.run("--json", *argv, uid=uid)
        assert done.stderr == ""
        report: dict[str, Any] = json.loads(done.stdout)
        found: list[Finding] = report["findings"]
        worst = report["summary"]["level"]
        assert done.returncode == {"ok": 0, "warning": 3, "problem": 1}[worst]
        for level in ("ok", "warning", "problem"):
            assert report["summary"][level] == sum(f["level"] == level for f in found)
        return found

    def bad(self, *argv: str, uid: int = 0) -> dict[str, Finding]:
        """What is not ok, by id: with evidence and a remedy."""
        found = [f for f in self.findings(*argv, uid=uid) if f["level"] != "ok"]
        assert all(f["evidence"] and f["remedy"] and f["what"] for f in found)
        return {f["id"]: f for f in found}

    def only(self, id: str, *argv: str, uid: int = 0) -> Finding:
        """The one finding that is not ok."""
        bad = self.bad(*argv, uid=uid)
        assert set(bad) == {id}, bad
        return bad[id]

    def silent(self, *argv: str, uid: int = 0) -> bool:
        return not self.bad(*argv, uid=uid)

    def type(self, remedy: str) -> None:
        """Do as a remedy says, as root in a shell."""
        path = f"{BIN}:/usr/sbin:/sbin:{os.environ['PATH']}"
        command = remedy.removeprefix("as root: ")
        done = subprocess.run(
            ["sh", "-c", command],
            env=self.environment(PATH=path),
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, (command, done.stderr)

    def cured(self, remedy: str, *argv: str) -> None:
        """Do as a remedy says; then, once airtapd has seen it, there is nothing left to say."""
        self.type(remedy)
        left: dict[str, Finding] = {}

        def silent() -> bool:
            nonlocal left
            left = self.bad(*argv)
            return not left

        try:
            wait_for(silent, 20, f"{remedy!r} to help", interval=0.5)
        except TimeoutError as exc:
            raise AssertionError(f"{remedy!r} does not help: {left}") from exc

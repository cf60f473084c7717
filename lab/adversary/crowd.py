"""airtapd among hostile users, and another user who wants an answer meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from airtap.cli.commands.status import fetch
from airtap.errors import Problem
from airtap.ipc import client, protocol
from lab import sandbox
from lab.adversary.memory import peak_kib
from lab.adversary.user import STEPS
from lab.airtap import Airtapd
from lab.lan import SLOWNESS, Lan, wait_for
from lab.running import Running
from lab.sandbox import dying_with_us
from lab.users import acting_as

STRANGER, ALLOWED, OTHER = 12345, 12346, 12347
# What another user waits at most; the bridge helper gives up after 30 s.
ANSWER_S = 5.0
MOST_KIB, MOST_THREADS, MOST_DESCRIPTORS = 100 << 10, 64, 1024
_PROGRAM = (
    "import sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv.pop(1));"
    "from lab.adversary.user import main; main()"
)

# Who does what, and how: [uid, name, number].
Step = tuple[int, str, int]
_OFTEN = ["connect", "pass_on"]
steps = st.tuples(
    st.sampled_from([STRANGER, STRANGER, STRANGER, ALLOWED]),
    st.sampled_from([*(name for name in STEPS if name != "end"), *_OFTEN * 2]),
    st.integers(0, 3000),
)
sequences = st.lists(steps, min_size=3, max_size=10)


class User(Running):
    """The program of one hostile user."""

    def __init__(self, uid: int, path: str) -> None:
        self._argv = ["/usr/bin/python3", "-I", "-S", "-c", _PROGRAM, str(sandbox.TREE), path]
        self._uid = uid

    def start(self) -> None:
        self._process = subprocess.Popen(
            dying_with_us(self._argv),
            user=self._uid,
            group=self._uid,
            extra_groups=[],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def close(self) -> None:
        with self._process:
            self._process.kill()

    def do(self, name: str, number: int = 0) -> int:
        """One step. Gives how many packets it sent."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([name, number]) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"the hostile user's program ended at {name} {number}")
        return int(said)


@dataclass(frozen=True)
class Taken:
    """What a process has of the machine."""

    threads: int
    descriptors: int

    @classmethod
    def by(cls, pid: int) -> Taken:
        return cls(*(len(os.listdir(f"/proc/{pid}/{what}")) for what in ("task", "fd")))


class Crowd(Running):
    """A LAN, an airtapd and two hostile users, of whom one is allowed devices.

    It is there from start() to close(). packets: how many they have sent. constants: see Airtapd.
    """

    def __init__(self, kind: str, constants: dict[str, object] | None = None) -> None:
        self._kind = kind
        self._config = f'[parents.up0]\nkind = "{kind}"\nmacnat = "on"\n'
        self._constants = constants
        self.packets = 0
        self._undo = contextlib.ExitStack()

    def __str__(self) -> str:
        return f"users, {self._kind}" + (", before Linux 6.16" if self._constants else "")

    def start(self) -> None:
        with contextlib.ExitStack() as undo:
            undo.enter_context(Lan(one_mac=True))
            daemon = Airtapd(config=self._config, acl=None, constants=self._constants)
            _allow(daemon)
            self.airtapd = undo.enter_context(daemon)
            self._users = {
                uid: undo.enter_context(User(uid, daemon.socket)) for uid in (STRANGER, ALLOWED)
            }
            for ask in (self.status, self.attach):
                ask()
            wait_for(lambda: not self.airtapd.guests(), 20, "the first device to go")
            self._idle = Taken.by(daemon.pid)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def play(self, sequence: Sequence[Step]) -> list[str]:
        """Have the users do a sequence; gives what is wrong then, and after they have let go."""
        for uid, name, number in sequence:
            self.packets += self._users[uid].do(name, number)
        found = [*self._answers(), *self._bounds()]
        for user in self._users.values():
            user.do("end")
        return found + self._answers() + self._settled()

    def _answers(self) -> list[str]:
        found = []
        for what, ask in (("status", self.status), ("attach", self.attach)):
            try:
                took = ask()
            except Problem as exc:
                found.append(f"another user's {what}: {exc}")
                continue
            if took > ANSWER_S * SLOWNESS:
                found.append(f"another user's {what} took {took:.1f} s")
        return found

    def _bounds(self) -> list[str]:
        taken, pid = Taken.by(self.airtapd.pid), self.airtapd.pid
        found = []
        if peak_kib(pid) > MOST_KIB:
            found.append(f"airtapd has had {peak_kib(pid) >> 10} MiB")
        if taken.threads > MOST_THREADS:
            found.append(f"airtapd has {taken.threads} threads")
        if taken.descriptors > MOST_DESCRIPTORS:
            found.append(f"airtapd has {taken.descriptors} descriptors")
        return found

    def _settled(self) -> list[str]:
        """All is as before: waits until it is."""
        pid = self.airtapd.pid

        def as_before() -> bool:
            now = Taken.by(pid)
            return now.threads <= self._idle.threads and now.descriptors <= self._idle.descriptors

        try:
            wait_for(as_before, 30, "airtapd to let go")
        except TimeoutError:
            return [f"airtapd keeps {Taken.by(pid)}, of {self._idle} before"]
        return []

    def status(self) -> float:
        """Another user asks for the status. Gives the seconds until the answer."""
        began = time.monotonic()
        with acting_as(OTHER), contextlib.closing(self._connection()) as connection:
            fetch(connection)
        return time.monotonic() - began

    def attach(self) -> float:
        """Another user asks for a device."""
        began = time.monotonic()
        with acting_as(OTHER), contextlib.closing(self._connection()) as connection:
            connection.send("attach", br="up0", mac=None, vnet_hdr=True)
            answer, tap = connection.receive()
        took = time.monotonic() - began
        if tap is not None:
            os.close(tap)
        protocol.read_answer(answer)
        return took

    def _connection(self) -> client.Connection:
        return client.Connection(self.airtapd.socket, start=False)


def _allow(daemon: Airtapd) -> None:
    """An ACL by which some users may have devices of up0, and others nothing."""
    lines = []
    for uid in (ALLOWED, OTHER):
        own = Path(daemon.directory, f"allowed-{uid}")
        own.write_text("allow up0\n")
        os.chown(own, uid, uid)
        own.chmod(0o400)
        lines.append(f"include {own}\n")
    daemon.acl.write_text("".join(lines))
    daemon.acl.chmod(0o644)

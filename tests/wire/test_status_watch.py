"""airtap status --watch: live on a terminal, and one report after the other for programs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lab.airtap import BIN, Airtapd
from lab.lan import SLOWNESS, Lan, wait_for
from lab.sandbox import dying_with_us

MAC = "52:54:00:00:00:01"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"


class Terminal:
    """airtap on a terminal. seen: all that it has written there."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self.seen = ""

    def shows(self, text: str, timeout: float = 20) -> None:
        """Wait until it writes a text anew, and forget all up to that."""
        deadline = time.monotonic() + timeout * SLOWNESS
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.seen!r}"
            self.read(0.2)
        self.seen = self.seen.partition(text)[2]

    def read(self, seconds: float) -> None:
        if not select.select([self._master], [], [], seconds)[0]:
            return
        with suppress(OSError):  # EIO: it has ended, and all is read
            self.seen += os.read(self._master, 1 << 16).decode(errors="replace")

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        deadline = time.monotonic() + 20 * SLOWNESS
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read(0.05)  # what is still to be written
        self.read(0.2)
        return self.process.wait(1)


@contextmanager
def on_terminal(airtapd: Airtapd, *options: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    # What a worker of xdist has set would count for more than the terminal.
    ours = ("NO_COLOR", "COLUMNS", "LINES")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    process = subprocess.Popen(
        dying_with_us([str(BIN / "airtap"), "status", *options]),
        env={**environment, **airtapd.env},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        # A group of its own, as a shell gives it: Ctrl-Z stops nobody in ours if that is orphaned.
        process_group=0,
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_watch_on_a_terminal(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near, MAC), on_terminal(airtapd, "--watch", "0.2") as terminal:
        terminal.shows("\x1b[?1049h\x1b[?25l\x1b[?7l")
        terminal.shows("every 0.2 s")
        terminal.shows(f"\x1b[1m{lan.near}\x1b[0m: ethernet")
        terminal.shows(MAC)
        terminal.shows("receives 0 B/s, sends 0 B/s")
        terminal.resize(4, 20)
        terminal.shows("more lines")
        terminal.resize(24, 80)
        terminal.shows(MAC)
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.shows(LEAVE)
        stat = Path(f"/proc/{terminal.process.pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 20, "it to stop")
        terminal.process.send_signal(signal.SIGCONT)
        terminal.shows("\x1b[?1049h")
        terminal.shows(MAC)
        airtapd.kill()
        terminal.shows("airtapd does not answer")
        airtapd.start()
        terminal.shows(MAC)
        assert terminal.end(signal.SIGINT) == 0
        assert terminal.seen.endswith(LEAVE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_the_terminal_is_restored_when_ended(
    lan: Lan, airtapd: Airtapd, number: signal.Signals
) -> None:
    with on_terminal(airtapd, "--watch", "30", "--color=never") as terminal:
        terminal.shows("no guests")
        assert terminal.end(number) == 128 + number
        assert terminal.seen.endswith(LEAVE)
        assert "\x1b[1m" not in terminal.seen


@pytest.mark.parametrize("option", ["--json", "--color=auto"])
def test_watch_for_programs(lan: Lan, airtapd: Airtapd, option: str) -> None:
    with airtapd.attach(lan.near, MAC):
        process = subprocess.Popen(
            dying_with_us([str(BIN / "airtap"), "status", "--watch=0.1", option]),
            env={**os.environ, **airtapd.env},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        try:
            if option == "--json":
                for _ in range(3):
                    report = json.loads(process.stdout.readline())
                    assert report["uplinks"][0]["guests"][0]["mac"] == MAC
            else:
                text = "".join(process.stdout.readline() for _ in range(12))
                assert text.count(MAC) >= 2
                assert "\x1b" not in text
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_wrong_intervals(lan: Lan, airtapd: Airtapd) -> None:
    for interval in ("0", "-1", "nan", "soon", "1e9"):
        refused = airtapd.airtap("status", f"--watch={interval}", check=False)
        assert refused.returncode == 2
        assert "argument --watch: must be 0.1 to 86400 seconds" in refused.stderr

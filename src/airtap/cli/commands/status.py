"""airtap status: uplinks and the guests behind them, once or live."""

import argparse
import json
import os
import pwd
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from ...errors import Problem
from ...ipc import client
from ...ipc.status import read_reply
from ..common import echo, end_orderly, warn
from .status_table import Json, Rates, View, rates, table

# Of the terminal: xterm's control sequences, as all of Linux's terminals take them. Another screen,
# no cursor, and no wrapping of a line with letters that are two columns wide.
_SCREEN, _NO_SCREEN = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_PARTS = re.compile(r"\x1b[^m]*m|.")
_HOME, _END_OF_LINE, _REST = "\x1b[H", "\x1b[K\r\n", "\x1b[J"


def run(arguments: argparse.Namespace, connection: client.Connection) -> None:
    if arguments.watch is None:
        report = fetch(connection)
        echo(json.dumps(report, indent=2) if arguments.json else _shown(arguments, report))
        return
    with suppress(KeyboardInterrupt):
        if arguments.json or not sys.stdout.isatty():
            _log(arguments, connection)
        else:
            _watch(arguments, connection)


def fetch(connection: client.Connection) -> Json:
    """Ask airtapd for its status."""
    connection.send("status")
    return read_reply(lambda: connection.receive()[0]).to_json()


def _reports(connection: client.Connection) -> Iterator[tuple[Json, Rates] | Problem]:
    """Yield a report each time, and rates since the last, or why there is none.

    airtapd is not started for it.
    """
    first: client.Connection | None = connection
    last: tuple[float, Json] | None = None
    while True:
        try:
            asked, first = first or client.Connection(client.socket_path(), start=False), None
            try:
                now, report = time.monotonic(), fetch(asked)
                through = rates(last[1], report, now - last[0]) if last else {}
                last = now, report
                yield report, through
            finally:
                asked.close()
        except Problem as problem:
            yield problem


def _log(arguments: argparse.Namespace, connection: client.Connection) -> None:
    """A report after the other, for a file or a program."""
    for report in _reports(connection):
        if isinstance(report, Problem):
            warn(str(report))
        elif arguments.json:
            echo(json.dumps(report[0], separators=(",", ":")))
        else:
            echo(_shown(arguments, *report) + "\n")
        time.sleep(arguments.watch)


def _watch(arguments: argparse.Namespace, connection: client.Connection) -> None:
    """The report on the whole terminal, drawn anew each time, and when its size changes."""
    reports = _reports(connection)
    with _terminal():
        while True:
            report = next(reports)
            if isinstance(report, Problem):
                text = f"airtap: {report}"
            else:
                text = _shown(arguments, *report)
            head = f"airtap status, every {arguments.watch:g} s, {time.strftime('%H:%M:%S')}"
            until = time.monotonic() + arguments.watch
            _draw(f"{head}\n\n{text}")
            while (left := until - time.monotonic()) > 0:
                if signal.sigtimedwait({signal.SIGWINCH}, left) is not None:
                    _draw(f"{head}\n\n{text}")


@contextmanager
def _terminal() -> Iterator[None]:
    """A screen of our own, gone at the end, whatever ends us. SIGWINCH is for sigtimedwait()."""
    end_orderly(signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    signal.signal(signal.SIGTSTP, _stop)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
    try:
        print(_SCREEN, end="", flush=True)
        yield
    finally:
        print(_NO_SCREEN, end="", flush=True)


def _stop(number: int, _frame: object) -> None:
    """Ctrl-Z: give the terminal back meanwhile. Not by print(), which may be at work below us."""
    os.write(sys.stdout.fileno(), _NO_SCREEN.encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.signal(number, _stop)
    os.write(sys.stdout.fileno(), _SCREEN.encode())
    os.kill(os.getpid(), signal.SIGWINCH)  # draw


def _draw(text: str) -> None:
    """Show as much of a text as the terminal has lines for; it cuts what is too wide."""
    size = shutil.get_terminal_size()
    lines = [_cut(line, size.columns) for line in text.split("\n")]
    if len(lines) >= size.lines:
        more = len(lines) - size.lines + 2
        lines = [*lines[: max(0, size.lines - 2)], f"... {more} more lines"]
    print(_HOME + "".join(line + _END_OF_LINE for line in lines) + _REST, end="", flush=True)


def _cut(line: str, width: int) -> str:
    """Return the line as far as it fits; control sequences of ours are as wide as nothing."""
    kept, room = "", width
    for part in _PARTS.findall(line):
        if part.startswith("\x1b"):
            kept += part
        elif room > 0:
            kept, room = kept + part, room - 1
    return kept


def _shown(arguments: argparse.Namespace, report: Json, through: Rates | None = None) -> str:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    view = View(time.time(), _user, _process, width, _colour(arguments.color), through)
    return table(report, view)


def _colour(choice: str) -> bool:
    """https://no-color.org: NO_COLOR counts if it is not empty, and less than the command line."""
    if choice == "auto":
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return choice == "always"


@cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _process(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""

"""Reads denials of AppArmor and SELinux in the kernel's log, or in auditd's.

The log is read as far as it goes, and no further than some bounds. Anything may stand in it.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import reason

_KMSG = "/dev/kmsg"
_AUDIT_LOG = Path("/var/log/audit/audit.log")
_MOST_BYTES = 4 << 20
_RECORD_BYTES = 8192  # Documentation/ABI/testing/dev-kmsg
_RECENT_S = 86400.0
_DENIED = re.compile(r'apparmor="DENIED"|avc:\s+denied')
# What of a denial may name us: a value, quoted or not, never the free text around it.
_OURS = re.compile(r'(?:name|profile|comm|path|exe)="?[^"\s]{0,256}(?:airtap|/dev/tap\d)', re.ASCII)
_STAMP = re.compile(r"audit\((\d{1,12})\.\d+:\d+\)")


@dataclass(frozen=True)
class Denials:
    """What a log tells of denials.

    last: the text of the last one, "" for none.
    unread: why the log could not be read, "" if it could.
    """

    count: int
    last: str
    source: str
    unread: str = ""


def read() -> Denials:
    """Read the kernel's log, and auditd's if there is nothing in that."""
    unread = ""
    try:
        found, source = list(denials(_kmsg(), time.time())), _KMSG
    except OSError as exc:
        found, source, unread = [], _KMSG, reason(exc)
    if not found:
        with suppress(OSError):
            logged = list(denials(_tail(_AUDIT_LOG), time.time()))
            found, source, unread = logged, str(_AUDIT_LOG), ""
    return Denials(len(found), found[-1] if found else "", source, unread)


def denials(lines: Iterable[str], now: float) -> Iterator[str]:
    """Give those of the lines that tell of a denial of ours in the last day. now: s since 1970."""
    for line in lines:
        stamp = _STAMP.search(line)
        recent = not stamp or now - _RECENT_S <= int(stamp[1]) <= now + _RECENT_S
        if recent and _DENIED.search(line) and _OURS.search(line):
            yield line


def of_kernel(record: str) -> str:
    """Return the text of a record that the kernel itself wrote; "" for what a program has written.

    A record is "PRIORITY,SEQUENCE,TIME,FLAGS;TEXT", with the facility in the priority's upper bits:
    0 is the kernel's, and no writer of /dev/kmsg can have that (kernel/printk/printk.c:
    devkmsg_write).
    """
    head, separator, text = record.partition(";")
    priority = head.partition(",")[0]
    if not separator or not priority.isascii() or not priority.isdecimal() or len(priority) > 6:
        return ""
    return text if int(priority) >> 3 == 0 else ""


def _kmsg() -> Iterator[str]:
    fd = os.open(_KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        left = _MOST_BYTES
        while left > 0:
            try:
                record = os.read(fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:  # overwritten meanwhile: the next is there
                left -= 1
                continue
            if not record:
                return
            left -= len(record)
            yield from filter(None, map(of_kernel, record.decode(errors="replace").split("\n")))
    finally:
        os.close(fd)


def _tail(file: Path) -> list[str]:
    with file.open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - _MOST_BYTES // 8))
        return log.read(_MOST_BYTES // 8).decode(errors="replace").splitlines()

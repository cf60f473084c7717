"""Reads files that others have written, up to a bound, and waits for nobody."""

import os
import stat
from pathlib import Path

_MOST_BYTES = 1 << 20


def text(file: Path) -> str:
    """Return the text of a regular file; "" for anything else, which may wait, or act when opened.

    Raises OSError.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        return ""
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as opened:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)  # still
        return opened.read(_MOST_BYTES).decode(errors="replace") if regular else ""


def text_or_nothing(file: Path) -> str:
    """Return what text() does, and "" also for what cannot be read."""
    try:
        return text(file)
    except OSError:
        return ""

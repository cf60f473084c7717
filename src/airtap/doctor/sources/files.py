"""Files that others have written: read up to a bound, and waiting for nobody."""

import os
import stat
from pathlib import Path

_MOST_BYTES = 1 << 20


def text(file: Path) -> str:
    """Of a regular file; "" of anything else, which may wait, or act on being opened.

    Raises OSError.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        return ""
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as opened:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)  # still
        return opened.read(_MOST_BYTES).decode(errors="replace") if regular else ""


def text_or_nothing(file: Path) -> str:
    """As text(); "" too of what cannot be read."""
    try:
        return text(file)
    except OSError:
        return ""

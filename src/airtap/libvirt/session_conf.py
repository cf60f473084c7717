"""bridge_helper in the qemu.conf of a user's own libvirt daemon.

The format is that of libvirt's src/util/virconf.c: "key = value", a "#" begins a comment.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from ..errors import Problem, reason

_HELPER = "airtap-bridge-helper"
_SETTING = re.compile(r"[ \t]*bridge_helper[ \t]*=")


def path() -> Path:
    """Return where qemu:///session reads its settings."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home) / "libvirt/qemu.conf"


def helper() -> str:
    """Our bridge helper: beside this program, else on PATH, else where packages put it."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), _HELPER)
    # doctor asks with a user's rights, who may not look there: Path.exists() would raise.
    there = os.path.exists(beside)
    return beside if there else shutil.which(_HELPER) or f"/usr/bin/{_HELPER}"


def setting(helper: str) -> str:
    """Return the line that makes libvirt run a program for `<source bridge=...>`. Raises Problem.

    virconf has no escapes: a string ends at the next quote of its kind.
    """
    quote = '"' if '"' not in helper else "'"
    if quote in helper or not helper.isprintable():
        raise Problem("bad-helper", f"{helper!a} cannot be written in a qemu.conf")
    return f"bridge_helper = {quote}{helper}{quote}"


def with_setting(text: str, line: str) -> str:
    """Return a qemu.conf in which line is the one bridge_helper, in the place of the first.

    Everything else stays, comments that look like a setting included.
    """
    lines = text.splitlines(keepends=True)
    places = [n for n, old in enumerate(lines) if _SETTING.match(old)]
    if [lines[n].rstrip("\r\n") for n in places] == [line]:
        return text
    if not places:
        gap = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{gap}{line}\n"
    kept = [old for n, old in enumerate(lines) if n not in places[1:]]
    kept[places[0]] = f"{line}\n"
    return "".join(kept)


def is_set(file: Path, line: str) -> bool:
    """Return whether with_setting() would leave the file alone. Raises Problem."""
    text = _read(file)
    return with_setting(text, line) == text


def value(text: str) -> str:
    """Return what a qemu.conf sets bridge_helper to; "" if it does not."""
    lines = [line for line in text.splitlines() if _SETTING.match(line)]
    quoted = lines[-1].partition("=")[2].strip() if lines else ""
    return quoted[1:].partition(quoted[0])[0] if quoted[:1] in ("'", '"') else ""


def write(file: Path, line: str) -> bool:
    """Bring the setting into the file, whole or not at all. Returns whether it changed.

    Raises Problem unreadable-config, unwritable-config.
    """
    old = _read(file)
    new = with_setting(old, line)
    if new == old:
        return False
    target = Path(os.path.realpath(file))  # a link into a directory of dotfiles stays one
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(target, new)
    except OSError as exc:
        raise Problem("unwritable-config", f"cannot write {file}: {reason(exc)}") from exc
    return True


def _replace(target: Path, text: str) -> None:
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        os.replace(partial, target)
    except BaseException:
        os.unlink(partial)
        raise


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as exc:
        why = reason(exc) if isinstance(exc, OSError) else "not UTF-8"
        raise Problem("unreadable-config", f"cannot read {file}: {why}") from exc

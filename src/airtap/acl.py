"""bridge.conf: who may use which device. Grammar and decisions are qemu-bridge-helper's.

One rule a line: ``allow NAME|all``, ``deny NAME|all`` or ``include PATH``; ``#`` starts a
comment only at the start of a line. Nothing is allowed that no rule allows, and a deny wins
over an allow wherever either stands. The odd corners (where a tab separates, what a line that
is too long becomes) are those of QEMU's qemu-bridge-helper.c: parse_acl_file(), because a
file that works there must mean the same here; tests run both side by side.

Files are opened with the rights of whoever calls load(): the broker calls it with the
caller's, so that file permissions on an include give a policy per user, as they do in QEMU.
"""

import io
import os
import stat
from dataclasses import dataclass, field

from .errors import Problem, reason
from .names import IFNAMSIZ

# fgets() into char line[4096]: a longer line is read as several.
_LINE = 4095
_SPACE = b" \t\n\f\r"  # g_ascii_isspace(): no vertical tab
# Bounds of ours, for all files together: an include may be a file of an ordinary user.
_MAX_BYTES = 1 << 18
_MAX_FILES = 64


@dataclass
class Acl:
    """The rules of a bridge.conf and of every include that counted."""

    allow: set[str] = field(default_factory=set)
    deny: set[str] = field(default_factory=set)
    allow_all: bool = False
    deny_all: bool = False

    def allows(self, names: set[str], also_known_as: frozenset[str] = frozenset()) -> bool:
        """Decide on one device, given the names by which the kernel knows it.

        Returns False if any of its names is denied (by name or by ``all``); else true if any of
        names is allowed; else false.

        also_known_as: names by which it was not asked for.
        """
        if self.deny_all or (names | also_known_as) & self.deny:
            return False
        return self.allow_all or bool(names & self.allow)

    def _add(self, command: bytes, name: str) -> None:
        if command == b"allow":
            if name == "all":
                self.allow_all = True
            else:
                self.allow.add(name)
        elif name == "all":
            self.deny_all = True
        else:
            self.deny.add(name)


def load(path: str) -> Acl:
    """Read the ACL at path and the includes that can be opened.

    An include that is missing or unreadable does not count, and a broken one counts up to
    where it broke, as in QEMU. A relative one does not count either: QEMU's would hang on the
    working directory, which the caller chooses. Raises Problem acl-unreadable or acl-invalid
    if the file at path itself has a fault, and acl-too-large: then nothing is allowed.
    """
    acl = Acl()
    _load_into(acl, path, seen={})
    return acl


def _load_into(acl: Acl, path: str, seen: dict[tuple[int, int], int]) -> None:
    for number, line in enumerate(_lines(_read(path, seen)), 1):
        rule = _parse(line, f"{path}, line {number}")
        if rule is None:
            continue
        command, argument = rule
        if command != b"include":
            acl._add(command, os.fsdecode(argument))
        elif argument.startswith(b"/"):
            try:
                _load_into(acl, os.fsdecode(argument), seen)
            except Problem as problem:
                if problem.code == "acl-too-large":
                    raise


def _read(path: str, seen: dict[tuple[int, int], int]) -> bytes:
    """Return the bytes of a file; b"" for one that was read before, which adds no rule."""
    try:
        # O_NONBLOCK: an include could be a FIFO, and open() would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise Problem(
            "acl-unreadable",
            f"access denied: the ACL {path} does not exist, so nothing is allowed",
            "create it with a line such as 'allow eth0'",
        ) from exc
    except (OSError, ValueError) as exc:
        why = reason(exc) if isinstance(exc, OSError) else str(exc)
        raise Problem(
            "acl-unreadable",
            f"access denied: the ACL {path} cannot be read by the calling user: {why}",
        ) from exc
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise Problem("acl-unreadable", f"access denied: the ACL {path} is no regular file")
        if (info.st_dev, info.st_ino) in seen:
            return b""
        content = _read_up_to(fd, _MAX_BYTES + 1 - sum(seen.values()))
        seen[info.st_dev, info.st_ino] = len(content)
    except OSError as exc:
        raise Problem(
            "acl-unreadable", f"access denied: reading the ACL {path} failed: {reason(exc)}"
        ) from exc
    finally:
        os.close(fd)
    if sum(seen.values()) > _MAX_BYTES or len(seen) > _MAX_FILES:
        raise Problem(
            "acl-too-large",
            f"access denied: with {path} the ACL is over {_MAX_BYTES} bytes or {_MAX_FILES} files",
        )
    return content


def _read_up_to(fd: int, count: int) -> bytes:
    content = b""
    while len(content) < count and (more := os.read(fd, count - len(content))):
        content += more
    return content


def _lines(content: bytes) -> list[bytes]:
    return [
        line[start : start + _LINE]
        for line in io.BytesIO(content)  # splits at \n only, as fgets() does
        for start in range(0, len(line), _LINE)
    ]


def _parse(line: bytes, where: str) -> tuple[bytes, bytes] | None:
    """Return one line as (command, argument), or None for a comment or an empty line."""
    line = line.split(b"\0", 1)[0].lstrip(_SPACE)
    if not line or line.startswith(b"#"):
        return None
    # The separator is the first space; a tab only in a line that has no space.
    command, separator, argument = line.partition(b" ")
    if not separator:
        command, separator, argument = line.partition(b"\t")
    if not separator:
        raise _invalid(where, "there is no argument in", line.strip(_SPACE))
    argument = argument.strip(_SPACE)
    if command not in (b"allow", b"deny", b"include"):
        raise _invalid(where, "unknown command", command)
    if command != b"include" and len(argument) >= IFNAMSIZ:
        raise _invalid(where, "longer than 15 bytes, so no device's name:", argument)
    return command, argument


def _invalid(where: str, what: str, text: bytes) -> Problem:
    shown = text[:64].decode("utf-8", "backslashreplace")
    return Problem(
        "acl-invalid",
        f"access denied: {where}: {what} '{shown}'",
        "a rule is 'allow NAME', 'deny NAME' or 'include PATH'",
    )

"""Debian's own qemu-bridge-helper beside airtap-bridge-helper: the same decisions, the same taps.

Each case is an ACL, a command line and a user. Both helpers run on it, on real bridges and as
that user, and must end with the same status, send the same byte with the same number of file
descriptors, and leave taps that do not differ in what a guest or an administrator could notice.

Not generated, because airtap differs on purpose or leaves out an accident of C:

- relative include paths: QEMU's hang on the working directory, which the caller chooses;
- an include that is a FIFO or a device: QEMU's helper hangs on it or reads without end;
- `--mac=` and `--help`, which QEMU's helper does not know;
- names that are no kernel's device name or not UTF-8: see test_names_only_qemu_lets_pass;
- alternative names of a bridge: see test_alternative_names;
- numbers for --fd that only wrap-around makes the number of a descriptor (2**32 + 3), and more
  than nine digits: see test_fd_numbers_that_wrap_around;
- a socket whose other end is closed: see test_nobody_reads;
- more than 64 included files or files above 256 KiB: see tests/unit/test_acl.py.
"""

from __future__ import annotations

import fcntl
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import sandbox
from lab.airtap import HELPER, Airtapd
from lab.lan import wait_for

SEED = int(os.environ.get("AIRTAP_SEED", "1"))
BATCHES = 15
CASES_PER_BATCH = 25

DEBIANS = Path("/usr/lib/qemu/qemu-bridge-helper")
MAIN = Path("/etc/qemu/bridge.conf")
INCLUDES = Path("/run/acl")

FIFTEEN = "br-fifteen-char"
UMLAUT = "brücke0"
# Every bridge with its MTU; JUMBO's is more than a tap can have.
JUMBO = "jumbo"
BRIDGES = {"br0": 1500, "br1": 1280, "virbr0": 9000, FIFTEEN: 1500, UMLAUT: 1400, JUMBO: 65535}

_TUNGETIFF = 0x800454D2  # linux/if_tun.h
_IFF_VNET_HDR = 0x4000


@dataclass(frozen=True)
class User:
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


STAFF, OTHERS = 20001, 20002
ROOT = User(0, 0)
PLAIN = User(10001, 10001)
IN_STAFF = User(10001, 10001, (STAFF,))
IN_BOTH = User(10001, 10001, (OTHERS, STAFF, 10001))
STAFF_FIRST = User(10002, STAFF)
USERS = (ROOT, PLAIN, IN_STAFF, IN_BOTH, STAFF_FIRST)


@dataclass(frozen=True)
class File:
    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0

    def put(self, path: Path) -> None:
        path.write_bytes(self.content)
        os.chown(path, self.uid, self.gid)
        path.chmod(self.mode)


@dataclass(frozen=True)
class Case:
    """acl: the main ACL, None for none. argv: "@" in an --fd stands for the socket's number."""

    acl: File | None
    argv: tuple[bytes, ...]
    user: User = PLAIN
    includes: dict[str, File] = field(default_factory=dict)


@dataclass(frozen=True)
class Tap:
    """What can be seen of a tap through its descriptor and in sysfs. mac: its first byte."""

    iff: int
    flags: int
    mtu: int
    queue: int
    bridge: str
    mac: int
    owner: int
    group: int


@dataclass(frozen=True)
class Outcome:
    """What a helper did: exit status (negative: a signal), bytes sent, a Tap a descriptor."""

    status: int
    data: bytes
    taps: tuple[Tap, ...]

    @property
    def sent(self) -> bool:
        return bool(self.data or self.taps)


class Pair:
    """Both helpers, ready to be asked the same."""

    def __init__(self, daemon: Airtapd, setuid_copy: Path) -> None:
        self.daemon = daemon
        self.setuid_copy = setuid_copy
        self._links = len(sandbox.host_links())

    def run(self, case: Case, env: dict[str, str] | None = None) -> tuple[Outcome, Outcome, str]:
        """QEMU's outcome, ours, and what both said, for people."""
        for path in (MAIN, self.daemon.acl):
            path.unlink(missing_ok=True)
            if case.acl is not None:
                case.acl.put(path)
        for path in INCLUDES.iterdir():
            path.unlink()
        for name, file in case.includes.items():
            file.put(INCLUDES / name)
        env = {**os.environ, **self.daemon.env, **(env or {})}
        theirs, their_words = run(self.setuid_copy, case, env)
        ours, our_words = run(HELPER, case, env)
        self.wait_for_taps_to_go()
        return theirs, ours, f"QEMU's says: {their_words!r}\nairtap's says: {our_words!r}"

    def wait_for_taps_to_go(self) -> None:
        # airtapd closes its own copy of a tap a moment after the helper has got one.
        wait_for(lambda: len(sandbox.host_links()) == self._links, 5, "taps to go", interval=0.002)

    def agree(self, case: Case, env: dict[str, str] | None = None) -> Outcome:
        """Run both; AssertionError if they differ, else what both did."""
        theirs, ours, words = self.run(case, env)
        assert theirs == ours, f"{case}\n{words}"
        return ours


def run(program: Path, case: Case, env: dict[str, str]) -> tuple[Outcome, bytes]:
    """Run a helper as QEMU does, one end of a socket pair being its --fd."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with near, far:
        number = str(far.fileno()).encode()
        argv = [a.replace(b"@", number) if a.startswith(b"--fd=") else a for a in case.argv]
        done = subprocess.run(
            [bytes(program), *argv],
            pass_fds=[far.fileno()],
            env=env,
            user=case.user.uid,
            group=case.user.gid,
            extra_groups=list(case.user.groups),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=40,
            cwd="/",
        )
        far.close()
        data, fds, _flags, _address = socket.recv_fds(near, 16, 4)
    try:
        taps = tuple(look_at(fd) for fd in fds)
    finally:
        for fd in fds:
            os.close(fd)
    return Outcome(done.returncode, data, taps), done.stderr


def look_at(fd: int) -> Tap:
    name, iff = struct.unpack("16sH22x", fcntl.ioctl(fd, _TUNGETIFF, bytes(40)))
    device = Path("/sys/class/net") / name.rstrip(b"\0").decode()

    def number(attribute: str) -> int:
        return int((device / attribute).read_text(), 0)

    return Tap(
        iff=iff,
        flags=number("flags"),
        mtu=number("mtu"),
        queue=number("tx_queue_len"),
        bridge=(device / "brport/bridge").resolve().name,
        mac=int((device / "address").read_text()[:2], 16),
        owner=number("owner"),
        group=number("group"),
    )


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    assert DEBIANS.exists(), f"{DEBIANS} is missing: apt-get install qemu-system-common"
    sandbox.enter()
    setuid_copy = Path("/run/qemu-bridge-helper")
    shutil.copyfile(DEBIANS, setuid_copy)
    setuid_copy.chmod(0o4755)
    MAIN.parent.mkdir(exist_ok=True)
    MAIN.parent.chmod(0o755)
    INCLUDES.mkdir()
    INCLUDES.chmod(0o755)
    # An include loop ends where QEMU's helper has no descriptor left; with many it would
    # first run out of stack.
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        for name, mtu in BRIDGES.items():
            sandbox.command("ip", "link", "add", name, "type", "bridge")
            sandbox.command("ip", "link", "set", name, "mtu", str(mtu))
            if name != "br1":  # one that is down
                sandbox.command("ip", "link", "set", name, "up")
        with Airtapd() as daemon:
            quiet = daemon.fds()
            yield Pair(daemon, setuid_copy)
            assert daemon.guests() == []
            wait_for(lambda: len(daemon.fds()) <= len(quiet), 5, f"{daemon.fds()} to be {quiet}")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for name in BRIDGES.keys() & sandbox.host_links():
            sandbox.command("ip", "link", "delete", name)
        shutil.rmtree(INCLUDES)
        MAIN.unlink(missing_ok=True)
        setuid_copy.unlink()


# Cases with a known answer, so that two helpers that fail alike do not pass for two that agree.

ASK = (b"--use-vnet", b"--fd=@", b"--br=br0")
LONG = b"x" * 4096
BAD = b"permit br0\n"

# ACL, whether a plain user may use br0.
RULES: dict[str, tuple[bytes, bool]] = {
    "empty": (b"", False),
    "allow": (b"allow br0\n", True),
    "allow all": (b"allow all\n", True),
    "another": (b"allow br1\n", False),
    "a longer name": (b"allow br01\n", False),
    "a shorter name": (b"allow br\n", False),
    "deny after allow": (b"allow br0\ndeny br0\n", False),
    "deny before allow": (b"deny br0\nallow br0\n", False),
    "deny all": (b"allow br0\ndeny all\n", False),
    "deny another": (b"deny br1\nallow all\n", True),
    "deny only": (b"deny br1\n", False),
    "no newline": (b"allow br0", True),
    "CRLF": (b"allow br0\r\n", True),
    "CRLF all": (b"# Windows\r\nallow all\r\n", True),
    "CR between": (b"allow br1\rallow br0\n", False),
    "trailing blanks": (b"allow br0 \t\f\r \n", True),
    "leading blanks": (b" \t\f\rallow br0\n", True),
    # g_ascii_isspace(), which QEMU uses, differs from isspace() in this one.
    "vertical tab in front": (b"\vallow br0\n", False),
    "vertical tab in front, elsewhere": (b"allow br0\n\vallow br1\n", False),
    "vertical tab before the name": (b"allow \vbr0\n", False),
    "vertical tab at the end": (b"allow br0\v\n", False),
    "vertical tab after a denied name": (b"allow br0\ndeny br0\v\n", True),
    "vertical tab alone": (b"\v\nallow br0\n", False),
    "many spaces": (b"allow    br0\n", True),
    "space then tab": (b"allow \tbr0\n", True),
    "tab": (b"allow\tbr0\n", True),
    "two tabs": (b"allow\t\tbr0\n", True),
    "tab, then a space": (b"allow\tbr0 \n", False),
    "tab, then a space, elsewhere": (b"allow br0\nallow\tbr1 \n", False),
    "vertical tab": (b"allow\vbr0\n", False),
    "blank lines": (b"\n \n\t\n\r\n\nallow br0\n", True),
    "comment": (b"# allow br1\nallow br0\n", True),
    "comment with the rule": (b"#allow br0\n", False),
    "comment after blanks": (b"  # deny br0\nallow br0\n", True),
    "comment behind a rule": (b"allow br0 # mine\n", False),
    "comment behind another": (b"allow br0\ndeny br1 # his\n", True),
    "comment behind, too long": (b"allow br0\ndeny br1 # and so it goes\n", False),
    "two names": (b"allow br0 br1\n", False),
    "no argument": (b"allow br0\nallow\n", False),
    "empty argument": (b"allow br0\nallow \n", True),
    "empty argument of deny": (b"allow br0\ndeny  \n", True),
    "unknown command": (b"allow br0\npermit br1\n", False),
    "unknown command first": (b"permit br1\nallow br0\n", False),
    "upper case": (b"Allow br0\n", False),
    "All": (b"allow All\n", False),
    "15 bytes": (b"allow br0\nallow abcdefghijklmno\n", True),
    "16 bytes": (b"allow br0\nallow abcdefghijklmnop\n", False),
    "16 bytes denied": (b"allow br0\ndeny abcdefghijklmnop\n", False),
    "16 bytes with blanks": (b"allow br0\nallow abcdefghijklmno \t\n", True),
    "16 bytes in UTF-8": (b"allow br0\nallow \xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc12345678\n", False),
    "not UTF-8": (b"allow \xff\xfe\nallow br0\n", True),
    "command not UTF-8": (b"allow br0\n\xff br1\n", False),
    "BOM": (b"\xef\xbb\xbfallow br0\n", False),
    "no-break space": (b"allow br0\xa0\n", False),
    "no-break space before": (b"\xa0allow br0\n", False),
    "NUL line": (b"\0\nallow br0\n", True),
    "NUL before a rule": (b"\0allow br0\n", False),
    "NUL behind a rule": (b"allow br0\0garbage that is long\n", True),
    "NUL hides the newline": (b"allow br0\0\ndeny br0\n", False),
    "NUL in a command": (b"allow br0\nall\0ow br0\n", False),
    "NUL before the argument": (b"allow br0\nallow \0br0\n", True),
    "blanks, then NUL": (b" \t\0permit\nallow br0\n", True),
    "4094 bytes and newline": (b"#" + b"x" * 4093 + b"\nallow br0\n", True),
    "4095 bytes and newline": (b"#" + b"x" * 4094 + b"\nallow br0\n", True),
    "long comment": (b"#" + LONG + b"\nallow br0\n", False),
    "long comment wraps into a rule": (b"#" + b"x" * 4094 + b"allow br0\n", True),
    "long comment wraps into a deny": (b"allow br0\n#" + b"x" * 4094 + b"deny br0\n", False),
    "long comment wraps into a comment": (b"#" + b"x" * 4094 + b"# more\nallow br0\n", True),
    "long blanks": (b" " * 4095 + b"allow br0\n", True),
    "name cut by the line's end": (b"allow br1" + b" " * 4084 + b"br0\n", False),
    "name reassembled": (b" " * 4086 + b"allow br0\n", True),
    "NUL in a long line": (b"#\0" + b"x" * 4093 + b"allow br0\n", True),
    "include of nothing": (b"include \nallow br0\n", True),
    "include without argument": (b"allow br0\ninclude\n", False),
    "include of a directory": (b"include /run\nallow br0\n", True),
    "include of /dev/null": (b"include /dev/null\nallow br0\n", True),
    "include that cannot be read": (b"include /sys/class/net/lo/speed\nallow br0\n", True),
    "include of what is missing": (b"include /run/acl/missing\nallow br0\n", True),
    "include below a file": (b"include /etc/qemu/bridge.conf/x\nallow br0\n", True),
    "include with a long path": (b"include /" + b"d/" * 1500 + b"x\nallow br0\n", True),
    "include with a long name": (b"include /" + b"x" * 300 + b"\nallow br0\n", True),
    "include of itself": (b"include /etc/qemu/bridge.conf\nallow br0\n", True),
    "include of itself, broken": (b"allow br0\ninclude /etc/qemu/bridge.conf\n" + BAD, False),
}


@pytest.mark.parametrize("name", RULES)
def test_rules(pair: Pair, name: str) -> None:
    content, allowed = RULES[name]
    outcome = pair.agree(Case(File(content), ASK))
    assert outcome.sent is allowed
    assert outcome.status == (0 if allowed else 1)


A = b"include /run/acl/a\n"
PLAIN_ALLOW = File(b"allow br0\n")


def include(main: bytes, user: User = PLAIN, **files: File) -> Case:
    return Case(File(main), ASK, user, files)


def include_one(main: bytes, name: str) -> Case:
    return Case(File(main), ASK, PLAIN, {name: PLAIN_ALLOW})


def only_for_staff(content: bytes) -> File:
    return File(content, 0o640, gid=STAFF)


# A case, whether the user may use br0.
INCLUDING: dict[str, tuple[Case, bool]] = {
    "allow": (include(A, a=PLAIN_ALLOW), True),
    "by a tab": (include(A.replace(b" ", b"\t"), a=PLAIN_ALLOW), True),
    "with blanks": (include(b"include   /run/acl/a \r\n", a=PLAIN_ALLOW), True),
    "without newline": (include(A[:-1], a=File(b"allow br0")), True),
    "deny": (include(b"allow br0\n" + A, a=File(b"deny br0\n")), False),
    "deny first": (include(A + b"allow br0\n", a=File(b"deny br0\n")), False),
    "deny all": (include(A + b"allow br0\n", a=File(b"deny all\n")), False),
    "name with a space": (include_one(b"include /run/acl/a b\n", "a b"), True),
    "name not ASCII": (include_one("include /run/acl/ä\n".encode(), "ä"), True),
    "name not UTF-8": (
        include_one(b"include /run/acl/\xff\n", os.fsdecode(b"\xff")),
        True,
    ),
    "by a long path": (include(b"include " + b"/." * 1000 + b"/run/acl/a\n", a=PLAIN_ALLOW), True),
    "unreadable allow": (include(A, a=File(b"allow br0\n", 0o600)), False),
    "unreadable deny": (include(A + b"allow br0\n", a=File(b"deny br0\n", 0o600)), True),
    "unreadable broken": (include(A + b"allow br0\n", a=File(BAD, 0o600)), True),
    "unreadable but to root": (include(A, ROOT, a=File(b"allow br0\n", 0o600)), True),
    "mode 0, root": (include(A, ROOT, a=File(b"allow br0\n", 0)), True),
    "the user's own": (include(A, a=File(b"allow br0\n", 0o400, uid=PLAIN.uid)), True),
    "own, but not readable": (include(A, a=File(b"allow br0\n", 0o044, uid=PLAIN.uid)), False),
    "primary group": (include(A, STAFF_FIRST, a=only_for_staff(b"allow br0\n")), True),
    "supplementary group": (include(A, IN_STAFF, a=only_for_staff(b"allow br0\n")), True),
    "second supplementary group": (include(A, IN_BOTH, a=only_for_staff(b"allow br0\n")), True),
    "not in the group": (include(A, PLAIN, a=only_for_staff(b"allow br0\n")), False),
    "deny for a group": (
        include(b"allow br0\n" + A, IN_STAFF, a=only_for_staff(b"deny br0\n")),
        False,
    ),
    "deny for another": (include(b"allow br0\n" + A, PLAIN, a=only_for_staff(b"deny br0\n")), True),
    "group may not, others may": (
        include(A, IN_STAFF, a=File(b"allow br0\n", 0o604, gid=STAFF)),
        False,
    ),
    "nested": (
        include(A, a=File(b"include /run/acl/b\n"), b=File(b"include /run/acl/c\n"), c=PLAIN_ALLOW),
        True,
    ),
    "nested, hidden in the middle": (
        include(A, a=File(b"include /run/acl/b\n", 0o600), b=PLAIN_ALLOW),
        False,
    ),
    "loop": (include(A, a=File(b"include /run/acl/b\n"), b=File(A + b"allow br0\n")), True),
    "loop through the main file": (
        include(A, a=File(b"include /etc/qemu/bridge.conf\nallow br0\n")),
        True,
    ),
    "loop, then deny": (include(A + b"allow br0\n", a=File(A + b"deny br0\n")), False),
    "twice": (include(A + A, a=PLAIN_ALLOW), True),
    "broken behind allow": (include(A, a=File(b"allow br0\n" + BAD)), True),
    "broken before allow": (include(A, a=File(BAD + b"allow br0\n")), False),
    "broken before deny": (include(A + b"allow br0\n", a=File(BAD + b"deny br0\n")), True),
    "broken behind deny": (include(A + b"allow br0\n", a=File(b"deny br0\n" + BAD)), False),
    "broken in a nested one": (
        include(A, a=File(b"include /run/acl/b\nallow br0\n"), b=File(BAD)),
        True,
    ),
    "too long a name in it": (include(A + b"allow br0\n", a=File(b"deny " + LONG + b"\n")), True),
    "broken main behind it": (include(A + BAD, a=PLAIN_ALLOW), False),
    "main missing": (Case(None, ASK), False),
    "main missing, root": (Case(None, ASK, ROOT), False),
    "main unreadable": (Case(File(b"allow all\n", 0o600), ASK), False),
    "main unreadable but to root": (Case(File(b"allow all\n", 0o600), ASK, ROOT), True),
    "main for a group": (Case(only_for_staff(b"allow all\n"), ASK, IN_STAFF), True),
    "main for another group": (Case(only_for_staff(b"allow all\n"), ASK, PLAIN), False),
}


@pytest.mark.parametrize("name", INCLUDING)
def test_includes_and_rights(pair: Pair, name: str) -> None:
    case, allowed = INCLUDING[name]
    outcome = pair.agree(case)
    assert outcome.sent is allowed


# A command line behind "allow all" and "deny br1", whether a tap is sent.
COMMAND_LINES: list[tuple[tuple[bytes, ...], bool]] = [
    ((b"--br=br0", b"--fd=@"), True),
    ((b"--fd=@", b"--br=br0", b"--use-vnet"), True),
    ((b"--use-vnet", b"--use-vnet", b"--fd=@", b"--br=br0"), True),
    ((b"--br=virbr0", b"--fd=@"), True),
    ((f"--br={FIFTEEN}".encode(), b"--fd=@"), True),
    ((f"--br={UMLAUT}".encode(), b"--fd=@"), True),
    ((f"--br={JUMBO}".encode(), b"--fd=@"), False),
    ((b"--br=br1", b"--fd=@"), False),
    ((b"--br=br1", b"--br=br0", b"--fd=@"), True),
    ((b"--br=br0", b"--br=br1", b"--fd=@"), False),
    ((b"--br=" + LONG, b"--br=br0", b"--fd=@"), True),
    ((b"--br=", b"--fd=@"), False),
    ((b"--br=br0", b"--br=", b"--fd=@"), False),
    ((b"--br=all", b"--fd=@"), False),
    ((b"--br=nosuch", b"--fd=@"), False),
    ((b"--br=lo", b"--fd=@"), False),
    ((b"--br=abcdefghijklmno", b"--fd=@"), False),
    ((b"--br=abcdefghijklmnop", b"--fd=@"), False),
    ((f"--br={FIFTEEN}s".encode(), b"--fd=@"), False),
    ((b"--br=../br0", b"--fd=@"), False),
    ((b"--br=br0/", b"--fd=@"), False),
    ((b"--br=.", b"--fd=@"), False),
    ((b"--br=..", b"--fd=@"), False),
    ((b"--br=br0\n", b"--fd=@"), False),
    ((b"--br=br0 ", b"--fd=@"), False),
    ((b"--br= br0", b"--fd=@"), False),
    ((b"--br=\xff", b"--fd=@"), False),
    ((b"--br=BR0", b"--fd=@"), False),
    ((b"--br=tap%d", b"--fd=@"), False),
    ((b"--br", b"br0", b"--fd=@"), False),
    ((b"--br=br0", b"--fd", b"@"), False),
    ((b"-br=br0", b"--fd=@"), False),
    ((b"--fd=@",), False),
    ((b"--br=br0",), False),
    ((), False),
    ((b"",), False),
    ((b"--br=br0", b"--fd=@", b""), False),
    ((b"--br=br0", b"--fd=@", b"br0"), False),
    ((b"--br=br0", b"--fd=@", b"--"), False),
    ((b"--br=br0", b"--fd=@", b"--use-vnet=1"), False),
    ((b"--br=br0", b"--fd=@", b"--use-vne"), False),
    ((b"--br=br0", b"--fd=@", b"--\xff"), False),
    ((b"--br=br0", b"--fd=@", b"--" + LONG), False),
    ((b"--br=br0", b"--fd=1", b"--fd=@"), True),
    ((b"--br=br0", b"--fd=@", b"--fd=1"), False),
    ((b"--br=br0", b"--fd=@", b"--fd=-1"), False),
    ((b"--br=br0", b"--fd=@x"), True),
    ((b"--br=br0", b"--fd=@ 1"), True),
    ((b"--br=br0", b"--fd=@.5"), True),
    ((b"--br=br0", b"--fd= @"), True),
    ((b"--br=br0", b"--fd=\t\n\v\f\r @"), True),
    ((b"--br=br0", b"--fd=+@"), True),
    ((b"--br=br0", b"--fd=00@"), True),
    ((b"--br=br0", b"--fd=++@"), False),
    ((b"--br=br0", b"--fd=+ @"), False),
    ((b"--br=br0", b"--fd=-@"), False),
    ((b"--br=br0", b"--fd=x@"), False),
    ((b"--br=br0", b"--fd=0x@"), False),
    ((b"--br=br0", b"--fd=\xa0@"), False),
    ((b"--br=br0", b"--fd=\xd9\xa3"), False),
    ((b"--br=br0", b"--fd="), False),
    ((b"--br=br0", b"--fd=x"), False),
    ((b"--br=br0", b"--fd=0"), False),
    ((b"--br=br0", b"--fd=2"), False),
    ((b"--br=br0", b"--fd=-0"), False),
    ((b"--br=br0", b"--fd=-2"), False),
    ((b"--br=br0", b"--fd=999"), False),
    ((b"--br=br0", b"--fd=99999999"), False),
    ((b"--br=br0", b"--fd=2147483647"), False),
    ((b"--br=br0", b"--fd=2147483648"), False),
    ((b"--br=br0", b"--fd=" + b"9" * 40), False),
    ((b"--br=br0", b"--fd=" + b"9" * 5000), False),
]


@pytest.mark.parametrize("user", [PLAIN, ROOT], ids=["user", "root"])
@pytest.mark.parametrize(("argv", "sent"), COMMAND_LINES)
def test_command_lines(pair: Pair, argv: tuple[bytes, ...], sent: bool, user: User) -> None:
    outcome = pair.agree(Case(File(b"allow all\ndeny br1\n"), argv, user))
    assert outcome.sent is sent


@pytest.mark.parametrize("bridge", sorted(BRIDGES.keys() - {JUMBO}))
@pytest.mark.parametrize("vnet", [True, False])
def test_taps_are_what_was_asked_for(pair: Pair, bridge: str, vnet: bool) -> None:
    argv = (*([b"--use-vnet"] if vnet else []), f"--br={bridge}".encode(), b"--fd=@")
    outcome = pair.agree(Case(File(f"allow {bridge}\n".encode()), argv))
    (tap,) = outcome.taps
    assert outcome.data == b"\0"
    assert (tap.bridge, tap.mtu, tap.mac) == (bridge, BRIDGES[bridge], 0xFE)
    assert tap.flags & 1, "it is down"
    assert bool(tap.iff & _IFF_VNET_HDR) is vnet


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "xx_XX.nonsense"])
def test_names_do_not_depend_on_the_locale(pair: Pair, locale: str) -> None:
    case = Case(File(f"allow {UMLAUT}\n".encode()), (f"--br={UMLAUT}".encode(), b"--fd=@"))
    assert pair.agree(case, {"LC_ALL": locale}).sent


# Where the two differ, and are to.


@pytest.mark.parametrize(
    ("acl", "br"),
    [
        # The kernel cuts an ioctl's name at a colon: the ACL judges one name, br0 is used.
        (b"allow br0:1\n", b"br0:1"),
        (b"allow all\ndeny br0\n", b"br0:"),
        # A device can be called so; it cannot be written in airtap.toml, a log or JSON.
        (b"allow \xff\n", b"\xff"),
    ],
)
def test_names_only_qemu_lets_pass(pair: Pair, acl: bytes, br: bytes) -> None:
    if br == b"\xff":
        subprocess.run([b"ip", b"link", b"set", b"br1", b"name", br], check=True)
    try:
        theirs, ours, words = pair.run(Case(File(acl), (b"--br=" + br, b"--fd=@")))
    finally:
        if br == b"\xff":
            subprocess.run([b"ip", b"link", b"set", br, b"name", b"br1"], check=True)
    assert theirs.sent, words
    assert (ours.status, ours.sent) == (1, False), words


@pytest.mark.parametrize(
    ("acl", "br", "qemu_allows", "airtap_allows"),
    [
        (b"allow alt\n", b"alt", True, True),
        (b"allow all\n", b"alt", True, True),
        (b"allow alt\n", b"virbr0", False, False),
        (b"allow all\ndeny alt\n", b"alt", False, False),
        (b"allow virbr0\n", b"alt", False, True),
        (b"allow all\ndeny virbr0\n", b"alt", True, False),
        (b"allow alt\ndeny virbr0\n", b"alt", True, False),
        (b"allow all\ndeny alt\n", b"virbr0", True, False),
        (b"allow all\ndeny other\n", b"alt", True, False),
    ],
)
def test_alternative_names(
    pair: Pair, acl: bytes, br: bytes, qemu_allows: bool, airtap_allows: bool
) -> None:
    """QEMU's helper judges what was typed, airtap the device that is meant.

    To airtap an allow counts for the name typed and the device's own, a deny for all it has.
    """
    names = ("property", "add", "dev", "virbr0", "altname", "alt", "altname", "other")
    sandbox.command("ip", "link", *names)
    try:
        theirs, ours, words = pair.run(Case(File(acl), (b"--br=" + br, b"--fd=@")))
    finally:
        sandbox.command("ip", "link", *(w if w != "add" else "del" for w in names))
    assert (theirs.sent, ours.sent) == (qemu_allows, airtap_allows), words
    assert all(tap.bridge == "virbr0" for tap in theirs.taps + ours.taps)


def test_fd_numbers_that_wrap_around(pair: Pair) -> None:
    """atoi() of too large a number is undefined; airtap takes nine digits and no more."""
    theirs, ours, words = pair.run(Case(File(b"allow all\n"), (b"--br=br0", b"--fd=0000000000@")))
    assert theirs.sent and not ours.sent, words
    assert ours.status == 1


def test_nobody_reads(pair: Pair) -> None:
    """QEMU's helper is killed by SIGPIPE, airtap's says so; both have made nothing that stays."""
    File(b"allow all\n").put(MAIN)
    File(b"allow all\n").put(pair.daemon.acl)
    for program, status in ((pair.setuid_copy, -signal.SIGPIPE), (HELPER, 1)):
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with far:
            near.close()
            done = subprocess.run(
                [program, "--br=br0", f"--fd={far.fileno()}"],
                pass_fds=[far.fileno()],
                env={**os.environ, **pair.daemon.env},
                user=PLAIN.uid,
                group=PLAIN.gid,
                extra_groups=[],
                capture_output=True,
                timeout=40,
            )
        assert done.returncode == status, done.stderr
    assert b"Broken pipe" in done.stderr
    pair.wait_for_taps_to_go()


# Generated cases: ACLs of some lines, with includes, crossed with command lines and users.

_NAMES = [*BRIDGES, *BRIDGES, "all", "all", "br", "br00", "nosuch", "BR0", "x" * 15]
_INCLUDE_NAMES = ("a", "b", "c", "d e")
_BLANKS = (b" ", b"  ", b"\t", b" \t", b"\r", b"\v\f")


def random_case(chance: random.Random) -> Case:
    wanted = chance.choice(list(BRIDGES)[:5])
    kind = chance.random()
    if kind < 0.08:
        return random_loop(chance, wanted)
    if kind < 0.2:
        return random_policy(chance, wanted)
    includes = {
        name: random_file(chance, wanted, below=name)
        for name in chance.sample(_INCLUDE_NAMES, chance.choice((0, 0, 1, 2, 3)))
    }
    acl = random_file(chance, wanted, below="")
    main = None if chance.random() < 0.02 else acl
    return Case(main, random_command_line(chance, wanted), chance.choice(USERS), includes)


def random_loop(chance: random.Random, wanted: str) -> Case:
    """Includes in a ring, one in each file: with two QEMU's helper would go 2**1024 ways."""
    ring = [*_INCLUDE_NAMES[: chance.randint(1, len(_INCLUDE_NAMES))]]
    back = chance.choice([str(MAIN), *(f"{INCLUDES}/{name}" for name in ring)])
    targets = [*(f"{INCLUDES}/{name}" for name in ring), back]
    files = []
    for target in targets:
        names = [chance.choice([*_NAMES, wanted]).encode() for _ in range(3)]
        lines = [rule(chance, chance.choice((b"allow", b"allow", b"deny")), n) for n in names]
        lines.insert(chance.randint(0, 3), rule(chance, b"include", target.encode()))
        files.append(File(b"".join(lines)))
    includes = dict(zip(ring, files[1:], strict=True))
    return Case(files[0], random_command_line(chance, wanted), chance.choice(USERS), includes)


def random_policy(chance: random.Random, wanted: str) -> Case:
    """A policy per user: everything hangs on who may read an include."""
    command = chance.choice((b"allow", b"allow", b"deny"))
    included = File(
        rule(chance, command, wanted.encode()),
        chance.choice((0o640, 0o640, 0o604, 0o400, 0o040)),
        chance.choice((0, 0, PLAIN.uid)),
        chance.choice((STAFF, STAFF, OTHERS, PLAIN.gid)),
    )
    lines = [rule(chance, b"include", f"{INCLUDES}/a".encode())]
    if command == b"deny":
        lines.insert(chance.randint(0, 1), b"allow all\n")
    argv = random_command_line(chance, wanted)
    return Case(File(b"".join(lines)), argv, chance.choice(USERS), {"a": included})


def random_file(chance: random.Random, wanted: str, below: str) -> File:
    """An ACL; below: the include that it is to be, "" for the main file."""
    lines = [random_line(chance, wanted, below) for _ in range(chance.choice((0, 0, 1, 2, 2, 3)))]
    if chance.random() < (0.5 if below else 0.9):
        lines.insert(chance.randint(0, len(lines)), rule(chance, b"allow", wanted.encode()))
    if chance.random() < 0.06:
        lines.insert(chance.randint(0, len(lines)), broken_line(chance))
    content = b"".join(lines)
    if chance.random() < 0.15:
        content = content[:-1]  # no newline at the end, or half a CRLF
    if chance.random() < (0.7 if below else 0.9):
        return File(content)
    return File(
        content,
        chance.choice((0o600, 0o640, 0o640, 0o604, 0o440, 0o044, 0)),
        chance.choice((0, 0, PLAIN.uid)),
        chance.choice((0, STAFF, OTHERS, PLAIN.gid)),
    )


def random_line(chance: random.Random, wanted: str, below: str) -> bytes:
    what = chance.random()
    name = chance.choice([*_NAMES, wanted]).encode()
    if what < 0.4:
        return rule(chance, b"allow", name)
    if what < 0.5:
        return rule(chance, b"deny", name)
    if what < 0.75:
        return rule(chance, b"include", random_include(chance, below))
    if what < 0.83:
        return chance.choice((b"\n", b"#\n", b" \t\n", b"# allow all\n", b"\0\n", b"\r\n"))
    if what < 0.9:
        return b"#" + b"x" * chance.choice((4093, 4094)) + chance.choice((b"\n", b"# too\n"))
    if what < 0.95:
        return rule(chance, b"allow", name)[:-1] + b"\0garbage\n"
    return bytes(chance.choices(range(256), k=chance.randint(1, 12))) + b"\n"


def random_include(chance: random.Random, below: str) -> bytes:
    """A path: to a later file, so that there is no loop, or to what cannot be read."""
    later = [name for name in _INCLUDE_NAMES if name > below]
    if later and chance.random() < 0.8:
        return f"{INCLUDES}/{chance.choice(later)}".encode()
    return chance.choice((b"/run/acl/missing", b"/run/acl", b"/etc/shadow", b"/run/acl/a/b"))


def rule(chance: random.Random, command: bytes, argument: bytes) -> bytes:
    plain = chance.random() < 0.6
    before = b"" if plain else chance.choice((b"", *_BLANKS))
    between = b" " if plain else chance.choice((b" ", b"  ", b"\t", b" \t", b"\t ", b"\t\t"))
    behind = b"" if plain else chance.choice((b"", b"", b"\r", *_BLANKS))
    return before + command + between + argument + behind + b"\n"


def broken_line(chance: random.Random) -> bytes:
    return chance.choice(
        (
            b"allow\n",
            b"permit br0\n",
            b"ALLOW br0\n",
            b"allow " + b"x" * 16 + b"\n",
            b"deny " + b"\xc3\xbc" * 8 + b"\n",
            b"allow\tbr0 \n",
            b"allow\vbr0\n",
            b"\xef\xbb\xbf# BOM\n",
            b"#" + LONG + b"\n",
            b"include\n",
        )
    )


def random_command_line(chance: random.Random, wanted: str) -> tuple[bytes, ...]:
    options = [b"--br=" + wanted.encode(), b"--fd=@"]
    if chance.random() < 0.7:
        options.append(b"--use-vnet")
    for _ in range(chance.choice((0, 0, 0, 0, 0, 1, 1, 2))):
        damage(chance, options)
    chance.shuffle(options)
    return tuple(options)


def damage(chance: random.Random, options: list[bytes]) -> None:
    """Change a command line; some changes are harmless."""
    kind = chance.random()
    if kind < 0.35:
        options.append(b"--br=" + chance.choice(_NAMES).encode())
    elif kind < 0.45:
        bad = (b"", b"x" * 16, b"../br0", b"br0/", b"br0 ", b".", b"\xff", b"\xc3\xbc" * 8)
        options.append(b"--br=" + chance.choice(bad))
    elif kind < 0.7:
        forms = (b"@x", b" @", b"+@", b"0@", b"-@", b"x@", b"", b"-1", b"1", b"99", b"@" * 4)
        options.append(b"--fd=" + chance.choice(forms))
    elif kind < 0.8:
        options.append(b"--use-vnet")
    elif kind < 0.9:
        options.append(chance.choice((b"--br", b"-h", b"br0", b"", b"--use-vnet=on", b"--fd")))
    elif options:
        options.pop(chance.randrange(len(options)))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_generated(pair: Pair, batch: int) -> None:
    print(f"AIRTAP_SEED={SEED}, batch {batch}")
    chance = random.Random(f"{SEED}/{batch}")
    sent, differences = 0, []
    for number in range(CASES_PER_BATCH):
        case = random_case(chance)
        theirs, ours, words = pair.run(case)
        sent += ours.sent
        if theirs != ours:
            differences.append(f"{number}: {case}\nQEMU's: {theirs}\nairtap's: {ours}\n{words}")
    assert not differences, "\n\n".join(differences)
    assert 0 < sent < CASES_PER_BATCH, "the cases do not try both decisions"

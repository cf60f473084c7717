"""The grammar of bridge.conf and what becomes of includes.

Users' rights on files, and QEMU's own helper on the same files, are in tests/sidebyside.
"""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airtap import acl
from airtap.acl import Acl
from airtap.errors import Problem

BOUND = 1 << 18


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to be written again and again: hypothesis forbids tmp_path, which is per test."""
    return tmp_path_factory.mktemp("acl") / "bridge.conf"


def load(path: Path, content: bytes) -> Acl:
    path.write_bytes(content)
    return acl.load(str(path))


def refusal(path: Path, content: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        load(path, content)
    return caught.value


# What each content means: (allow, deny), "all" standing for allow_all and deny_all.
MEANINGS: dict[str, tuple[bytes, set[str], set[str]]] = {
    "empty": (b"", set(), set()),
    "allow": (b"allow br0\n", {"br0"}, set()),
    "deny": (b"deny br0\n", set(), {"br0"}),
    "both": (b"allow br0\ndeny br1\nallow br2\n", {"br0", "br2"}, {"br1"}),
    "all": (b"allow all\ndeny all\n", {"all"}, {"all"}),
    "not quite all": (b"allow ALL\ndeny all2\n", {"ALL"}, {"all2"}),
    "no newline": (b"allow br0", {"br0"}, set()),
    "CRLF": (b"allow br0\r\ndeny br1\r\n", {"br0"}, {"br1"}),
    "CR alone ends nothing": (b"allow a\rallow b\n", {"a\rallow b"}, set()),
    "blanks around": (b" \t\f\rallow \t\f\r br0 \t\f\r\n", {"br0"}, set()),
    "tab": (b"allow\tbr0\n", {"br0"}, set()),
    "tab and then blanks": (b"allow\t\t\fbr0\t\n", {"br0"}, set()),
    "space in the name": (b"allow br0 br1\n", {"br0 br1"}, set()),
    "tab in the name": (b"allow br0\tbr1\n", {"br0\tbr1"}, set()),
    "comment": (b"# one\n  # two\n#\nallow br0\n", {"br0"}, set()),
    "comment behind": (b"allow br0 # mine\n", {"br0 # mine"}, set()),
    "hash in front of nothing": (b"#allow br0\n", set(), set()),
    "empty lines": (b"\n\r\n \n\t\n\nallow br0\n", {"br0"}, set()),
    "empty argument": (b"allow \ndeny \t \n", {""}, {""}),
    "empty argument after a tab": (b"allow\t\n", {""}, set()),
    "15 bytes": (b"allow abcdefghijklmno\n", {"abcdefghijklmno"}, set()),
    "15 bytes in UTF-8": ("allow üüüüüüü1\n".encode(), {"üüüüüüü1"}, set()),
    "not UTF-8": (b"allow \xff\n", {"\udcff"}, set()),
    "NUL ends a line": (b"allow br0\0 and more\ndeny br1\n", {"br0"}, {"br1"}),
    "NUL first": (b"\0allow br0\n \t\0allow br1\n", set(), set()),
    "NUL as the name": (b"allow \0br0\n", {""}, set()),
    "vertical tab in the name": (b"allow \vbr0\v\n", {"\vbr0\v"}, set()),
    "no-break space in the name": (b"allow \xa0br0\x85\n", {"\udca0br0\udc85"}, set()),
    "4095 bytes with the newline": (b"#" * 4094 + b"\nallow br0\n", {"br0"}, set()),
    "4095 bytes without it": (b"#" * 4095 + b"\nallow br0\n", {"br0"}, set()),
    "longer: the rest is a line": (b"#" * 4095 + b"allow br0\n", {"br0"}, set()),
    "longer: cut inside": (b"allow abc".ljust(4095) + b"allow d\n", {"abc", "d"}, set()),
    "longer: twice": (b"#" * 8190 + b"deny br0\n", set(), {"br0"}),
    "include of nothing": (b"include \nallow br0\n", {"br0"}, set()),
    "relative include": (b"include bridge.conf\ninclude ./x\nallow br0\n", {"br0"}, set()),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_meaning(scratch: Path, name: str) -> None:
    content, allow, deny = MEANINGS[name]
    assert load(scratch, content) == Acl(
        allow - {"all"}, deny - {"all"}, "all" in allow, "all" in deny
    )


@pytest.mark.parametrize(
    ("content", "line", "about"),
    [
        (b"allow\n", 1, "no argument in 'allow'"),
        (b"allow", 1, "no argument in 'allow'"),
        (b"\n\n br0 \n", 3, "unknown command 'br0'"),
        (b"allow br0\npermit br1\n", 2, "unknown command 'permit'"),
        (b"Allow br0\n", 1, "unknown command 'Allow'"),
        (b"allow\tbr0 \n", 1, "unknown command 'allow\\tbr0'"),
        (b"allow\vbr0\n", 1, "no argument in 'allow\\x0bbr0'"),
        (b"\vallow br0\n", 1, "unknown command '\\x0ballow'"),
        (b"\v\n", 1, "no argument in"),
        (b"all\0ow br0\n", 1, "no argument in 'all'"),
        (b"\xef\xbb\xbfallow br0\n", 1, "unknown command '\\ufeffallow'"),
        (b"\xff br0\n", 1, "unknown command '\\xff'"),
        (b"allow abcdefghijklmnop\n", 1, "'abcdefghijklmnop'"),
        (b"deny abcdefghijklmnop\n", 1, "'abcdefghijklmnop'"),
        ("allow üüüüüüüü\n".encode(), 1, "longer than 15 bytes"),
        (b"allow br0 # and so forth\n", 1, "longer than 15 bytes"),
        (b"include\n", 1, "no argument in 'include'"),
        (b"#" * 4095 + b"x\n", 2, "no argument in 'x'"),
        # "allow" ends where the buffer does, so it has no argument.
        (b" " * 4090 + b"allow br0\n", 1, "no argument in 'allow'"),
        (b"x" * 9000, 1, "no argument in 'xxx"),
    ],
)
def test_broken(scratch: Path, content: bytes, line: int, about: str) -> None:
    problem = refusal(scratch, content)
    assert problem.code == "acl-invalid"
    assert f"{scratch}, line {line}: " in str(problem)
    assert about in str(problem)


# An independent reading of the grammar, for files without includes.

_LINE = re.compile(rb"[^\n]{0,4094}\n|[^\n]{1,4095}")
_NOTHING = re.compile(rb"[ \t\n\f\r]*(#.*)?", re.DOTALL)
_RULE = re.compile(
    rb"[ \t\n\f\r]*(?:(?P<a>allow|deny) (?P<b>.*)|(?P<c>allow|deny)\t(?P<d>[^ ]*))", re.DOTALL
)


def model(content: bytes) -> Acl | None:
    """What content says, None if it is broken."""
    found = Acl()
    for line in _LINE.findall(content):
        line = line.partition(b"\0")[0]
        if _NOTHING.fullmatch(line):
            continue
        rule = _RULE.fullmatch(line)
        if rule is None:
            return None
        name = os.fsdecode((rule["b"] or rule["d"] or b"").strip(b" \t\n\f\r"))
        if len(os.fsencode(name)) > 15:
            return None
        allow = b"allow" in (rule["a"], rule["c"])
        if name != "all":
            (found.allow if allow else found.deny).add(name)
        elif allow:
            found.allow_all = True
        else:
            found.deny_all = True
    return found


_PIECES = st.sampled_from(
    [b"allow", b"deny", b"all", b"br0", b"br1", b"x" * 15, b"x" * 16, b"#", b"\0", b"\xff"]
    + [b" "] * 6
    + [b"\n"] * 4
    + [b"\t", b"\r", b"\f", b"\v", b"\xa0", b"\x1c", b"x" * 4080, b" " * 4085]
)
_BLANKS = st.sampled_from([b"", b"", b" ", b"\t", b"\v", b"\f", b"\r", b"\xa0", b"\x85", b"\0"])
_LINES = st.builds(
    lambda *parts: b"".join(parts),
    _BLANKS,
    st.sampled_from([b"allow", b"allow", b"deny", b"deny", b"#", b""]),
    st.sampled_from([b" ", b" ", b"  ", b"\t"]),
    _BLANKS,
    st.sampled_from([b"br0", b"br1", b"all", b"", b"x" * 15]),
    _BLANKS,
    st.just(b"\n"),
)


@settings(max_examples=1000)
@given(
    st.one_of(
        st.lists(_PIECES).map(b"".join),
        st.lists(_LINES, max_size=3).map(b"".join),
        st.lists(st.one_of(_LINES, _LINES, _PIECES)).map(b"".join),
        st.binary(),
    )
)
def test_grammar_is_the_models(scratch: Path, content: bytes) -> None:
    expected = model(content)
    if expected is None:
        assert refusal(scratch, content).code == "acl-invalid"
    else:
        assert load(scratch, content) == expected


_NAMES = st.sets(st.sampled_from(["br0", "br1", "all", ""]))


@given(_NAMES, _NAMES, st.booleans(), st.booleans(), _NAMES)
def test_decision(
    allow: set[str], deny: set[str], allow_all: bool, deny_all: bool, names: set[str]
) -> None:
    """Default deny; a deny wins; "all" is a rule, never a name."""
    allowed = Acl(allow, deny, allow_all, deny_all).allows(names)
    assert allowed == (
        (allow_all or any(name in allow for name in names))
        and not deny_all
        and not any(name in deny for name in names)
    )


def test_all_is_no_name(scratch: Path) -> None:
    """A device called "all" is allowed by "allow all" like any other, and denied so."""
    assert load(scratch, b"allow all\n").allows({"all"})
    assert not load(scratch, b"allow br0\n").allows({"all"})
    assert not load(scratch, b"allow all\ndeny all\n").allows({"br0"})


# Includes.


def test_include(tmp_path: Path) -> None:
    (tmp_path / "a b").write_text("allow br0\ndeny br1")
    main = tmp_path / "main"
    found = load(main, f"allow br2\ninclude {tmp_path}/a b \r\ndeny br3\n".encode())
    assert found == Acl({"br0", "br2"}, {"br1", "br3"})


def test_include_by_a_tab(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("allow br0\n")
    assert load(tmp_path / "main", f"include\t{tmp_path}/a\n".encode()).allows({"br0"})


def test_include_of_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(name)).write_text("allow br0\n")
    assert load(tmp_path / "main", b"include " + name).allows({"br0"})


def test_relative_include_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("allow br0\n")
    monkeypatch.chdir(tmp_path)
    for path in ("a", "./a", f"../{tmp_path.name}/a"):
        assert load(tmp_path / "main", f"include {path}\n".encode()) == Acl()


def unusable(directory: Path) -> dict[str, Path]:
    """Paths of every sort of thing that cannot be read as an ACL."""
    os.mkfifo(directory / "fifo")
    (directory / "dir").mkdir()
    (directory / "file").write_text("allow br0\n")
    (directory / "loop").symlink_to("loop")
    (directory / "dangling").symlink_to("missing")
    return {
        "missing": directory / "missing",
        "fifo": directory / "fifo",
        "directory": directory / "dir",
        "device": Path("/dev/zero"),
        "terminal": Path("/dev/tty"),
        "below a file": directory / "file/x",
        "symlink loop": directory / "loop",
        "dangling symlink": directory / "dangling",
        "long name": directory / ("x" * 300),
        "long path": Path("/" + "d/" * 2030 + "x"),
        # open(2) succeeds, read(2) is EINVAL.
        "fails when read": Path("/sys/class/net/lo/speed"),
    }


KINDS = [
    *("missing", "fifo", "directory", "device", "terminal", "below a file", "symlink loop"),
    *("dangling symlink", "long name", "long path", "fails when read"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_include_does_not_count(tmp_path: Path, kind: str) -> None:
    path = unusable(tmp_path)[kind]
    found = load(tmp_path / "main", f"allow br0\ninclude {path}\nallow br1\n".encode())
    assert found == Acl({"br0", "br1"})


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_main_file_allows_nothing(tmp_path: Path, kind: str) -> None:
    path = unusable(tmp_path)[kind]
    with pytest.raises(Problem) as caught:
        acl.load(str(path))
    assert caught.value.code == "acl-unreadable"
    assert str(path) in caught.value.message


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_files_leave_no_descriptor(tmp_path: Path, kind: str) -> None:
    path = unusable(tmp_path)[kind]
    before = sorted(os.listdir("/proc/self/fd"))
    main = tmp_path / "main"
    main.write_text(f"include {path}\npermit\n")
    for file in (main, path):
        with pytest.raises((Problem, OSError)):
            acl.load(str(file))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_missing_main_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        acl.load(str(tmp_path / "none"))
    assert (caught.value.code, bool(caught.value.hint)) == ("acl-unreadable", True)


def test_empty_main_file_allows_nothing(tmp_path: Path) -> None:
    assert not load(tmp_path / "main", b"").allows({"br0"})


def test_broken_include_counts_up_to_where_it_broke(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("allow br0\ndeny br1\npermit x\nallow br2\ndeny br3\n")
    found = load(tmp_path / "main", f"include {tmp_path}/a\nallow br4\n".encode())
    assert found == Acl({"br0", "br4"}, {"br1"})


def test_broken_nested_include_ends_only_itself(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f"include {tmp_path}/b\nallow br0\n")
    (tmp_path / "b").write_text("allow br1\nallow\nallow br2\n")
    assert load(tmp_path / "main", f"include {tmp_path}/a\n".encode()) == Acl({"br0", "br1"})


def test_broken_main_file_behind_an_include(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("allow br0\n")
    problem = refusal(tmp_path / "main", f"include {tmp_path}/a\npermit br0\n".encode())
    assert problem.code == "acl-invalid"


def test_include_loops(tmp_path: Path) -> None:
    """Rules on both sides of where the loop closes count once, as in QEMU."""
    main = tmp_path / "main"
    (tmp_path / "a").write_text(f"allow br1\ninclude {tmp_path}/b\nallow br2\n")
    (tmp_path / "b").write_text(f"deny br3\ninclude {main}\ninclude {tmp_path}/a\ndeny br4\n")
    content = f"allow br0\ninclude {main}\ninclude {tmp_path}/a\nallow br5\n"
    found = load(main, content.encode())
    assert found == Acl({"br0", "br1", "br2", "br5"}, {"br3", "br4"})


def test_the_same_file_by_other_names(tmp_path: Path) -> None:
    """A diamond, a hard link and a symbolic link: each file is read once, and counts."""
    (tmp_path / "a").write_text("allow br0\n")
    os.link(tmp_path / "a", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("a")
    lines = [f"include {tmp_path}/{name}" for name in ("a", "hard", "soft", "./a", "a")] * 50
    assert load(tmp_path / "main", "\n".join(lines).encode()) == Acl({"br0"})


def chain(directory: Path, length: int) -> Path:
    """length files, each of which includes the next; all allow br0."""
    for number in range(length):
        following = directory / str(number + 1)
        (directory / str(number)).write_text(f"allow br0\ninclude {following}\n")
    return directory / "0"


def test_64_files_are_enough(tmp_path: Path) -> None:
    assert acl.load(str(chain(tmp_path, 64))) == Acl({"br0"})


@pytest.mark.parametrize("length", [65, 300])
def test_more_files_deny_everything(tmp_path: Path, length: int) -> None:
    with pytest.raises(Problem) as caught:
        acl.load(str(chain(tmp_path, length)))
    assert caught.value.code == "acl-too-large"


def test_more_files_side_by_side_deny_everything(tmp_path: Path) -> None:
    for number in range(64):
        (tmp_path / str(number)).write_text("")
    lines = ["allow all", *(f"include {tmp_path}/{number}" for number in range(64))]
    assert refusal(tmp_path / "main", "\n".join(lines).encode()).code == "acl-too-large"


def test_256_kib_are_enough(tmp_path: Path) -> None:
    content = b"#\n" * (BOUND // 2 - 5) + b"allow br0\n"
    assert len(content) == BOUND
    assert load(tmp_path / "main", content).allows({"br0"})


def test_a_larger_file_denies_everything(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path / "main", b"allow all\n".ljust(BOUND + 1, b"\n")).code == "acl-too-large"
    )


def test_a_larger_include_denies_everything(tmp_path: Path) -> None:
    """Else a deny in it would go unread: an include that is too large is not ignored."""
    (tmp_path / "a").write_bytes(b"#\n" * BOUND + b"deny br0\n")
    (tmp_path / "b").write_text(f"include {tmp_path}/a\n")
    problem = refusal(tmp_path / "main", f"allow br0\ninclude {tmp_path}/b\n".encode())
    assert problem.code == "acl-too-large"


def test_a_path_with_a_nul() -> None:
    with pytest.raises(Problem) as caught:
        acl.load("/etc/\0")
    assert caught.value.code == "acl-unreadable"

"""bridge_helper in somebody's qemu.conf."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airtap.errors import Problem
from airtap.libvirt.session_conf import helper, is_set, path, setting, value, with_setting, write

LINE = 'bridge_helper = "/usr/bin/airtap-bridge-helper"'
OTHER = 'bridge_helper = "/usr/lib/qemu/qemu-bridge-helper"'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{LINE}\n"),
        ("user = 'me'", f"user = 'me'\n{LINE}\n"),
        (f"#{OTHER}\n", f"#{OTHER}\n{LINE}\n"),
        (f"a = 1\n{OTHER}\nb = 2\n", f"a = 1\n{LINE}\nb = 2\n"),
        (f"{OTHER}\na = 1\n  {OTHER}\n", f"{LINE}\na = 1\n"),
        (f"{LINE}\na = 1\n{LINE}\n", f"{LINE}\na = 1\n"),
        ("bridge_helper_x = 1\n", f"bridge_helper_x = 1\n{LINE}\n"),
        ("bridge_helper='x' # mine\n", f"{LINE}\n"),
        (LINE, LINE),
    ],
)
def test_lines(before: str, after: str) -> None:
    assert with_setting(before, LINE) == after
    assert with_setting(after, LINE) == after


LINES = st.lists(st.sampled_from([LINE, OTHER, f"# {OTHER}", "a = [", '"b" ]', "", "\tx = 1"]))


@settings(deadline=None)
@given(LINES, st.sampled_from(["", "\n"]))
def test_the_rest_stays(lines: list[str], end: str) -> None:
    made = with_setting("\n".join(lines) + end, LINE).splitlines()
    rest = [line for line in made if line != LINE]
    assert made.count(LINE) == 1
    assert rest == [
        line for line in ("\n".join(lines) + end).splitlines() if line not in (LINE, OTHER)
    ]


def test_writing(tmp_path: Path) -> None:
    dotfiles = tmp_path / "dotfiles"
    dotfiles.write_text("# ümlaut\r\n")
    dotfiles.chmod(0o640)
    file = tmp_path / "qemu.conf"
    file.symlink_to(dotfiles)
    assert not is_set(file, LINE)
    assert write(file, LINE)
    assert is_set(file, LINE)
    assert not write(file, LINE)
    assert file.is_symlink()
    assert dotfiles.read_bytes().decode() == f"# ümlaut\r\n{LINE}\n"
    assert dotfiles.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dotfiles", "qemu.conf"]


def test_a_new_file(tmp_path: Path) -> None:
    file = tmp_path / "a/libvirt/qemu.conf"
    assert write(file, LINE)
    assert file.read_text() == f"{LINE}\n"


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="cannot"):
        write(tmp_path / "file/libvirt/qemu.conf", LINE)
    (tmp_path / "latin").write_bytes(b"# \xfc\n")
    with pytest.raises(Problem, match="not UTF-8"):
        write(tmp_path / "latin", LINE)


def test_quotes() -> None:
    assert setting("/a b/c") == 'bridge_helper = "/a b/c"'
    assert setting('/a"b') == "bridge_helper = '/a\"b'"
    for bad in ("/a'b\"c", "/a\nb"):
        with pytest.raises(Problem):
            setting(bad)


def test_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x")
    assert path() == Path("/x/libvirt/qemu.conf")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert path() == Path("/h/.config/libvirt/qemu.conf")


@pytest.mark.parametrize(
    ("text", "helper"),
    [
        ("", ""),
        ('bridge_helper = "/usr/bin/x"\n', "/usr/bin/x"),
        ("# bridge_helper = '/a'\n\tbridge_helper='/b' # here\n", "/b"),
        ('bridge_helper = "/a"\nbridge_helper = "/b"\n', "/b"),
        ("bridge_helper = 7\nbridge_helper =\n", ""),
    ],
)
def test_value(text: str, helper: str) -> None:
    assert value(text) == helper


def test_our_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the program, else on PATH, else where packages put it; wherever we may not look."""
    monkeypatch.setattr("sys.argv", [f"/{'x' * 300}/airtap"])  # to look there is an error
    monkeypatch.setenv("PATH", str(tmp_path))
    assert helper() == "/usr/bin/airtap-bridge-helper"
    ours = tmp_path / "airtap-bridge-helper"
    ours.touch(0o755)
    assert helper() == str(ours)
    beside = tmp_path / "bin" / ours.name
    beside.parent.mkdir()
    beside.touch()
    monkeypatch.setattr("sys.argv", [str(beside.with_name("airtap"))])
    assert helper() == str(beside)

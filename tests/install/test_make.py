"""make install and uninstall, deb and dist: what comes of them."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

from tests.install.conftest import TREE, make, only

PROGRAMS = ("airtap", "airtapd", "airtap-bridge-helper")


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_uninstall_takes_what_install_brought(tmp_path: Path) -> None:
    """All but the administrator's configuration, and no directory of others'."""
    (tmp_path / "usr/share/man/man1").mkdir(parents=True)
    (tmp_path / "usr/share/man/man1/other.1").touch()
    before = files(tmp_path)
    make("install", f"DESTDIR={tmp_path}")
    for program in PROGRAMS:
        assert os.access(tmp_path / "usr/bin" / program, os.X_OK)
    config = tmp_path / "etc/airtap/bridge.conf"
    config.write_text("allow eth0\n")
    make("install", f"DESTDIR={tmp_path}")
    assert config.read_text() == "allow eth0\n"
    make("uninstall", f"DESTDIR={tmp_path}")
    own = {"etc", "etc/airtap", "etc/airtap/bridge.conf", "etc/airtap/airtap.toml"}
    assert files(tmp_path) - before == own
    assert before <= files(tmp_path)


def test_nothing_lends_rights(tmp_path: Path) -> None:
    """Nothing is setuid, has capabilities of its own, or may be written to by others than root."""
    make("install", f"DESTDIR={tmp_path}")
    for path in tmp_path.rglob("*"):
        mode = 0 if path.is_symlink() else path.stat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWGRP | stat.S_IWOTH), path
        assert "security.capability" not in os.listxattr(path, follow_symlinks=False)


def test_another_prefix(tmp_path: Path) -> None:
    """The programs find their package, and the unit the program."""
    prefix = tmp_path / "opt"
    make("install", f"PREFIX={prefix}", f"DESTDIR={tmp_path}/root")
    os.rename(tmp_path / f"root{prefix}", prefix)
    for program in PROGRAMS:
        done = subprocess.run([prefix / "bin" / program, "--help"], text=True, capture_output=True)
        assert program in done.stdout, done.stderr
    unit = (prefix / "lib/systemd/system/airtapd.service").read_text()
    assert f"ExecStart={prefix}/bin/airtapd\n" in unit


def test_the_package_is_clean_and_reproducible(package: Path, tmp_path: Path) -> None:
    """lintian has nothing to say, and the same tree makes the same package."""
    make("deb", f"DEB={tmp_path}/deb", f"DIST={tmp_path}")
    again = only(tmp_path, "airtap_*.deb")
    assert digest(again) == digest(package)
    changes = only(tmp_path / "deb", "*.changes")
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error,warning", "--no-cfg", str(changes)],
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_in_a_fresh_environment(tmp_path: Path) -> None:
    """It was built from the sdist. The programs run; BPF object and templates are there."""
    only(TREE / "dist", "airtap-*.tar.gz")
    wheel = only(TREE / "dist", "airtap-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    pip = [sys.executable, "-m", "pip", f"--python={tmp_path}", "install", "--quiet"]
    wheels = ["--no-index", "--find-links", str(TREE / "build/wheels")]
    subprocess.run([*pip, *wheels, str(wheel)], check=True)
    for program in PROGRAMS:
        argv = [str(tmp_path / "bin" / program), "--help"]
        assert program in subprocess.run(argv, text=True, capture_output=True).stdout
    [object_] = tmp_path.glob("lib/python*/site-packages/airtap/bpf/macnat.bpf.o")
    assert object_.read_bytes().startswith(b"\x7fELF")
    assert [*tmp_path.glob("lib/python*/site-packages/airtap/xml-templates/network-nat.xml")]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

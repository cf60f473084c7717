"""Roots of Debian 12 and 13 to install airtap's package in (lab/debian.py), made by debootstrap.

python -m lab.roots WHEEL PACKAGE...    make them in .roots/, from the mirror that this system uses

Each is a small server that boots by systemd, and has in apt's cache what airtap's package depends
on and recommends: apt resolves that later without a network. A laptop is a Debian 12 with libvirt
and QEMU in use already, and with all that building the package takes.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import sandbox
from lab.apt import Apt
from lab.kernels import REPOSITORY

STORE = REPOSITORY / ".roots"
SUITES = ("bookworm", "trixie")
LAPTOP = "laptop"

_THERE = ("systemd-sysv", "udev", "kmod", "dbus", "iproute2", "man-db", "apparmor", "procps")
_CACHED = ("python3", "libbpf1", "python3-libvirt", "python3-lxml")
_OF_A_LAPTOP = (
    "libvirt-daemon-system",
    "qemu-system-x86",
    "ipxe-qemu",
    "virtinst",
    "make",
    *("network-manager", "wpasupplicant", "iwd", "ifupdown", "isc-dhcp-client", "rfkill", "iw"),
)
_APT = "apt-get -qq --yes"
_WHEELS = "var/cache/wheels"


def root(suite: str) -> Path:
    """Return a root made before. FileNotFoundError says how to."""
    path = STORE / suite
    if not path.is_dir():
        raise FileNotFoundError(f"no root of {suite} in {STORE}: run `make setup`")
    return path


def make(building: Sequence[str], wheel: str) -> None:
    """Make all of them, anew. RuntimeError carries the complaint of what failed.

    building: packages that `make deb` wants; wheel: what it gets from PyPI.
    """
    STORE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=STORE) as directory:
        apt = Apt(Path(directory))
        mirror = next(uri for uri, release in apt.mirrors() if "-" not in release)
        network = apt.run("apt-config", "dump", "Acquire::http::Proxy", "Acquire::https::Proxy")
    for suite in SUITES:
        with _fresh(suite) as root:
            sandbox.command(
                *("debootstrap", "--variant=minbase", f"--include={','.join(_THERE)}"),
                *(suite, str(root), mirror),
            )
            (root / "etc/apt/apt.conf.d/50lab").write_text(network + "\n")
            # What this system says about names and proxies.
            for name in ("resolv.conf", "hosts"):
                shutil.copy(f"/etc/{name}", root / "etc" / name)
            _in(root, f"{_APT} update && {_APT} install --download-only {' '.join(_CACHED)}")
    with _fresh(LAPTOP) as root:
        sandbox.command("cp", "-a", "--reflink=auto", str(STORE / SUITES[0]), str(root))
        shutil.copytree(REPOSITORY / "debian", root / "tmp/debian")
        few = f"{_APT} --no-install-recommends"
        _in(root, f"{few} install {' '.join([*_OF_A_LAPTOP, *building])}")
        _in(root, f"{few} build-dep /tmp")
        shutil.rmtree(root / "tmp/debian")
        _keep(wheel, root)


@contextlib.contextmanager
def _fresh(name: str) -> Iterator[Path]:
    """A directory for a root, in whose place it is once it is done."""
    fresh = STORE / f"{name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    yield fresh
    shutil.rmtree(STORE / name, ignore_errors=True)
    fresh.rename(STORE / name)
    print(name, flush=True)


def _in(root: Path, script: str) -> None:
    argv = ["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", script]
    done = subprocess.run(argv, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{script} in {root}: {done.stderr.strip()}")


def _keep(wheel: str, root: Path) -> None:
    """Have pip find a wheel there without a network."""
    sandbox.command(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
        *(f"--dest={root / _WHEELS}", wheel),
    )
    (root / "etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = /{_WHEELS}\n")


if __name__ == "__main__":
    make(sys.argv[2:], sys.argv[1])

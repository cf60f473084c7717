"""Roots of Debian 12 and 13 to install airtap's package in (lab/debian.py), made by debootstrap.

python -m lab.roots    make them in .roots/, from the mirror that this system uses

Each is a small server that boots by systemd, and has in apt's cache what airtap's package depends
on and recommends: apt resolves that later without a network.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from lab import sandbox
from lab.apt import Apt

STORE = Path(__file__).resolve().parent.parent / ".roots"
SUITES = ("bookworm", "trixie")

_THERE = ("systemd-sysv", "udev", "kmod", "dbus", "iproute2", "man-db", "apparmor", "procps")
_CACHED = ("python3", "libbpf1", "python3-libvirt", "python3-lxml")
# With what the network configuration of this system says about names and proxies.
_CACHE = """\
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update && apt-get -qq install --yes --no-install-recommends --download-only {packages}
"""


def root(suite: str) -> Path:
    """Return a root made before. FileNotFoundError says how to."""
    path = STORE / suite
    if not path.is_dir():
        raise FileNotFoundError(f"no root of {suite} in {STORE}: run `make setup`")
    return path


def make() -> None:
    """Make all of them, anew. RuntimeError carries the complaint of what failed."""
    STORE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=STORE) as directory:
        apt = Apt(Path(directory))
        mirror = next(uri for uri, release in apt.mirrors() if "-" not in release)
        network = apt.run("apt-config", "dump", "Acquire::http::Proxy", "Acquire::https::Proxy")
    for suite in SUITES:
        fresh = STORE / f"{suite}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        sandbox.command(
            *("debootstrap", "--variant=minbase", f"--include={','.join(_THERE)}"),
            *(suite, str(fresh), mirror),
        )
        _cache(fresh, network)
        shutil.rmtree(STORE / suite, ignore_errors=True)
        fresh.rename(STORE / suite)
        print(f"{suite}: {mirror}", flush=True)


def _cache(root: Path, network: str) -> None:
    (root / "etc/apt/apt.conf.d/50lab").write_text(network + "\n")
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    script = _CACHE.format(packages=" ".join(_CACHED))
    done = subprocess.run(["chroot", str(root), "sh", "-c", script], text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"apt in {root}: {done.stderr.strip()}")


if __name__ == "__main__":
    make()

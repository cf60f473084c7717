"""A Linux that runs as a program of this system, user-mode Linux: the fast one of lab/machine.py.

    python -m lab.uml    build it into .kernels/um/, from the newest kernel source of Debian 13's
                         backports; ten minutes of one processor

A kernel before 6.19 has one processor only, and one before 6.16 traces its processes by ptrace,
which makes it several times slower. lab/uml.config says what is built in.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from lab.apt import Apt
from lab.kernels import STORE
from lab.sandbox import command

SUITE = "trixie-backports"
RADIOS = 4

_CONFIG = Path(__file__).with_suffix(".config")
_STORE = STORE / "um"
_PROGRAM = _STORE / "linux"

# What virtme-ng does for a stock kernel. The root is this system's, read-only, and what the lab
# writes to is in memory. To fork and exec takes three times as long as here.
PROLOGUE = """\
export AIRTAP_LAB_SLOWNESS=2
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir /run/repository /run/shared
mount --bind {repository} /run/repository
mount -t hostfs -o {directory} none /run/shared
for directory in /tmp /var /root; do mount -t tmpfs tmpfs $directory; done
ln -s /run /var/run
mkdir -p {repository} {shared} /var/tmp /var/lib /var/log /var/cache
mount --move /run/repository {repository}
mount --move /run/shared {shared}
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /etc
tar -C /etc -xf {shared}/etc.tar
"""
EPILOGUE = "halt -f -p"


def argv(directory: Path, memory: str) -> list[str]:
    """The words that boot it; its first process is the script "init" in directory.

    memory: with a unit, at most what it takes of this system. FileNotFoundError says how to build.
    """
    if not _PROGRAM.exists():
        raise FileNotFoundError(f"no user-mode Linux in {_STORE}: run `make setup`")
    return [
        *(str(_PROGRAM), f"mem={memory}", f"ncpus={len(os.sched_getaffinity(0))}", "seccomp=on"),
        *("root=/dev/root", "rootfstype=hostfs", "hostfs=/", "ro", f"init={directory}/init"),
        *(f"mac80211_hwsim.radios={RADIOS}", "con=null", "con0=null,fd:1", "quiet"),
        f"uml_dir={directory}/uml",
    ]


def build() -> None:
    """Build it anew. RuntimeError carries the complaint of what failed."""
    STORE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".um-", dir=STORE) as name:
        source = _source(Path(name))
        make = ("make", "-C", str(source), "ARCH=um", f"-j{os.cpu_count()}")
        command("env", f"KCONFIG_ALLCONFIG={_CONFIG}", *make, "allnoconfig")
        _tell_unknown(source / ".config")
        command(*make, "linux")
        fresh = Path(name) / "um"
        fresh.mkdir()
        command("objcopy", "--strip-debug", str(source / "linux"), str(fresh / "linux"))
        shutil.rmtree(_STORE, ignore_errors=True)
        fresh.rename(_STORE)


def _source(directory: Path) -> Path:
    """Debian's newest kernel source, unpacked in directory."""
    apt = Apt(directory / "apt")
    mirror = next(uri for uri, release in apt.mirrors() if "-" not in release)
    apt.use([(mirror, SUITE)])
    package = apt.newest("linux-source-")
    command("dpkg-deb", "-x", str(apt.download(package)), str(directory))
    [archive] = directory.glob("usr/src/linux-source-*.tar.xz")
    command("tar", "-C", str(directory), "-xf", str(archive))
    print(f"um: {package}", flush=True)
    return directory / package


def _tell_unknown(made: Path) -> None:
    """An option that goes by another name in a later kernel has been dropped without a word."""
    lines = set(made.read_text().splitlines())
    wanted = [line for line in _CONFIG.read_text().splitlines() if line.endswith("=y")]
    for line in wanted:
        if line not in lines:
            print(f"um: this kernel has no {line}, of {_CONFIG.name}", flush=True)


if __name__ == "__main__":
    build()

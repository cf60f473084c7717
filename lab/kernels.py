"""Stock Debian kernels for the machine (lab/machine.py), unpacked in the checkout, not installed.

python -m lab.kernels    get the newest ones into .kernels/
"""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import tempfile
from pathlib import Path

from lab import sandbox
from lab.apt import Apt

REPOSITORY = Path(__file__).resolve().parent.parent
STORE = REPOSITORY / ".kernels"

# Debian 12's own kernel and the one of its backports.
SUITES = {"6.1": "bookworm", "6.12": "bookworm-backports"}

# The one that guests run (lab/linux.py): smaller unpacked than 6.12, and it boots faster.
GUESTS = "6.1"


def kernel(version: str) -> Path:
    """Return the vmlinuz of one of SUITES, fetched before. FileNotFoundError says how to."""
    found = sorted((STORE / version / "boot").glob("vmlinuz-*"))
    if not found:
        raise FileNotFoundError(f"no kernel {version} in {STORE}: run `make setup`")
    return found[-1]


def vmlinux() -> Path:
    """Return the kernel of GUESTS as an ELF file, which needs no unpacking at boot.

    It is unpacked here if fetch() has not done so. OSError in a machine, which cannot write here.
    """
    packed = kernel(GUESTS)
    unpacked = packed.with_name(packed.name.replace("vmlinuz", "vmlinux"))
    if not unpacked.exists():
        fresh = unpacked.with_name(f"{unpacked.name}.{os.getpid()}")
        fresh.write_bytes(_payload(packed.read_bytes()))
        fresh.chmod(0o644)
        fresh.rename(unpacked)  # whole from its first moment, whoever else looks for it
    return unpacked


def _payload(image: bytes) -> bytes:
    """Unpack what a bzImage carries, by xz as 6.1 does; offsets: Documentation/x86/boot.rst."""
    offset, length = struct.unpack_from("<II", image, 0x248)
    setup_sectors = image[0x1F1] or 4
    start = (setup_sectors + 1) * 512 + offset
    return lzma.LZMADecompressor().decompress(image[start : start + length])


def fetch() -> None:
    """Get the newest kernels of SUITES into STORE, past the system's own apt configuration.

    RuntimeError carries apt's or dpkg's complaint.
    """
    STORE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=STORE) as directory:
        apt = Apt(Path(directory))
        apt.use(_sources(apt))
        for version in SUITES:
            _unpack(_newest(apt, version), version)
    vmlinux()


def _unpack(package: Path, version: str) -> None:
    tree = STORE / version
    shutil.rmtree(tree, ignore_errors=True)
    fresh = package.with_suffix(".tree")
    sandbox.command("dpkg-deb", "-x", str(package), str(fresh))
    [modules] = (fresh / "lib/modules").iterdir()
    sandbox.command("depmod", "-b", str(fresh), modules.name)
    fresh.rename(tree)
    package.unlink()
    print(f"{version}: {modules.name}", flush=True)


def _newest(apt: Apt, version: str) -> Path:
    """Download the newest stock kernel package of this upstream version: 6.1 or 6.12."""
    architecture = apt.run("dpkg", "--print-architecture")
    flavours = ("-cloud", "-rt")
    return apt.download(apt.newest(f"linux-image-{version}.", f"-{architecture}", flavours))


def _sources(apt: Apt) -> list[tuple[str, str]]:
    """Debian 12, its security updates and its backports, from this system's Debian mirrors."""
    found = []
    for uri, release in apt.mirrors():
        if "-" not in release:
            found += [(uri, suite) for suite in SUITES.values()]
        elif release.startswith(SUITES["6.1"]):
            found.append((uri, release))
    return found


if __name__ == "__main__":
    fetch()

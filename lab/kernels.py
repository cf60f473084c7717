"""Stock Debian kernels for the machine (lab/machine.py), unpacked in the checkout, not installed.

python -m lab.kernels    get the newest ones into .kernels/
"""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from lab import sandbox

REPOSITORY = Path(__file__).resolve().parent.parent
STORE = REPOSITORY / ".kernels"

# Debian 12's own kernel and the one of its backports.
SUITES = {"6.1": "bookworm", "6.12": "bookworm-backports"}

# The one that guests run (lab/linux.py): smaller unpacked than 6.12, and it boots faster.
GUESTS = "6.1"

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


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
        apt = _Apt(Path(directory))
        for version in SUITES:
            _unpack(apt.download(version), version)
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


class _Apt:
    """apt with package lists of its own, from the mirror that this system uses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("lists/partial", "cache/archives/partial"):
            (directory / name).mkdir(parents=True)
        # apt's own user writes there.
        directory.chmod(0o755)
        self._options = self._privately()
        self._run("apt-get", "update")
        sources = directory / "sources.list"
        sources.write_text(self._sources())
        self._options = [
            *self._privately(),
            *("-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"),
        ]
        self._run("apt-get", "update")

    def download(self, version: str) -> Path:
        """Return the newest stock kernel package of this upstream version: 6.1 or 6.12."""
        prefix, suffix = f"linux-image-{version}.", f"-{self._run('dpkg', '--print-architecture')}"
        flavours = ("-cloud", "-rt")
        names = [
            name
            for name in self._run("apt-cache", "pkgnames", prefix).split()
            if name.endswith(suffix) and not name.removesuffix(suffix).endswith(flavours)
        ]
        if not names:
            raise RuntimeError(f"apt knows no {prefix}*{suffix}")
        newest = sandbox.command("bash", "-c", 'printf "%s\\n" "$@" | sort -V', "-", *names).split()
        self._run("apt-get", "download", newest[-1])
        [package] = self._directory.glob(f"{newest[-1]}_*.deb")
        return package

    def _privately(self) -> list[str]:
        settings = {
            "Dir::State::Lists": self._directory / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self._directory / "cache",
            "Acquire::Languages": "none",
            "APT::Update::Post-Invoke-Success": "",
            # Nothing here is secret, and apt's own user may not reach the checkout.
            "APT::Sandbox::User": "root",
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def _sources(self) -> str:
        """Debian 12, its security updates and its backports, from this system's Debian mirrors."""
        listing = self._run(
            "apt-get",
            "indextargets",
            *(
                "--format",
                "$(REPO_URI) $(RELEASE)",
                "Created-By: Packages",
                "Component: main",
                "Origin: Debian",
            ),
        )
        lines = []
        options = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        for uri, release in (row.split() for row in listing.splitlines()):
            if "-" not in release:
                lines += [f"deb {options}{uri} {suite} main" for suite in SUITES.values()]
            elif release.startswith(SUITES["6.1"]):
                lines.append(f"deb {options}{uri} {release} main")
        if not lines:
            raise RuntimeError("this system's apt sources name no Debian mirror")
        return "\n".join(dict.fromkeys(lines)) + "\n"

    def _run(self, program: str, *words: str) -> str:
        options = self._options if program.startswith("apt") else []
        done = subprocess.run(
            [program, *options, *words],
            cwd=self._directory,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()


if __name__ == "__main__":
    fetch()

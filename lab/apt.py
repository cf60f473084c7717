"""apt past the system's own configuration: package lists of its own, from the system's mirrors."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Apt:
    """apt with its lists and cache in a directory. RuntimeError carries its complaints."""

    def __init__(self, directory: Path) -> None:
        """Get the lists of the system's own sources: mirrors() reads them."""
        self._directory = directory
        for name in ("lists/partial", "cache/archives/partial"):
            (directory / name).mkdir(parents=True)
        # apt's own user writes there.
        directory.chmod(0o755)
        self._options = self._privately()
        self.run("apt-get", "update")

    def mirrors(self) -> list[tuple[str, str]]:
        """Debian's mirrors of this system, each with the release that it is used for."""
        listing = self.run(
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
        found = [(uri, release) for uri, release in (row.split() for row in listing.splitlines())]
        if not found:
            raise RuntimeError("this system's apt sources name no Debian mirror")
        return found

    def use(self, sources: list[tuple[str, str]]) -> None:
        """From now on take main of these: (URI, release)."""
        options = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        lines = [f"deb {options}{uri} {release} main" for uri, release in sources]
        path = self._directory / "sources.list"
        path.write_text("\n".join(dict.fromkeys(lines)) + "\n")
        self._options = [
            *self._privately(),
            *("-o", f"Dir::Etc::SourceList={path}", "-o", "Dir::Etc::SourceParts=/dev/null"),
        ]
        self.run("apt-get", "update")

    def newest(self, prefix: str, suffix: str = "", without: Sequence[str] = ()) -> str:
        """The package of the highest version by its name, of these beginnings and ends.

        without: ends, before suffix, of those that do not count. RuntimeError if there is none.
        """
        names = [
            name
            for name in self.run("apt-cache", "pkgnames", prefix).split()
            if name.endswith(suffix) and not name.removesuffix(suffix).endswith(tuple(without))
        ]
        if not names:
            raise RuntimeError(f"apt knows no {prefix}*{suffix}")
        return self.run("bash", "-c", 'printf "%s\\n" "$@" | sort -V', "-", *names).split()[-1]

    def download(self, package: str) -> Path:
        """Get a package's file into the directory."""
        self.run("apt-get", "download", package)
        [path] = self._directory.glob(f"{package}_*.deb")
        return path

    def run(self, program: str, *words: str) -> str:
        """Run apt's or another program in the directory and return its output."""
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

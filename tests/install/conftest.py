"""airtap's package, as `make deb` made it and one of a lower version, in Debian 12 and 13."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.airtap import Attached, run_helper
from lab.debian import System
from lab.roots import SUITES
from lab.sandbox import command

TREE = Path(__file__).resolve().parent.parent.parent
FORMER = "0.0.1"
USER = 1000
HOOKS = ("network", "qemu")


def make(*words: str) -> str:
    """Run make in the tree; what it needs from a network is there already."""
    done = subprocess.run(
        ["make", *words], cwd=TREE, text=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def only(directory: Path, pattern: str) -> Path:
    """The only file of that name."""
    [path] = directory.glob(pattern)
    return path


@pytest.fixture(scope="session")
def package() -> Path:
    """Made by `make test` before."""
    return only(TREE / "dist", "airtap_*.deb")


@pytest.fixture(scope="session")
def former(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as of a lower version."""
    directory = tmp_path_factory.mktemp("former")
    command("dpkg-deb", "--raw-extract", str(package), str(directory / "root"))
    control = directory / "root/DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {FORMER}", control.read_text()))
    command("dpkg-deb", "-Znone", "--build", str(directory / "root"), str(directory))
    return only(directory, f"airtap_{FORMER}_*.deb")


@pytest.fixture(params=SUITES, scope="module")
def suite(request: pytest.FixtureRequest) -> str:
    """Debian 12, and 13."""
    return str(request.param)


@pytest.fixture
def system(suite: str) -> Iterator[System]:
    """A Debian without airtap."""
    with System(suite) as system:
        yield system


def attach(system: System, br: str, *options: str) -> Attached:
    """Run the helper there as QEMU does, as a user."""
    prefix = system.prefix(USER)
    return run_helper(
        [*options, f"--br={br}"], program="/usr/bin/airtap-bridge-helper", prefix=prefix
    )


def status(system: System) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(system.run("airtap", "status", "--json").stdout)
    return report


def uplink(system: System, name: str) -> dict[str, Any]:
    [found] = [uplink for uplink in status(system)["uplinks"] if uplink["name"] == name]
    return found  # type: ignore[no-any-return]


def journal(system: System, unit: str = "airtapd") -> str:
    return system.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout


def complaints(system: System) -> str:
    """What airtapd has logged of failures; not that users were refused."""
    log = journal(system)
    assert "listens at" in log
    words = ("Traceback", "not permitted", "Read-only", "Permission denied", "failed")
    return "\n".join(line for line in log.splitlines() if any(word in line for word in words))


def run_hook(system: System, name: str) -> None:
    """As libvirt does at the start of a guest that is not airtap's."""
    hook = f"/etc/libvirt/hooks/{name}.d/50-airtap"
    done = system.run(hook, "guest", "prepare", "begin", "-", text="<domain/>")
    assert done.stdout == done.stderr == ""

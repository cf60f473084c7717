"""airtap's package, as `make deb` made it and one of a lower version, in Debian 12 and 13."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.debian import System
from lab.roots import SUITES

TREE = Path(__file__).resolve().parent.parent.parent
FORMER = "0.0.1"


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
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as of a lower version."""
    directory = tmp_path_factory.mktemp("former")
    make("deb", f"VERSION={FORMER}", f"DEB={directory}/deb", f"DIST={directory}")
    return only(directory, f"airtap_{FORMER}_*.deb")


@pytest.fixture(params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """Debian 12, and 13."""
    return str(request.param)


@pytest.fixture
def system(suite: str) -> Iterator[System]:
    """A Debian without airtap."""
    with System(suite) as system:
        yield system

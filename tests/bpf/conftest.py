"""One rig for all tests of a module: loading takes longer than a thousand frames."""

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from lab import sandbox
from lab.probe import compile_probe
from tests.bpf.mutants import judged
from tests.bpf.rig import Rig, devices


@pytest.fixture(scope="module")
def ifindexes() -> Iterator[list[int]]:
    sandbox.require()
    with devices("bpf0", "bpf1", "bpf2") as indexes:
        yield indexes


@pytest.fixture(scope="module")
def loaded(ifindexes: list[int]) -> Iterator[Rig]:
    rig = Rig(compile_probe(), ifindexes)
    yield rig
    rig.close()


@pytest.fixture
def rig(loaded: Rig) -> Rig:
    loaded.reset()
    return loaded


@pytest.fixture(scope="module")
def noticed(request: pytest.FixtureRequest, ifindexes: list[int]) -> dict[str, Future[bool]]:
    """For each of the module's MUTANTS, whether its check_all() notices it."""
    module = request.module
    return judged(module.MUTANTS, module.check_all, ifindexes)

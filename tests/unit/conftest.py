"""`pytest tests/unit --regenerate` writes the golden files anew, to be read as a diff."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write golden files anew")


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    """Not known where this conftest is read after the command line, as by plain pytest."""
    return bool(request.config.getoption("--regenerate", default=False))

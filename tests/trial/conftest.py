"""A host on which no trial waits for what is not its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def ready_at_once() -> Iterator[None]:
    """The host's own devices do not spend a second on duplicate address detection."""
    setting = Path("/proc/sys/net/ipv6/conf/default/accept_dad")
    before = setting.read_text()
    setting.write_text("0")
    yield
    setting.write_text(before)


@pytest.fixture
def systemd() -> Iterator[None]:
    """As if systemd ran: nobody else starts airtapd then."""
    directory = Path("/run/systemd/system")
    directory.mkdir(parents=True)
    yield
    directory.rmdir()
    directory.parent.rmdir()

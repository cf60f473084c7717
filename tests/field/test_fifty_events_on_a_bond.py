"""Fifty things that happen to a host that sleeps, and sends by a bond of two cables.

In the machine, which has bonds, and whose clock may be set.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.cable import TwoCables
from lab.kinds import BOTH_IN_MACHINE
from lab.laptop import Laptop, commuting
from lab.one_mac import MACNAT_ON
from lab.suspend import Suspend


@pytest.fixture
def lan() -> Iterator[TwoCables]:
    """A LAN that takes one MAC, and never sees another."""
    with TwoCables(one_mac=True) as lan:
        yield lan
        assert lan.foreign_frames() == 0


@BOTH_IN_MACHINE
def test_fifty_events(lan: TwoCables, device_kind: str, tmp_path: Path) -> None:
    suspend = Suspend(tmp_path)
    config = f'{MACNAT_ON}kind = "{device_kind}"\n'
    with Airtapd(config=config, constants=suspend.constants) as airtapd:
        way = commuting(lan), lan.change_near_mac
        laptop = Laptop(airtapd, "up0", lan, *way, suspend.sleep, lan.fail_over)
        try:
            laptop.happen(50)
            laptop.all_is_well()
        finally:
            laptop.stop_all()
            print(airtapd.log())
        laptop.end()

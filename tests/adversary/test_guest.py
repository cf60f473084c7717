"""A hostile guest does its worst, and nobody gets what is not theirs: see lab/adversary."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from lab.adversary.arena import Arena
from lab.adversary.bout import SECONDS, fight
from lab.adversary.memory import is_bounded
from lab.adversary.setting import Setting

# More than a bout: an arena is made anew for each step by which a failure is reduced.
TEST_S = int(SECONDS) + 600

_WAYS = {
    "macnat": Setting(),
    "plain": Setting(macnat=False),
    "macnat-private": Setting(mode="private"),
    "plain-vepa": Setting(macnat=False, mode="vepa"),
    "macnat-apart": Setting(host_access=False),
    "plain-apart": Setting(macnat=False, host_access=False),
}


def _settings() -> Iterator[object]:
    for name, setting in _WAYS.items():
        yield pytest.param(setting, id=f"macvtap-{name}")
        yield pytest.param(
            replace(setting, kind="ipvtap"), id=f"um-ipvtap-{name}", marks=pytest.mark.machine("um")
        )
    # This system's kernel may have no VLAN devices; that one has.
    yield pytest.param(Setting(), id="um-macvtap-vlan", marks=pytest.mark.machine("um"))


@pytest.mark.parametrize("setting", list(_settings()))
def test_hostile_guest(setting: Setting, record_property: Callable[[str, object], None]) -> None:
    with Arena(setting) as arena:
        record_property("bout", fight(arena, SECONDS / len(_WAYS)))
        assert is_bounded(arena.airtapd.pid)

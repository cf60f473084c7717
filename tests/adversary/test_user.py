"""Hostile users do their worst, and another one is answered all the same: see lab/adversary."""

from collections.abc import Callable

import pytest

from lab.adversary.bout import SECONDS, crowd_out
from lab.adversary.crowd import Crowd
from lab.adversary.memory import is_bounded

TEST_S = int(SECONDS) + 600
# A kernel that cannot refuse descriptors, by an option that no kernel has.
_BEFORE_6_16 = {"kernel.seqpacket._SO_PASSRIGHTS": 9999}


@pytest.mark.parametrize(
    ("kind", "constants"),
    [
        pytest.param("macvtap", None, id="macvtap"),
        pytest.param("macvtap", _BEFORE_6_16, id="macvtap-before-6.16"),
        pytest.param("ipvtap", None, id="um-ipvtap", marks=pytest.mark.machine("um")),
    ],
)
def test_hostile_users(
    kind: str, constants: dict[str, object] | None, record_property: Callable[[str, object], None]
) -> None:
    with Crowd(kind, constants) as crowd:
        record_property("bout", crowd_out(crowd, SECONDS / 2 if kind == "macvtap" else SECONDS))
        assert is_bounded(crowd.airtapd.pid)

"""Which device a guest gets behind what, as far as that is decided without the kernel."""

from dataclasses import replace

import pytest

from airtap.config import Parent
from airtap.errors import Problem
from airtap.kernel.links import Link
from airtap.uplink import Uplink, child_kind, inspect
from tests.unit.links import ETH0

CABLE = replace(ETH0, name="eth1", index=5)
WLAN = replace(ETH0, name="wlan0", index=6)
BOND = replace(ETH0, name="bond0", kind="bond")


@pytest.mark.parametrize(
    ("link", "ports", "station", "type", "below"),
    [
        (
            replace(BOND, active_port=WLAN.index),
            [CABLE, WLAN],
            "wifi-station",
            "wifi-station",
            WLAN,
        ),
        (replace(BOND, active_port=5), [CABLE, WLAN], "wifi-station", "ethernet", WLAN),
        (BOND, [CABLE, WLAN], "wifi-station", "wifi-station", WLAN),
        (BOND, [CABLE, WLAN], "wifi-4addr", "ethernet", None),
        (BOND, [CABLE], "", "ethernet", None),
        (BOND, [], "", "ethernet", None),
        (replace(ETH0, kind="team"), [CABLE, WLAN], "wifi-station", "wifi-station", WLAN),
        (replace(ETH0, kind="vlan"), [WLAN], "wifi-station", "wifi-station", WLAN),
        (replace(ETH0, kind="vlan"), [WLAN], "wifi-ap", "ethernet", None),
        (replace(ETH0, kind="macsec"), [WLAN], "wifi-station", "ethernet", None),
    ],
)
def test_what_a_stack_is_by_what_is_below(
    monkeypatch: pytest.MonkeyPatch,
    link: Link,
    ports: list[Link],
    station: str,
    type: str,
    below: Link | None,
) -> None:
    monkeypatch.setattr("airtap.uplink.lowers", lambda _name: ports)
    types = {WLAN.name: station}
    monkeypatch.setattr("airtap.kernel.nl80211.uplink_type", lambda name, _index: types.get(name))
    found = inspect(link)
    assert (found.type, found.station) == (type, below)
    assert found.takes_one_mac == (type == "wifi-station")
    assert found.may_take_one_mac == (below is not None)


def child(kind: str, mode: str = "bridge") -> Link:
    return replace(ETH0, name="child0", index=3, kind=kind, parent=2, mode=mode)


@pytest.mark.parametrize(
    ("link", "type", "settings", "kind"),
    [
        (ETH0, "ethernet", Parent(), "macvtap"),
        (ETH0, "ethernet", Parent(kind="macvtap", macnat="off"), "macvtap"),
        (replace(ETH0, flags=0), "ethernet", Parent(), "macvtap"),
        (replace(ETH0, kind="veth"), "ethernet", Parent(), "macvtap"),
        (replace(ETH0, kind="vlan", parent=1), "ethernet", Parent(), "macvtap"),
        (replace(ETH0, kind="bond"), "ethernet", Parent(), "macvtap"),
        (replace(ETH0, slave_kind="vrf", master=9), "ethernet", Parent(), "macvtap"),
        (ETH0, "wifi-4addr", Parent(), "macvtap"),
        (ETH0, "wifi-ap", Parent(), "macvtap"),
        (ETH0, "wifi-station", Parent(macnat="off"), "macvtap"),
        (replace(ETH0, kind="bridge"), "bridge", Parent(), "tap"),
        (replace(ETH0, kind="bridge"), "bridge", Parent(kind="ipvtap", macnat="on"), "tap"),
        (ETH0, "ethernet", Parent(kind="ipvtap"), "ipvtap"),
        (ETH0, "wifi-station", Parent(kind="ipvtap", macnat="off"), "ipvtap"),
    ],
)
def test_child_kind(link: Link, type: str, settings: Parent, kind: str) -> None:
    assert child_kind(Uplink(link, type), settings, None) == kind


@pytest.mark.parametrize(
    ("there", "settings", "kind"),
    [
        (child("macvlan"), Parent(), "macvtap"),
        (child("macvtap", "vepa"), Parent(kind="macvtap", mode="private"), "macvtap"),
        (child("ipvlan"), Parent(), "ipvtap"),
        (child("ipvtap"), Parent(kind="ipvtap"), "ipvtap"),
        (child("ipvlan", "vepa"), Parent(mode="vepa"), "ipvtap"),
    ],
)
def test_what_is_on_it_already(there: Link, settings: Parent, kind: str) -> None:
    assert child_kind(Uplink(ETH0, "ethernet"), settings, there) == kind


@pytest.mark.parametrize(
    ("there", "settings", "said"),
    [
        (child("macvlan"), Parent(kind="ipvtap"), "held by child0 (macvlan)"),
        (child("ipvlan"), Parent(kind="macvtap"), "held by child0 (ipvlan)"),
        (child("ipvlan", "l3"), Parent(), "in mode l3, not bridge"),
        (child("ipvtap", "private"), Parent(), "in mode private, not bridge"),
        (child("ipvtap"), Parent(mode="passthru"), "in mode bridge, not passthru"),
    ],
)
def test_conflicts_say_who_holds_the_parent(there: Link, settings: Parent, said: str) -> None:
    with pytest.raises(Problem) as caught:
        child_kind(Uplink(ETH0, "ethernet"), settings, there)
    assert caught.value.code == "parent-busy"
    assert said in caught.value.message
    assert "stop what uses child0" in caught.value.hint


@pytest.mark.parametrize(
    ("link", "type", "settings", "code"),
    [
        (ETH0, "other", Parent(), "bad-parent"),
        *(
            (replace(ETH0, kind=kind, parent=1), "ethernet", Parent(), "bad-parent")
            for kind in ("macvlan", "macvtap", "ipvlan", "ipvtap")
        ),
        *(
            (replace(ETH0, slave_kind=master, master=9), "ethernet", Parent(), "parent-busy")
            for master in ("bridge", "bond", "team", "openvswitch")
        ),
    ],
)
def test_refusals(link: Link, type: str, settings: Parent, code: str) -> None:
    with pytest.raises(Problem) as caught:
        child_kind(Uplink(link, type), settings, None)
    assert caught.value.code == code
    assert "eth0" in str(caught.value)


def test_a_mode_of_the_other_kind_is_refused() -> None:
    with pytest.raises(Problem, match="ipvtap devices have no mode passthru") as caught:
        child_kind(Uplink(ETH0, "ethernet"), Parent(kind="ipvtap", mode="passthru"), None)
    assert caught.value.code == "bad-mode"

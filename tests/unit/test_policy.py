"""What is decided to be at work on an uplink, which here is told whether it needs MAC NAT."""

from dataclasses import replace

import pytest

from airtap.bpf.attach import Role
from airtap.config import Config, Parent
from airtap.kernel.links import GROUP, Link
from airtap.macnat.policy import desired, is_child, supports_host_access
from tests.unit.links import ETH0

BRIDGE = replace(ETH0, name="mv0", index=3, kind="macvtap", mode="bridge", parent=ETH0.index)
PRIVATE = replace(BRIDGE, name="mv1", index=4, mode="private")
MACVLAN = replace(BRIDGE, name="mv2", index=5, kind="macvlan")
IPVTAP = replace(BRIDGE, name="iv0", index=6, kind="ipvtap", group=GROUP)


def configured(macnat: str, *, host_access: bool) -> Config:
    return Config(parents={"eth0": Parent(macnat=macnat, host_access=host_access)})


def test_mac_nat_is_for_all_children() -> None:
    found = desired(
        ETH0, [PRIVATE, MACVLAN], configured("on", host_access=True), None, is_reached=False
    )
    assert (found.role, found.mode) == (Role("macvtap", True, True), "private")
    assert found.children == [PRIVATE, MACVLAN]


@pytest.mark.parametrize(
    "host_access, children, observed",
    [
        (True, [BRIDGE, PRIVATE, MACVLAN], [BRIDGE, PRIVATE]),
        (True, [PRIVATE], []),
        (True, [MACVLAN], []),
        (False, [BRIDGE, PRIVATE], []),
    ],
)
def test_without_it_macvtaps_are_observed_where_the_host_meets_one(
    host_access: bool, children: list[Link], observed: list[Link]
) -> None:
    found = desired(
        ETH0, children, configured("off", host_access=host_access), None, is_reached=False
    )
    assert found.role == Role("macvtap", False, host_access)
    assert found.children == observed


@pytest.mark.parametrize("macnat, translate", [("on", True), ("auto", True), ("off", False)])
def test_ipvtaps_are_delivered_to_in_any_case(macnat: str, translate: bool) -> None:
    found = desired(ETH0, [IPVTAP], configured(macnat, host_access=True), None, is_reached=False)
    assert found.role == Role("ipvtap", translate, host_access=translate)
    assert found.children == [IPVTAP]


def test_no_child_and_nothing_at_work() -> None:
    found = desired(ETH0, [], configured("on", host_access=False), None, is_reached=False)
    assert (found.role, found.children, found.mode) == (Role("macvtap"), [], "")


def test_what_counts_as_a_child() -> None:
    assert all(is_child(link, ETH0.index) for link in (BRIDGE, PRIVATE, MACVLAN, IPVTAP))
    assert not is_child(BRIDGE, parent=7)
    assert not is_child(ETH0)
    assert not is_child(replace(IPVTAP, group=0)), "it is somebody else's"
    assert not is_child(replace(BRIDGE, parent_here=False))


def test_whom_the_host_may_meet() -> None:
    met = [link for link in (BRIDGE, PRIVATE, MACVLAN, IPVTAP) if supports_host_access(link)]
    assert met == [BRIDGE, IPVTAP]

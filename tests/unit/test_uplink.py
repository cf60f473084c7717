"""Which device a guest gets behind what, as far as that is decided without the kernel."""

from dataclasses import replace

import pytest

from airtap.config import Parent
from airtap.errors import Problem
from airtap.kernel.links import ARPHRD_ETHER, IFF_UP, Link
from airtap.uplink import Uplink, child_kind

ETH0 = Link(
    name="eth0",
    index=2,
    mac="52:54:00:00:00:01",
    mtu=1500,
    flags=IFF_UP,
    arptype=ARPHRD_ETHER,
    kind="",
    slave_kind="",
    master=0,
    parent=0,
    parent_here=True,
    group=0,
    alias="",
    mode="",
    altnames=frozenset(),
    rx_bytes=0,
    tx_bytes=0,
)


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
    ],
)
def test_child_kind(link: Link, type: str, settings: Parent, kind: str) -> None:
    assert child_kind(Uplink(link, type), settings) == kind


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
        (ETH0, "ethernet", Parent(kind="ipvtap"), "not-supported"),
    ],
)
def test_refusals(link: Link, type: str, settings: Parent, code: str) -> None:
    with pytest.raises(Problem) as caught:
        child_kind(Uplink(link, type), settings)
    assert caught.value.code == code
    assert "eth0" in str(caught.value)

"""What an ipvtap can stand beside, and how it gets on with its siblings, by mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.airtap import Airtapd, run_helper
from lab.lan import Lan
from lab.sandbox import command
from lab.traffic import GUEST4, GUEST_MAC, SIBLING4, SIBLING_MAC, pump

CONFIG = """
[parents.ip0]
kind = "ipvtap"
[parents.mac0]
kind = "macvtap"
[parents.private0]
kind = "ipvtap"
mode = "private"
[parents.vepa0]
kind = "ipvtap"
mode = "vepa"
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Airtapd]:
    with Airtapd(config=CONFIG) as daemon:
        yield daemon


@contextmanager
def parent(name: str, child: str = "", namespace: str = "") -> Iterator[None]:
    """A parent on which somebody else has put a child: its kind and the rest of ip-link(8)'s."""
    command("ip", "link", "add", name, "up", "type", "veth", "peer", "name", "far0")
    try:
        if child:
            command("ip", "link", "add", "link", name, "name", "other0", "type", *child.split())
        if namespace:
            command("ip", "netns", "add", namespace)
            command("ip", "link", "set", "other0", "netns", namespace)
        yield
    finally:
        if namespace:
            command("ip", "netns", "del", namespace)
        command("ip", "link", "del", name)


@pytest.mark.parametrize(
    ("name", "child", "said"),
    [
        ("ip0", "macvlan mode bridge", "held by other0 (macvlan)"),
        ("mac0", "ipvlan mode l2", "held by other0 (ipvlan)"),
        ("auto0", "ipvlan mode l3", "in mode l3, not bridge"),
        ("private0", "ipvlan mode l2 bridge", "in mode bridge, not private"),
    ],
)
def test_conflicts_say_who_holds_the_parent(
    daemon: Airtapd, name: str, child: str, said: str
) -> None:
    with parent(name, child):
        refused = run_helper([f"--br={name}"], env=daemon.env)
        assert refused.status == 1
        assert said in refused.stderr
        assert "stop what uses other0" in refused.stderr


@pytest.mark.parametrize(("name", "child"), [("ip0", "macvlan"), ("mac0", "ipvlan mode l2")])
def test_conflict_with_what_cannot_be_seen(daemon: Airtapd, name: str, child: str) -> None:
    with parent(name, child, namespace="elsewhere"):
        refused = run_helper([f"--br={name}"], env=daemon.env)
        assert refused.status == 1
        assert "devices in another network namespace?" in refused.stderr


@pytest.mark.parametrize(
    ("name", "child", "expected"),
    [
        ("auto0", "ipvlan mode l2", "ipvtap"),
        ("auto0", "macvlan", "macvtap"),
        ("auto0", "", "macvtap"),
        ("ip0", "ipvlan mode l2", "ipvtap"),
        ("private0", "", "ipvtap"),
    ],
)
def test_kind_by_what_is_there(daemon: Airtapd, name: str, child: str, expected: str) -> None:
    with parent(name, child), daemon.attach(name) as tap:
        [uplink] = [row for row in daemon.status()["uplinks"] if row["name"] == name]
        assert uplink["kind"] == expected
        assert uplink["macnat"] == (expected == "ipvtap")
        assert f" {expected} " in command("ip", "-d", "link", "show", tap.device)


@pytest.mark.parametrize("mode", ["private", "vepa"])
def test_siblings_that_do_not_see_each_other(daemon: Airtapd, mode: str) -> None:
    """Not by unicast either, to the MAC at which they would be."""
    uplink = f"{mode}0"
    with (
        Lan(near=uplink, one_mac=True) as lan,
        pump(daemon, GUEST_MAC, GUEST4, uplink=uplink) as guest,
        pump(daemon, SIBLING_MAC, SIBLING4, name="sibling", uplink=uplink) as sibling,
    ):
        for each, own, other in ((guest, GUEST4, SIBLING4), (sibling, SIBLING4, GUEST4)):
            assert lan.ping(own)
            assert not each.ping(other)
            each.run("ip", "neigh", "replace", other, "lladdr", lan.near_mac, "dev", "eth0")
        assert not guest.ping(SIBLING4)
        assert not sibling.ping(GUEST4)
        assert lan.foreign_frames() == 0

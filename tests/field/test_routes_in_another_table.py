"""The host and its guests do not meet; all else works. The uplink's routes are not in the main
table: NetworkManager's ipv4.route-table, networkd's RouteTable=, a VRF.

IceWhaleTech/ZimaOS#574 (two cards, sorted out by policy routing), canonical/lxd#7152, and
NixOS/nixpkgs#271453.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from lab.airtap import Airtapd
from lab.host_access import reaches
from lab.kinds import BOTH_IN_MACHINE
from lab.lan import HOST4, HOST6, ROUTER4, ROUTER6, Lan
from lab.sandbox import command
from lab.traffic import GUEST4, GUEST6, GUEST_MAC, pump

Way = Callable[[Lan], AbstractContextManager[list[str]]]
NETWORKS = (("-4", "192.0.2.0/24", ROUTER4), ("-6", "2001:db8::/64", ROUTER6))


@contextmanager
def by_rules(lan: Lan) -> Iterator[list[str]]:
    """Gives ping's options by which it goes by the uplink's routes."""
    for family, subnet, router in NETWORKS:
        command("ip", family, "route", "flush", "table", "main", "dev", lan.near)
        for route in ([subnet], ["default", "via", router]):
            command("ip", family, "route", "add", *route, "dev", lan.near, "table", "100")
        command("ip", family, "rule", "add", "priority", "100", "table", "100")
    try:
        yield []
    finally:
        for family, _, _ in NETWORKS:
            command("ip", family, "rule", "del", "priority", "100")


@contextmanager
def by_vrf(lan: Lan) -> Iterator[list[str]]:
    command("ip", "link", "add", "blue", "type", "vrf", "table", "100")
    try:
        command("ip", "link", "set", "blue", "up")
        command("sysctl", "-qw", f"net.ipv6.conf.{lan.near}.keep_addr_on_down=1")
        command("ip", "link", "set", lan.near, "master", "blue")
        yield ["-I", "blue"]
    finally:
        command("ip", "link", "delete", "blue")


@BOTH_IN_MACHINE
@pytest.mark.parametrize("way", [by_rules, by_vrf])
def test_host_and_guest_meet(lan: Lan, airtapd: Airtapd, way: Way) -> None:
    with way(lan) as options, pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest:
        for own, address in ((HOST4, GUEST4), (HOST6, GUEST6)):
            assert guest.ping(own, timeout=10)
            assert reaches(address, 10, *options)

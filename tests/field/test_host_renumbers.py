"""Guests with static addresses are not found any more, for good, once the host alone has an address
of another subnet, on the same wire."""

import pytest

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import Lan, Subnet, make_host, wait_for
from lab.one_mac import MACNAT_ON
from lab.sandbox import command
from lab.traffic import GUEST4, GUEST6, GUEST_MAC, known, pump

OTHER = Subnet("198.51.100.", "2001:db8:e::")


def renumber(lan: Lan) -> None:
    """The router has addresses of another subnet too, and the host of that alone."""
    for address, length in zip(OTHER.router, (24, 64), strict=True):
        lan.run("ip", "address", "add", f"{address}/{length}", "dev", lan.far)
    command("ip", "address", "flush", "dev", lan.near, "scope", "global")
    command("ip", "-6", "route", "flush", "default", "dev", lan.near)
    make_host(lan.near, OTHER)


@BOTH_KINDS
@pytest.mark.parametrize("address", [GUEST4, GUEST6], ids=["ipv4", "ipv6"])
def test_static_guests_are_found_again(lan: Lan, device_kind: str, address: str) -> None:
    config, constants = f'{MACNAT_ON}kind = "{device_kind}"\n', {"macnat.roaming.LEFT_S": 2.0}
    with (
        Airtapd(config=config, constants=constants) as airtapd,
        pump(airtapd, GUEST_MAC, GUEST4, GUEST6),
    ):
        assert lan.ping(address, timeout=5)
        renumber(lan)
        wait_for(lambda: "another network" in airtapd.log(), 5, "airtapd to notice")
        wait_for(lambda: lan.ping(address), 15, "the guest to be found again")
        wait_for(lambda: address in known(airtapd, GUEST_MAC), 15, "its address to be known")
        assert lan.ping(address, count=20, timeout=10)

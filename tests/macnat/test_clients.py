"""DHCP clients as guests run them: each gets a lease of its own behind the uplink's one MAC."""

from functools import partial
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.dhcp_clients import each_client, leased
from lab.dhcp_server import OFFERED, answering_unicast
from lab.kinds import BOTH_KINDS
from lab.lan import Lan, wait_for
from lab.pump import PumpGuest
from lab.traffic import known, pump


@pytest.mark.parametrize("broadcast", [False, True], ids=["unicast", "broadcast"])
def test_clients(lan: Lan, airtapd: Airtapd, tmp_path: Path, broadcast: bool) -> None:
    """All at the same time, each in a guest of its own."""
    with each_client(airtapd, tmp_path, broadcast) as guests:
        with pump(airtapd, name="udhcpc") as guest:
            guest.dhcp(5, *(["-B"] if broadcast else []))
            holds_its_lease(lan, airtapd, guest)
        for guest, process in guests.items():
            wait_for(partial(leased, guest, process), 20, f"the address of {guest.namespace}")
            holds_its_lease(lan, airtapd, guest)


_NO_BROADCAST_ANSWERS = "add rule netdev wire out ether daddr ff:ff:ff:ff:ff:ff udp dport 68 drop"


def test_server_that_ignores_the_broadcast_flag(lan: Lan, airtapd: Airtapd) -> None:
    """Its answers go to the MAC that asked, the uplink's, and to the address on offer."""
    lan.run("nft", _NO_BROADCAST_ANSWERS)
    with answering_unicast(lan), pump(airtapd) as guest:
        assert guest.dhcp(10) == OFFERED
        assert lan.ping(OFFERED)
        assert OFFERED in known(airtapd, guest.mac)


@BOTH_KINDS
def test_a_guest_that_does_not_speak(lan: Lan, airtapd: Airtapd) -> None:
    """The LAN's router knows its address from before, at the uplink's MAC, and asks nobody."""
    known_from_before = ("lladdr", lan.near_mac, "nud", "permanent", "dev", lan.far)
    for number in range(100, 200):
        lan.run("ip", "neighbour", "replace", f"192.0.2.{number}", *known_from_before)
    with pump(airtapd) as guest:
        address = guest.dhcp()
        assert address not in known(airtapd, guest.mac)
        wait_for(lambda: lan.ping(address), 10, "the guest to be known")


def holds_its_lease(lan: Lan, airtapd: Airtapd, guest: PumpGuest) -> None:
    [address] = guest.addresses()
    assert lan.leases()[guest.mac] == address
    assert lan.ping(address)
    assert guest.ping("192.0.2.1")
    assert address in known(airtapd, guest.mac)

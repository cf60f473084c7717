"""A guest has no network from the moment that its system gives its card another MAC: the firmware
has spoken with the card's own, then Tails, DECnet or NetworkManager's cloned-mac-address has not.

cockpit-project/cockpit-machines#1968, vagrant-libvirt/vagrant-libvirt#652, and
liquidmetal-dev/flintlock#231.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.kinds import BOTH_KINDS
from lab.lan import FAR_MAC, NEAR_MAC, ROUTER4, Lan, wait_for
from lab.pump import PumpGuest
from lab.sandbox import command
from lab.traffic import (
    GUEST4,
    GUEST6,
    GUEST_MAC,
    ROGUE6,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    configure,
    pump,
    running,
)

CHANGED_MAC, THIRD_MAC = "52:54:00:00:0c:0c", "52:54:00:00:0c:0d"


def change_mac(guest: PumpGuest, mac: str) -> None:
    guest.run("ip", "link", "set", "eth0", "down")
    guest.run("ip", "link", "set", "eth0", "address", mac, "up")


def macs(airtapd: Airtapd) -> list[str | None]:
    return [guest["mac"] for guest in airtapd.guests()]


@BOTH_KINDS
def test_it_is_followed(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, told=False) as guest, pump(airtapd, SIBLING_MAC, name="sibling") as sibling:
        configure(sibling, SIBLING4, SIBLING6)
        guest.dhcp()
        for mac, ipv6 in ((CHANGED_MAC, GUEST6), (GUEST_MAC, ROGUE6)):  # and back
            guest.run("ip", "address", "flush", "dev", "eth0")
            change_mac(guest, mac)
            ipv4 = guest.dhcp(20)
            configure(guest, None, ipv6)
            assert macs(airtapd) == [mac, SIBLING_MAC]
            for reached in (ipv4, ipv6):
                wait_for(partial(lan.ping, reached), 10, f"the LAN to reach {reached}")
                wait_for(partial(sibling.ping, reached), 10, f"a sibling to reach {reached}")
        assert f"the guest is {CHANGED_MAC} now" in airtapd.log()
        assert Doctor.of(airtapd).bad("up0") == {}


@BOTH_KINDS
def test_a_new_airtapd_follows_it_too(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4, told=False) as guest:
        assert guest.ping(ROUTER4, timeout=5)
        airtapd.kill()
        change_mac(guest, CHANGED_MAC)
        airtapd.start()
        wait_for(lambda: guest.ping(ROUTER4), 20, "it to be followed")
        assert lan.ping(GUEST4)


def test_on_a_wire_that_takes_any_mac() -> None:
    with Lan() as lan, Airtapd() as airtapd, pump(airtapd, told=False) as guest:
        wait_for(lambda: "host access is on" in airtapd.log(), 5, "host access to be on")
        guest.dhcp()
        change_mac(guest, CHANGED_MAC)
        assert lan.ping(guest.dhcp(20))


@contextmanager
def bridging(guest: PumpGuest) -> Iterator[None]:
    """A guest's guest pings all the time, with a MAC of its own; the guest itself is silent."""
    ip = f"ip link add link eth0 name inner address {CHANGED_MAC} type macvlan"
    guest.run(*ip.split())
    guest.run("ip", "link", "set", "inner", "up")
    guest.run("ip", "address", "add", "192.0.2.88/24", "dev", "inner")
    with running(guest, ["ping", "-i", "0.3", "-I", "inner", ROUTER4]):
        yield


@BOTH_KINDS
def test_a_guest_with_a_bridge_inside_keeps_its_own(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4, told=False) as guest:
        assert guest.ping(ROUTER4, timeout=5)

        def refused() -> int:
            return int(airtapd.guests()[0]["refused"]["wrong_mac"])

        with bridging(guest):
            wait_for(lambda: refused() > 12, 40, "the inner one to be refused for long")
        assert macs(airtapd) == [GUEST_MAC]
        assert guest.ping(ROUTER4)


@BOTH_KINDS
def test_not_to_a_mac_that_is_somebody_elses(lan: Lan, airtapd: Airtapd) -> None:
    command("ping", "-c1", "-w5", ROUTER4)
    sibling = pump(airtapd, SIBLING_MAC, SIBLING4, name="sibling")
    with pump(airtapd, ipv4=GUEST4, told=False) as guest, sibling as other:
        assert guest.ping(ROUTER4, timeout=5) and other.ping(ROUTER4, timeout=5)
        for mac, whose in ((SIBLING_MAC, "airtap1"), (FAR_MAC, "gateway"), (NEAR_MAC, "up0")):
            change_mac(guest, mac)

            def is_told(mac: str = mac, whose: str = whose) -> bool:
                guest.ping(ROUTER4)
                why = airtapd.guests()[0]["mac_in_use"] or ""
                return f"{mac} is the MAC address of {whose}" in why

            wait_for(is_told, 20, f"the guest to be refused the MAC of {whose}")
            assert other.ping(ROUTER4)
        assert set(Doctor.of(airtapd).bad("up0")) == {"guest-refused", "mac-in-use"}
        change_mac(guest, GUEST_MAC)
        wait_for(lambda: guest.ping(ROUTER4), 5, "the guest with its own MAC again")
        assert airtapd.guests()[0]["mac_in_use"] is None


@BOTH_KINDS
def test_not_where_the_mac_was_told(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4) as guest:
        assert guest.ping(ROUTER4, timeout=5)
        change_mac(guest, CHANGED_MAC)
        with pytest.raises(TimeoutError):
            guest.dhcp(8)
        assert macs(airtapd) == [GUEST_MAC]
        assert "trustGuestRxFilters" in Doctor.of(airtapd).only("guest-refused", "up0")["remedy"]

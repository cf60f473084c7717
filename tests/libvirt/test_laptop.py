"""What airtapd does by itself when networks change under guests, and uplinks go and return."""

import os
import time
from pathlib import Path

import pytest

from airtap.ipc import protocol
from lab.airtap import Airtapd
from lab.domains import GUEST_MAC, booted
from lab.lan import Lan, Subnet, wait_for
from lab.laptop import ELSEWHERE
from lab.libvirt import Libvirtd
from lab.sandbox import command
from lab.suspend import Suspend
from lab.traffic import GUEST4, known, of_a, pump, status_of
from lab.traffic import GUEST_MAC as PUMP_MAC
from tests.libvirt.conftest import CONFIG
from tests.libvirt.test_cards import cards, gone_and_back, guest_with, leased, reached

ELSEWHERE_MAC = "02:00:5e:00:53:02"
# Within that a guest shall have a lease of the new network.
PROMPTLY = 15


@pytest.mark.parametrize("kind", [pytest.param("network", marks=pytest.mark.slow), "prepared"])
def test_another_network(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd, kind: str) -> None:
    with guest_with(libvirtd, kind):
        reached(lan, booted(lan, libvirtd))
        assert len(of_a(airtapd, GUEST_MAC)) == 2
        lan.resettle(ELSEWHERE)
        began = time.monotonic()
        address = wait_for(lambda: lan.leases().get(GUEST_MAC), PROMPTLY, "a lease there") or ""
        print(f"a lease after {time.monotonic() - began:.1f} s")
        assert address.startswith(ELSEWHERE.ipv4)
        assert lan.ping(address, timeout=5)
        # The guest's system may keep its former IPv6 address and ask whether it is still its own.
        time.sleep(5)
        assert of_a(airtapd, GUEST_MAC) == []
        assert address in known(airtapd, GUEST_MAC)
        assert not status_of(airtapd, GUEST_MAC)["stranded"]
        lan.resettle(Subnet())
        wait_for(lambda: lan.leases().get(GUEST_MAC), PROMPTLY, "a lease of the first network")


def test_another_network_with_the_same_addresses(
    lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd
) -> None:
    with guest_with(libvirtd, "network"):
        reached(lan, booted(lan, libvirtd))
        lan.resettle(Subnet(), ELSEWHERE_MAC)
        address = wait_for(lambda: lan.leases().get(GUEST_MAC), PROMPTLY, "a lease there") or ""
        reached(lan, address)
        assert airtapd.log().count("another network") == 1


def plugged_in(lan: Lan) -> None:
    """The carrier is back, and the router has the address that it lost with it."""
    lan.run("ip", "link", "set", lan.far, "up")
    lan.run("ip", "address", "replace", "2001:db8::1/64", "dev", lan.far)


def test_a_guest_that_was_there_before_the_network(
    lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd
) -> None:
    told = f"network card {GUEST_MAC}: link down and up"
    lan.run("ip", "link", "set", lan.far, "down")
    with guest_with(libvirtd, "network"):
        assert not lan.leases()
        plugged_in(lan)
        wait_for(lambda: told in airtapd.log(), PROMPTLY, "the guest to be told")
        reached(lan, booted(lan, libvirtd))
        lan.run("ip", "link", "set", lan.far, "down")
        plugged_in(lan)
        reached(lan, lan.leases()[GUEST_MAC])
        assert airtapd.log().count(told) == 1


# There the clock may be set.
@pytest.mark.parametrize("kernel", [pytest.param("um", marks=pytest.mark.machine("um"), id="um")])
def test_a_long_sleep(lan: Lan, libvirtd: Libvirtd, tmp_path: Path, kernel: str) -> None:
    """Guests ask again once the carrier is back: once, also if it is another network there."""
    suspend = Suspend(tmp_path)
    sleep = suspend.sleep
    told = f"network card {GUEST_MAC}: link down and up"
    with (
        Airtapd(
            config=CONFIG, socket=protocol.DEFAULT_SOCKET, constants=suspend.constants
        ) as airtapd,
        guest_with(libvirtd, "network", linux=False),
    ):

        def renewed(times: int) -> None:
            wait_for(lambda: airtapd.log().count(told) >= times, 30, f"renewal {times}")

        reached(lan, booted(lan, libvirtd))
        sleep(0)
        sleep(60)
        lan.run("ip", "link", "set", lan.far, "down")
        sleep(28800)
        wait_for(lambda: "has slept for 28800 s" in airtapd.log(), 5, "airtapd to notice")
        plugged_in(lan)
        renewed(1)
        sleep(28801)
        wait_for(lambda: "has slept for 28801 s" in airtapd.log(), 5, "airtapd to notice")
        lan.resettle(ELSEWHERE)
        renewed(2)
        sleep(28802)
        renewed(3)
        assert airtapd.log().count(told) == 3
        assert airtapd.log().count("has slept") == 3


def test_a_guest_that_nobody_can_tell(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    with pump(airtapd) as guest:
        guest.dhcp()
        lan.resettle(ELSEWHERE)
        wait_for(lambda: status_of(airtapd, PUMP_MAC)["stranded"], 5, "it to be named")
        assert "have it ask for a new lease" in airtapd.airtap("status").stdout
        assert of_a(airtapd, PUMP_MAC) == []
        guest.ping(ELSEWHERE.router[0])  # from its old address, which airtapd then hears of
        wait_for(lambda: of_a(airtapd, PUMP_MAC) == [], 5, "it to be forgotten again")
        guest.run("ip", "address", "flush", "dev", "eth0", "scope", "global")
        assert guest.dhcp().startswith(ELSEWHERE.ipv4)
        assert guest.ping(ELSEWHERE.router[0])
        wait_for(lambda: not status_of(airtapd, PUMP_MAC)["stranded"], 5, "it to be in place")


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_carrier_away(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd, seconds: int) -> None:
    """As in sleep: the host may lose its addresses, and has them again."""
    with guest_with(libvirtd, "network"), pump(airtapd, ipv4=GUEST4) as other:
        address = booted(lan, libvirtd)
        reached(lan, address)
        assert other.ping("192.0.2.1")

        def addresses() -> list[set[str]]:
            return [set(guest["addresses"]) for guest in airtapd.guests()]

        wait_for(lambda: list(map(len, addresses())) == [3, 3], 10, "all addresses to be known")
        before = addresses()
        said = lan.log().count("DHCPDISCOVER")
        command("ip", "-n", lan.namespace, "link", "set", lan.far, "down")
        command("ip", "address", "del", "192.0.2.10/24", "dev", "up0")
        time.sleep(seconds)
        plugged_in(lan)
        command("ip", "address", "add", "192.0.2.10/24", "dev", "up0")
        reached(lan, address)
        assert lan.ping(GUEST4)
        assert addresses() == before
        assert lan.log().count("DHCPDISCOVER") == said
        assert "another network" not in airtapd.log()


@pytest.mark.parametrize("kind", ["network", "prepared"])
def test_the_uplink_goes_and_comes_back(
    lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd, kind: str
) -> None:
    with guest_with(libvirtd, kind) as domain:
        booted(lan, libvirtd)
        before = cards(domain)
        gone_and_back(lan)
        began = time.monotonic()
        address = leased(libvirtd, 2)
        print(f"a lease after {time.monotonic() - began:.1f} s")
        reached(lan, address)
        assert cards(domain) == before
        assert status_of(airtapd, GUEST_MAC)["owner"]["domain"] == "guest"


def test_a_guest_that_cannot_be_plugged_in_again(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd) as guest:
        device = status_of(airtapd, guest.mac)["device"]
        command("ip", "link", "delete", "up0")
        [lost] = wait_for(lambda: airtapd.status().get("lost"), 5, "the loss") or []
        assert (lost["device"], lost["parent"]) == (device, "up0")
        assert lost["owner"]["pid"] == os.getpid()
        told = f"{device} is gone with up0: the guest of user"
        assert told in airtapd.log()
        assert told in airtapd.airtap("status").stdout
        assert not airtapd.status()["uplinks"]
    with_others = airtapd.airtap("status", "--json", uid=10001).stdout
    assert device in with_others
    assert device not in airtapd.airtap("status", "--json", uid=10002).stdout

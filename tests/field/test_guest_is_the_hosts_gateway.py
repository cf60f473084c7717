"""The host's default route leads to its own guest, OPNsense or OpenWrt in a VM, and host and guest
lose each other at once; with MAC NAT the guest loses the LAN, too.

IceWhaleTech/ZimaOS#574, OpenMediaVault-Plugin-Developers/openmediavault-kvm#1, and
truenas/middleware#5166; UserJoo9/QuotaManager#7 (a VM that is the LAN's gateway).
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.host_access import reaches
from lab.kinds import BOTH_KINDS
from lab.lan import HOST4, HOST6, ROUTER4, ROUTER6, Lan, wait_for
from lab.links import guest_devices
from lab.one_mac import MACNAT_ON
from lab.routing_guest import BEHIND4, BEHIND6, machine_behind
from lab.sandbox import command
from lab.traffic import GUEST_MAC, Ping, RawGuest, neighbour, pump, raw_guest, refused

OWN = ("192.0.2.254", "2001:db8::fe")
OPT_IN = f'gateway = "{GUEST_MAC}"\n'


@contextmanager
def led_to_the_guest() -> Iterator[None]:
    """The host's default routes lead to the guest, no more to the LAN's router."""
    try:
        for family, address in zip(("-4", "-6"), OWN, strict=True):
            command("ip", family, "route", "replace", "default", "via", address, "dev", "up0")
        yield
    finally:
        for family, address in (("-4", ROUTER4), ("-6", ROUTER6)):
            command("ip", family, "route", "replace", "default", "via", address, "dev", "up0")


def is_refused(airtapd: Airtapd, rogue: RawGuest, address: str) -> bool:
    """Whether another guest may not have an address; on a wire, once it is guarded."""

    def count() -> int:
        return (refused(airtapd) or {}).get("host_address", 0)

    before = count()
    rogue.claim(address)
    return count() > before


def route_by_the_guest(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, GUEST_MAC, *OWN) as guest, machine_behind(guest):
        for address in OWN:
            wait_for(partial(reaches, address), 20, f"the host to reach {address}")
        with Ping(OWN[0]) as ping, led_to_the_guest():
            for address in (*OWN, BEHIND4, BEHIND6):
                assert reaches(address), f"the host does not reach {address}"
            for own, address in zip((HOST4, HOST6), OWN, strict=True):
                assert guest.ping(own, timeout=5)
                assert lan.ping(address, timeout=5)
            airtapd.kill()
            airtapd.start()
            with raw_guest(airtapd) as rogue:
                for address in OWN:
                    wait_for(partial(is_refused, airtapd, rogue, address), 5, address)
            command("ip", "neighbour", "flush", "dev", "up0")
            assert reaches(BEHIND4) and reaches(BEHIND6)
            assert neighbour(None, OWN[0]) == GUEST_MAC
        assert ping.lost <= 2
    wait_for(lambda: not guest_devices(), 10, "the guest's device to go")
    with led_to_the_guest(), pump(airtapd, GUEST_MAC, *OWN):  # it is started anew
        for address in OWN:
            wait_for(partial(reaches, address), 20, f"the host to reach {address} again")


@BOTH_KINDS
def test_a_guest_that_the_configuration_names(lan: Lan, device_kind: str) -> None:
    with Airtapd(config=f'{MACNAT_ON}kind = "{device_kind}"\n{OPT_IN}') as airtapd:
        route_by_the_guest(lan, airtapd)


def test_on_a_wire_that_takes_any_mac() -> None:
    with Lan() as lan, Airtapd(config=f"[parents.up0]\n{OPT_IN}") as airtapd:
        route_by_the_guest(lan, airtapd)


@pytest.mark.parametrize("one_mac", [True, False], ids=["macnat", "plain"])
def test_of_another_it_is_explained(one_mac: bool) -> None:
    text = MACNAT_ON if one_mac else "[parents.up0]\n"
    with (
        Lan(one_mac=one_mac),
        Airtapd(config=text) as airtapd,
        pump(airtapd, GUEST_MAC, *OWN) as guest,
    ):
        for address in OWN:
            wait_for(partial(reaches, address), 20, f"the host to reach {address}")
        with led_to_the_guest():
            wait_for(lambda: not guest.ping(HOST4), 10, "the guest to be kept off")
            finding = Doctor.of(airtapd).bad("up0")["guest-refused"]
            assert "of the host or a gateway" in finding["evidence"]
            assert f'gateway = "{GUEST_MAC}" in [parents.up0]' in finding["remedy"]
            airtapd.config.write_text(airtapd.config.read_text() + OPT_IN)
            os.kill(airtapd.pid, signal.SIGHUP)
            wait_for(lambda: guest.ping(HOST4), 10, "the guest to be let in")
            assert reaches(OWN[0])

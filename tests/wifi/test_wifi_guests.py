"""Guests on WPA2: what works there, and that the host keeps out of it."""

import errno
import socket

import pytest

from lab.airtap import HELPER, Airtapd
from lab.guest import QemuGuest
from lab.lan import slaac_address
from lab.sandbox import command
from lab.traffic import (
    GUEST4,
    GUEST6,
    GUEST_MAC,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    known,
    reach_each_other,
)
from lab.wifi import AccessPoint, Station
from tests.wifi.wireless import UPLINK, lease, pump

QEMU_MAC = "52:54:00:bb:00:01"


def test_qemu_guest_and_another(
    lan: AccessPoint, airtapd: Airtapd, station: Station, undisturbed_host: None
) -> None:
    netdev = f"tap,id=n0,helper={HELPER} --mac={QEMU_MAC},br={UPLINK}"
    with (
        QemuGuest(QEMU_MAC, netdev, env=airtapd.env) as qemu,
        pump(airtapd, SIBLING_MAC, name="sibling") as sibling,
    ):
        assert lease(airtapd, sibling) == lan.leases()[sibling.mac]
        address = qemu.wait_booted()
        assert lan.leases()[QEMU_MAC] == address
        assert lan.fetched(address)
        for reached in (address, slaac_address(QEMU_MAC)):
            assert lan.ping(reached)
            assert sibling.ping(reached)
        assert {address, slaac_address(QEMU_MAC)} <= known(airtapd, QEMU_MAC)
        reach_each_other(lan, [sibling])
        assert lan.stations() == {station.mac}


def test_static_addresses_all_ways(
    lan: AccessPoint, airtapd: Airtapd, undisturbed_host: None
) -> None:
    with (
        pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest,
        pump(airtapd, SIBLING_MAC, SIBLING4, SIBLING6, name="sibling") as sibling,
    ):
        reach_each_other(lan, (guest, sibling))


def test_reachable_after_a_single_frame(
    lan: AccessPoint, airtapd: Airtapd, station: Station
) -> None:
    """A question of the guest's to nobody will do: the router is not left to ask for it."""
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        guest.run("arping", "-c", "1", "-w", "1", "-I", "eth0", "192.0.2.77", check=False)
        guest.ping("2001:db8::77")
        for address in (GUEST4, GUEST6):
            lan.run("ip", "neigh", "replace", address, "lladdr", station.mac, "dev", lan.far)
            try:
                assert lan.ping(address)
            finally:
                lan.run("ip", "neigh", "del", address, "dev", lan.far)


def test_addresses_are_not_the_hosts(lan: AccessPoint, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        reach_each_other(lan, [guest])
        assert {GUEST4, GUEST6} <= known(airtapd, guest.mac)
        for family, address in (("-4", GUEST4), ("-6", GUEST6)):
            assert address not in command("ip", family, "route", "show", "table", "local")
            assert not command("ip", family, "route", "get", address).startswith("local")
            with pytest.raises(OSError) as refused:
                bind(address)
            assert refused.value.errno == errno.EADDRNOTAVAIL
    for address in (GUEST4, GUEST6):
        lan.run("ip", "neigh", "flush", "to", address)
        assert not lan.ping(address)
        assert "lladdr" not in lan.run("ip", "neigh", "show", address).stdout


def bind(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))

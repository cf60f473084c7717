"""Fifty things that happen to a host on a one-MAC wire, and to its guests."""

from lab.airtap import Airtapd
from lab.domains import GUEST_MAC, booted
from lab.lan import Lan, wait_for
from lab.laptop import Laptop, commuting
from lab.libvirt import Libvirtd
from lab.linux import leases
from tests.libvirt.test_cards import guest_with


def test_fifty_events(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    laptop = Laptop(airtapd, "up0", lan, commuting(lan), lan.change_near_mac)
    with guest_with(libvirtd, "network"):
        booted(lan, libvirtd)
        try:
            laptop.happen(50)

            def settled() -> bool:
                address = leases(libvirtd.serial("guest"), GUEST_MAC)[-1]
                return address.startswith(lan.subnet.ipv4) and lan.ping(address)

            wait_for(settled, 30, f"libvirt's guest to be on the LAN: {laptop.said}")
            laptop.all_is_well()
        finally:
            laptop.stop_all()
    laptop.end()

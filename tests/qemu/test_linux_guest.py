"""The lab's Linux guest does what iPXE cannot: it follows its link, and lets go of its card."""

from collections.abc import Iterator
from typing import Any

import pytest

from airtap.ipc import protocol
from lab.airtap import HELPER, Airtapd
from lab.lan import Lan, slaac_address, wait_for
from lab.libvirt import Libvirtd, domain_xml
from lab.links import guest_devices, link
from lab.linux import LinuxGuest, Shell, leases

MAC = "52:54:00:aa:00:01"
NETDEV = f"tap,id=n0,helper={HELPER},br=up0"
CONFIG = '[parents.up0]\nmacnat = "on"\n'


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A LAN behind up0 that takes one MAC, and never sees another."""
    with Lan(one_mac=True) as lan:
        yield lan
        assert lan.foreign_frames() == 0


@pytest.fixture
def airtapd(lan: Lan) -> Iterator[Airtapd]:
    with Airtapd(config=CONFIG, socket=protocol.DEFAULT_SOCKET) as daemon:
        yield daemon


def discovered(lan: Lan) -> int:
    """How often the guest has looked for a DHCP server."""
    return lan.log().count(f"DHCPDISCOVER({lan.far}) {MAC}")


def reached(shell: Shell, address: str) -> None:
    wait_for(lambda: shell.ping(address), 20, f"the guest to reach {address}")


def test_follows_its_link(lan: Lan, airtapd: Airtapd) -> None:
    with LinuxGuest(MAC, NETDEV, env=airtapd.env) as guest:
        address = guest.wait_booted()
        assert lan.leases()[MAC] == address
        shell = guest.shell(lan)
        for router in lan.subnet.router:
            reached(shell, router)
        assert not shell.ping(f"{lan.subnet.ipv4}99", timeout=1)
        assert lan.ping(slaac_address(MAC))
        said = Shell(slaac_address(MAC), lan).run("echo $((6 * 7)); nosuch")
        assert said.splitlines() == ["42", "sh: nosuch: not found"]
        before = discovered(lan)
        guest.qmp("set_link", name="n0", up=False)
        wait_for(lambda: not lan.ping(address), 10, "the guest to be off the LAN")
        assert guest.leases() == [address]
        guest.qmp("set_link", name="n0", up=True)
        assert guest.wait_leases(2) == address
        assert discovered(lan) == before + 1
        for router in lan.subnet.router:
            reached(shell, router)


def test_lets_go_of_its_card_and_takes_it_again(lan: Lan, airtapd: Airtapd) -> None:
    with LinuxGuest(MAC, None, env=airtapd.env) as guest:
        for count in (1, 2):
            guest.qmp("netdev_add", type="tap", id="n0", helper=str(HELPER), br="up0")
            guest.qmp("device_add", driver="virtio-net-pci", netdev="n0", mac=MAC, id="card")
            guest.wait_leases(count, timeout=60)
            [device] = guest_devices()
            assert link(device)["address"] == MAC
            guest.qmp("device_del", id="card")
            wait_for(lambda: not plugged(guest), 10, "the guest to let go of its card")
            guest.qmp("netdev_del", id="n0")
            wait_for(lambda: not guest_devices(), 10, "the device to go")


def plugged(guest: LinuxGuest) -> bool:
    """Whether QEMU still has the card: it goes when the guest has released it."""
    children: Any = guest.qmp("qom-list", path="/machine/peripheral")
    return any(child["name"] == "card" for child in children)


def test_under_libvirt(lan: Lan, airtapd: Airtapd) -> None:
    card = '<interface type="direct"><source dev="up0" mode="bridge"/></interface>'
    with Libvirtd() as libvirtd:
        xml = domain_xml("guest", MAC, libvirtd.serial_file("guest"), card, linux=True)
        connection = libvirtd.connect()
        try:
            domain = connection.createXML(xml)
            [address] = wait_for(
                lambda: leases(libvirtd.serial("guest"), MAC), 60, "the guest to boot"
            )
            reached(Shell(address, lan), lan.subnet.router[0])
            domain.destroy()
        finally:
            connection.close()

"""libvirt's guests with a card on the LAN, and networks as airtap lists them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from lab.lan import Lan, wait_for
from lab.libvirt import Libvirtd, domain_xml

GUEST_MAC = "52:54:00:cc:00:01"


def network_card(network: str) -> str:
    return f'<interface type="network"><source network="{network}"/></interface>'


def direct_card(parent: str) -> str:
    return f'<interface type="direct"><source dev="{parent}" mode="bridge"/></interface>'


@contextmanager
def guest_on(libvirtd: Libvirtd, network: str, mac: str = GUEST_MAC) -> Iterator[Any]:
    """A transient guest on a network, as virt-manager starts one for the first time."""
    xml = domain_xml("guest", mac, libvirtd.serial_file("guest"), network_card(network))
    with connected(libvirtd) as connection:
        domain = connection.createXML(xml)
        try:
            yield domain
        finally:
            domain.destroy()
            print(libvirtd.serial("guest"))


@contextmanager
def connected(libvirtd: Libvirtd) -> Iterator[Any]:
    """A virConnect."""
    connection = libvirtd.connect()
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def defined(
    libvirtd: Libvirtd, interface: str, mac: str = GUEST_MAC, *, linux: bool = False
) -> Iterator[Any]:
    """A persistent guest that is not running, with one network card."""
    xml = domain_xml("guest", mac, libvirtd.serial_file("guest"), interface, linux=linux)
    with connected(libvirtd) as connection:
        domain = connection.defineXML(xml)
        try:
            yield domain
        finally:
            print(libvirtd.serial("guest"))
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


def booted(lan: Lan, libvirtd: Libvirtd, mac: str = GUEST_MAC, name: str = "guest") -> str:
    """Wait until a guest runs the LAN's boot script; its address, leased to its own MAC."""
    address = lease(lan, libvirtd, mac, name)
    told = f"AIRTAP-GUEST {mac} {address} booted"
    wait_for(lambda: told in libvirtd.hurry(name), 60, "the guest to boot")
    return address


def lease(lan: Lan, libvirtd: Libvirtd, mac: str = GUEST_MAC, name: str = "guest") -> str:
    """Wait until a guest that boots has a lease, or has its former one still; its address."""

    def leased() -> str | None:
        libvirtd.hurry(name)
        return lan.leases().get(mac)

    return wait_for(leased, 60, f"a lease for {mac}") or ""


def networks(libvirtd: Libvirtd, *options: str) -> dict[str, dict[str, Any]]:
    """airtap network list --json, by name."""
    done = libvirtd.airtap("network", "list", "--json", *options)
    assert done.returncode == 0, done.stderr
    return {network["name"]: network for network in json.loads(done.stdout)["networks"]}

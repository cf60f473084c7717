"""Guests of libvirt's on an alias of several parents: at the desk, on the way, and back."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from airtap.ipc import protocol
from lab.airtap import Airtapd
from lab.domains import GUEST_MAC, booted, defined, network_card
from lab.lan import Lan, second_lan, wait_for
from lab.libvirt import Libvirtd
from lab.links import link
from lab.sandbox import command, host_links

INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE
# eth0's place is taken by up1, without MAC NAT; up0 takes one MAC only, as wlan0 does.
CONFIG = """\
[parents.up0]
macnat = "on"
[aliases]
dock = ["up1", "up0"]
uplink = "default-route"
only = ["up0"]
"""


@pytest.fixture
def dock() -> Iterator[Lan]:
    """A wire behind up1."""
    with second_lan() as lan:
        yield lan


@pytest.fixture
def airtapd(lan: Lan, dock: Lan) -> Iterator[Airtapd]:
    """With the aliases, which the commands read too, where an administrator has them."""
    path = Path("/etc/airtap/airtap.toml")
    path.parent.mkdir()
    try:
        path.write_text(CONFIG)
        with Airtapd(config=CONFIG, socket=protocol.DEFAULT_SOCKET) as daemon:
            yield daemon
            print(daemon.log())
    finally:
        path.unlink()
        path.parent.rmdir()


def airtap(libvirtd: Libvirtd, *argv: str) -> str:
    done = libvirtd.airtap("domain", *argv)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def listed(libvirtd: Libvirtd) -> dict[str, Any]:
    [domain] = json.loads(airtap(libvirtd, "list", "--json"))["domains"]
    nic: dict[str, Any] = domain["nics"][0]
    return nic


def undock(dock: Lan, state: str = "down") -> None:
    command("ip", "-n", dock.namespace, "link", "set", dock.far, state)
    flag = "LOWER_UP" if state == "up" else "NO-CARRIER"
    wait_for(lambda: flag in link("up1")["flags"], 5, f"up1 to see the cable {state}")


@contextmanager
def running(domain: Any) -> Iterator[None]:
    """From a start to its end, when the device that airtapd made is gone."""
    domain.create()
    yield
    domain.destroy()
    wait_for(lambda: host_links() == {"lo", "up0", "up1"}, 10, "the guest's device to go")


def test_a_guest_follows_the_dock(
    lan: Lan, dock: Lan, airtapd: Airtapd, libvirtd: Libvirtd
) -> None:
    with defined(libvirtd, network_card("nowhere")) as domain:
        before = domain.XMLDesc(INACTIVE)
        told = airtap(libvirtd, "connect", "guest", "--parent", "dock")
        assert f"network card {GUEST_MAC} is now on macvtap dock" in told
        assert 'parent="dock" kind="macvtap"' in domain.XMLDesc(INACTIVE)
        again = airtap(libvirtd, "connect", "guest", "--parent", "dock")
        assert "is on macvtap dock already" in again
        with running(domain):
            address = booted(dock, libvirtd)
            assert dock.ping(address)
            [guest] = airtapd.guests()
            assert (guest["mac"], guest["owner"]["domain"]) == (GUEST_MAC, "guest")
            assert link(guest["device"])["link"] == "up1"
            nic = listed(libvirtd)
            assert (nic["kind"], nic["name"], nic["connected"]) == ("macvtap", "dock", True)
            assert (nic["works"], nic["why"]) == (True, "with airtapd")
        undock(dock)
        libvirtd.serial_file("guest").write_text("")
        with running(domain):
            assert lan.ping(booted(lan, libvirtd))
            assert link(airtapd.guests()[0]["device"])["link"] == "up0"
        airtap(libvirtd, "disconnect", "guest")
        assert domain.XMLDesc(INACTIVE) == before


def test_a_saved_guest_wakes_where_the_host_is_now(
    lan: Lan, dock: Lan, airtapd: Airtapd, libvirtd: Libvirtd
) -> None:
    """The restore hook leaves its card to airtapd, and changes no more of it than before."""
    with defined(libvirtd, network_card("nowhere")) as domain:
        airtap(libvirtd, "connect", "guest", "--parent", "dock")
        domain.create()
        booted(dock, libvirtd)
        before = domain.XMLDesc(INACTIVE)
        domain.managedSave()
        wait_for(lambda: host_links() == {"lo", "up0", "up1"}, 10, "the guest's device to go")
        undock(dock)
        with running(domain):
            [guest] = airtapd.guests()
            assert link(guest["device"])["link"] == "up0"
            assert domain.XMLDesc(INACTIVE) == before
            assert "managed='no'" in domain.XMLDesc()


def test_no_device_of_the_alias_is_there(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    with defined(libvirtd, network_card("nowhere")) as domain:
        airtap(libvirtd, "connect", "guest", "--parent", "dock")
        airtapd.config.write_text(airtapd.config.read_text().replace('"up1", "up0"', '"a", "b"'))
        airtapd.stop()
        airtapd.start()
        with pytest.raises(libvirt.libvirtError, match="there is no network device a for airtap-"):
            domain.create()
    assert host_links() == {"lo", "up0", "up1"}


def test_an_alias_of_one_device_is_that_device(
    lan: Lan, dock: Lan, airtapd: Airtapd, libvirtd: Libvirtd
) -> None:
    """libvirt makes the macvtap then, as on any device."""
    with defined(libvirtd, network_card("nowhere")) as domain:
        airtap(libvirtd, "connect", "guest", "--parent", "only")
        assert "<source dev='up0' mode='bridge'/>" in domain.XMLDesc(INACTIVE)


def test_default_route(lan: Lan, dock: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    with defined(libvirtd, network_card("nowhere")) as domain:
        airtap(libvirtd, "connect", "guest", "--parent", "uplink")
        with running(domain):
            assert link(airtapd.guests()[0]["device"])["link"] == "up0"
        via = ("via", "198.51.100.1", "dev", "up1", "onlink")
        command("ip", "route", "replace", "default", *via)
        with running(domain):
            assert link(airtapd.guests()[0]["device"])["link"] == "up1"


def test_a_mode_does_not_go_with_it(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    with defined(libvirtd, network_card("nowhere")) as domain:
        before = domain.XMLDesc(INACTIVE)
        argv = ("connect", "guest", "--parent", "dock", "--mode", "vepa")
        done = libvirtd.airtap("domain", *argv)
        assert done.returncode == 1
        assert "the device for dock is chosen at each start" in done.stderr
        assert domain.XMLDesc(INACTIVE) == before


def test_a_network_stays_on_the_device_of_its_definition(
    lan: Lan, dock: Lan, airtapd: Airtapd, libvirtd: Libvirtd
) -> None:
    argv = ("--parent", "dock", "--connect", libvirtd.uri)
    for name, parent in (("desk", "up1"), ("way", "up0")):
        done = libvirtd.airtap("network", "define", name, *argv)
        assert done.returncode == 0
        assert f"dock stands for {parent} now, and the network stays there" in done.stderr
        undock(dock)
    found = json.loads(libvirtd.airtap("network", "list", "--json", *argv[2:]).stdout)["networks"]
    assert {net["name"]: net["parent"] for net in found} == {"desk": "up1", "way": "up0"}

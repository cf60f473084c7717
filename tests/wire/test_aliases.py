"""Aliases of several parents, as a laptop has that is docked and undocked."""

from collections.abc import Iterator

import pytest

from lab.airtap import Airtapd, run_helper
from lab.lan import Lan, second_lan, wait_for
from lab.links import link, wait_gone
from lab.pump import PumpGuest
from lab.sandbox import command
from tests.wire.test_domains import CARD, DEVICE, RELEASE, ask, problem, reloaded

MAC = "52:54:00:00:00:01"
DOCK = '[aliases]\ndock = ["up1", "up0"]\n'
ROUTED = '[aliases]\nuplink = "default-route"\ndock = ["gone0", "default-route", "up1"]\n'
PREPARE = {"op": "create-device", **CARD, "parent": "dock", "kind": "macvtap"}


@pytest.fixture
def dock() -> Iterator[Lan]:
    """A second LAN, behind up1, by which nothing of the host's own goes."""
    with second_lan() as lan:
        yield lan


def plug(lan: Lan, state: str) -> None:
    """Pull the cable out, or put it back. The host's end stays up by the administrator's word."""
    command("ip", "-n", lan.namespace, "link", "set", lan.far, state)
    carrier = "LOWER_UP" if state == "up" else "NO-CARRIER"
    wait_for(lambda: carrier in link(lan.near)["flags"], 5, f"{lan.near} to see the cable {state}")
    assert "UP" in link(lan.near)["flags"]


def parent_of(airtapd: Airtapd, br: str) -> str:
    """The parent that a new guest on br gets."""
    with airtapd.attach(br, MAC) as guest:
        device = link(guest.device)
    wait_gone(device["ifname"])
    return str(device["link"])


def refusal(airtapd: Airtapd, br: str) -> str:
    refused = run_helper([f"--br={br}"], env=airtapd.env)
    assert (refused.status, refused.fd) == (1, -1)
    return refused.stderr


def test_new_guests_take_the_first_that_is_up(lan: Lan, dock: Lan) -> None:
    with Airtapd(config=DOCK) as airtapd:
        docked = PumpGuest(airtapd.attach("dock", MAC).take(), MAC)
        with docked:
            assert dock.ping(docked.dhcp())
            plug(dock, "down")
            assert "up1" in {entry["name"] for entry in airtapd.status()["uplinks"]}
            other = "52:54:00:00:00:02"
            with PumpGuest(airtapd.attach("dock", other).take(), other, name="other") as undocked:
                assert lan.ping(undocked.dhcp())
            plug(dock, "up")
            assert dock.ping(docked.addresses(4)[0], timeout=5)
        wait_gone("airtap0", "airtap1")
        assert parent_of(airtapd, "dock") == "up1"


def test_an_interface_that_is_down_is_left_down(lan: Lan, dock: Lan) -> None:
    command("ip", "link", "set", "up1", "down")
    with Airtapd(config=DOCK) as airtapd:
        assert parent_of(airtapd, "dock") == "up0"
    assert "UP" not in link("up1")["flags"]


def test_none_is_up(lan: Lan, dock: Lan) -> None:
    """The first that is there, which is brought up as any parent."""
    for near in ("up0", "up1"):
        command("ip", "link", "set", near, "down")
    with Airtapd(config='[aliases]\ndock = ["gone0", "up1", "up0"]\n') as airtapd:
        assert parent_of(airtapd, "dock") == "up1"
    assert ("UP" in link("up0")["flags"], "UP" in link("up1")["flags"]) == (False, True)


def test_none_is_there(lan: Lan) -> None:
    config = '[aliases]\ndock = ["gone0", "gone1"]\n'
    with Airtapd(config=config) as airtapd:
        assert "there is no network device gone0" in refusal(airtapd, "dock")
        assert ask(airtapd, PREPARE)["message"].startswith("there is no network device gone0 for ")
        assert airtapd.status()["uplinks"] == []
    with Airtapd(config=config, acl="allow up0\n") as airtapd:
        assert "gone0 (alias dock)" in refusal(airtapd, "dock")


def test_default_route(lan: Lan, dock: Lan) -> None:
    with Airtapd(config=ROUTED) as airtapd:
        assert {entry["name"] for entry in airtapd.status()["uplinks"]} == {"up0", "up1"}
        assert (parent_of(airtapd, "uplink"), parent_of(airtapd, "dock")) == ("up0", "up0")
        via = ("via", "198.51.100.1", "dev", "up1", "onlink")
        command("ip", "route", "add", "default", *via, "metric", "1")  # up0's has 0
        assert parent_of(airtapd, "uplink") == "up0"
        command("ip", "route", "delete", "default", "via", "192.0.2.1")
        assert parent_of(airtapd, "uplink") == "up1"
        command("ip", "route", "delete", "default")
        assert parent_of(airtapd, "uplink") == "up0"  # by IPv6
        command("ip", "-6", "route", "delete", "default")
        assert (
            "no default route of this host leads through Ethernet or Wi-Fi; see: ip route"
            in refusal(airtapd, "uplink")
        )
        assert parent_of(airtapd, "dock") == "up1"
        assert {entry["name"] for entry in airtapd.status()["uplinks"]} == {"up1"}


def test_a_default_route_without_a_carrier(lan: Lan, dock: Lan) -> None:
    """As it is left on an unplugged cable where no network manager takes it away."""
    with Airtapd(config=ROUTED) as airtapd:
        via = ("via", "198.51.100.1", "dev", "up1", "onlink")
        command("ip", "route", "append", "default", *via, "metric", "9")
        plug(lan, "down")
        assert parent_of(airtapd, "uplink") == "up1"
        plug(dock, "down")
        assert parent_of(airtapd, "uplink") == "up0"


def test_a_tunnel_has_the_default_route(lan: Lan) -> None:
    """A VPN's, over which no guest's frame can go: the next best is what it runs on."""
    config = '[aliases]\nuplink = "default-route"\n'
    command("ip", "tuntap", "add", "vpn0", "mode", "tun")
    try:
        command("ip", "link", "set", "vpn0", "up")
        command("ip", "route", "delete", "default")
        command("ip", "route", "add", "default", "via", "192.0.2.1", "metric", "600")
        command("ip", "route", "add", "default", "dev", "vpn0", "metric", "50")
        with Airtapd(config=config) as airtapd:
            assert parent_of(airtapd, "uplink") == "up0"
            for family in ("-4", "-6"):
                command("ip", family, "route", "flush", "default", "dev", "up0")
            assert "no default route of this host leads through" in refusal(airtapd, "uplink")
    finally:
        command("ip", "link", "delete", "vpn0")


def test_the_word_needs_no_alias(lan: Lan, airtapd: Airtapd) -> None:
    command("ip", "link", "add", "default-route", "type", "veth", "peer", "name", "peer0")
    try:
        assert parent_of(airtapd, "default-route") == "up0"
        with reloaded(airtapd, '[aliases]\ndefault-route = "peer0"\n'):
            assert parent_of(airtapd, "default-route") == "peer0"
    finally:
        command("ip", "link", "delete", "default-route")


def test_the_acl_judges_the_device_that_is_chosen(lan: Lan, dock: Lan) -> None:
    with Airtapd(config=DOCK, acl="allow up0\nallow dock\n") as airtapd:
        told = refusal(airtapd, "dock")
        assert "access denied" in told and "up1 (alias dock)" in told
        assert "'allow up1'" in told
        plug(dock, "down")
        assert parent_of(airtapd, "dock") == "up0"
        plug(dock, "up")
        airtapd.acl.write_text("allow up0\nallow up1\n")
        assert parent_of(airtapd, "dock") == "up1"
        airtapd.acl.write_text("allow all\ndeny up1\n")
        assert "up1 (alias dock)" in refusal(airtapd, "dock")


def test_the_acl_judges_the_device_of_the_default_route(lan: Lan) -> None:
    config = '[aliases]\nuplink = "default-route"\n'
    with Airtapd(config=config, acl="allow uplink\nallow default-route\n") as airtapd:
        assert "up0 (alias uplink)" in refusal(airtapd, "uplink")
        airtapd.acl.write_text("allow up0\n")
        assert parent_of(airtapd, "uplink") == "up0"
        airtapd.acl.write_text("allow all\ndeny up0\n")
        assert "access denied" in refusal(airtapd, "uplink")


def test_settings_are_those_of_the_device(lan: Lan, dock: Lan) -> None:
    settings = '[parents.up0]\nmode = "private"\n[parents.up1]\nmode = "vepa"\n'
    with Airtapd(config=DOCK + settings) as airtapd:
        for state, mode in (("up", "vepa"), ("down", "private")):
            plug(dock, state)
            with airtapd.attach("dock", MAC) as guest:
                assert link(guest.device)["linkinfo"]["info_data"]["mode"] == mode
            wait_gone("airtap0", "airtap1")


def test_a_bridge_in_a_list(dock: Lan) -> None:
    """A tap at the desk, a macvtap on the way."""
    with Lan(bridge="br0"), Airtapd(config='[aliases]\ndock = ["up1", "br0"]\n') as airtapd:
        assert parent_of(airtapd, "dock") == "up1"
        plug(dock, "down")
        with airtapd.attach("dock") as guest:
            assert link(guest.device)["master"] == "br0"
            name = guest.device
        wait_gone(name)


def test_a_libvirt_guest_follows_at_each_start(lan: Lan, dock: Lan) -> None:
    with Airtapd(config=DOCK) as airtapd:
        assert ask(airtapd, PREPARE) == {"ok": True}
        assert link(DEVICE)["link"] == "up1"
        plug(dock, "down")
        assert ask(airtapd, PREPARE) == {"ok": True}
        assert link(DEVICE)["link"] == "up0"
        assert ask(airtapd, RELEASE) == {"ok": True}
        assert problem(airtapd, PREPARE | {"parent": "duck"}) == "no-such-device"


def test_what_a_stored_guest_finds(lan: Lan, dock: Lan) -> None:
    """Its cards of libvirt's go to the device; those that airtapd makes may keep the alias."""
    more = 'lan = "up1"\nlost = ["gone0", "gone1"]\nuplink = "default-route"\n'
    names = ["dock", "lan", "lost", "other", "uplink", "up1", "default-route"]
    request = {"op": "map-devices", "names": names}
    with Airtapd(config=DOCK + more) as airtapd:
        parents = dict.fromkeys(names[:2], "up1") | dict.fromkeys([*names[2:5], names[6]], "up0")
        aliases = ["dock", "lan", "uplink", "default-route"]
        answer = {"ok": True, "parents": parents, "aliases": aliases}
        assert ask(airtapd, request) == answer
        plug(dock, "down")
        assert ask(airtapd, request) == answer | {"parents": parents | {"dock": "up0"}}

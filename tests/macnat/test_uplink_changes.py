"""MAC NAT follows its uplink: another MAC, other addresses, a qdisc that somebody deletes."""

import json
import time
from collections.abc import Callable
from functools import partial

import pytest

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import HOST4, ROUTER4, ROUTER6, Lan
from lab.pump import PumpGuest
from lab.sandbox import command
from lab.traffic import (
    GUEST4,
    GUEST6,
    GUEST_MAC,
    ROGUE_MAC,
    Ping,
    RawGuest,
    announcing,
    collect,
    known,
    pump,
    raw_guest,
    refused,
    seconds_until,
    status_of,
    two_guests,
)

NEW_MAC = "02:00:5e:00:53:77"
NEW4, NEW6 = "192.0.2.77", "2001:db8::77"
NEW_GATEWAY4, NEW_GATEWAY6 = "192.0.2.5", "2001:db8::5"


def filters(device: str) -> int:
    """How many BPF filters a device has."""
    shown = [command("tc", "filter", "show", "dev", device, hook) for hook in ("ingress", "egress")]
    return sum(text.count("direct-action") for text in shown)


def pinging(guest: PumpGuest) -> Ping:
    return Ping(ROUTER4, namespace=guest.namespace, interval=0.05)


def test_mac_of_the_uplink_changes(lan: Lan, airtapd: Airtapd) -> None:
    with two_guests(airtapd) as (guest, sibling), lan.frames() as frames:
        assert sibling.ping(ROUTER4)
        with (
            Ping(GUEST4, namespace=lan.namespace, interval=0.05) as ipv4,
            Ping(GUEST6, namespace=lan.namespace, interval=0.05) as ipv6,
            pinging(guest) as out,
        ):
            began = time.monotonic()
            lan.change_near_mac(NEW_MAC)
            collect(frames, announcing(NEW_MAC, GUEST4, GUEST6))
            took = time.monotonic() - began  # on a busy machine
        most = 2 + took / 0.05
        assert max(ipv4.lost, ipv6.lost, out.lost) <= most, (ipv4.said, ipv6.said, out.said)
        assert known(airtapd, GUEST_MAC) >= {GUEST4, GUEST6}
        assert lan.outdated_frames() < 10
        # A sibling whose neighbour entry at the router nobody has refreshed since:
        assert lan.ping("192.0.2.22")


@BOTH_KINDS
def test_mac_changes_while_the_daemon_is_away(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        assert guest.ping(ROUTER4) and guest.ping(ROUTER6)
        airtapd.kill()
        lan.change_near_mac(NEW_MAC)
        airtapd.start()
        assert lan.ping(GUEST4) and lan.ping(GUEST6)


@pytest.mark.parametrize("what", ["qdisc", "filters"])
def test_deleted_from_the_uplink(counting_lan: Lan, airtapd: Airtapd, what: str) -> None:
    """What gets out meanwhile is counted; after that nothing does."""
    lan = counting_lan
    with pump(airtapd, ipv4=GUEST4) as guest, pinging(guest):
        assert filters("up0") == 3
        if what == "qdisc":
            command("tc", "qdisc", "del", "dev", "up0", "clsact")
        else:
            command("tc", "filter", "del", "dev", "up0", "egress")
        assert seconds_until(lambda: filters("up0") == 3, 5, "the filters") < 2
        foreign = lan.foreign_frames()
        assert guest.ping(ROUTER4, count=5)
        assert lan.ping(GUEST4, count=5)
        assert lan.foreign_frames() == foreign


def test_deleted_from_a_child(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, ipv4=GUEST4) as guest, pinging(guest) as ping:
        device = status_of(airtapd, GUEST_MAC)["device"]
        assert filters(device) == 1
        command("tc", "qdisc", "del", "dev", device, "clsact")
        assert seconds_until(lambda: filters(device) == 1, 5, "the filter") < 2
        assert lan.ping(GUEST4)
    assert ping.lost <= 1, ping.said  # to take a clsact away can cost one: see undisturbed()


def refused_soon(
    airtapd: Airtapd, rogue: RawGuest, address: str, change: Callable[[], object]
) -> None:
    """A guest has an address, and has it no more once the change is made."""
    rogue.claim(address)
    assert known(airtapd, ROGUE_MAC) == {address}
    before = refused(airtapd)["host_address"]
    change()

    def refuses() -> bool:
        rogue.claim(address)
        return refused(airtapd)["host_address"] > before

    assert seconds_until(refuses, 5, f"{address} to be refused") < 2
    assert known(airtapd, ROGUE_MAC) == set()


def takes(airtapd: Airtapd, rogue: RawGuest, address: str) -> bool:
    """Whether a guest that claims an address gets it."""
    rogue.claim(address)
    return known(airtapd, ROGUE_MAC) == {address}


def loses_all(airtapd: Airtapd, rogue: RawGuest) -> bool:
    return known(airtapd, rogue.mac) == set()


def test_host_takes_an_address(lan: Lan, airtapd: Airtapd) -> None:
    """Also one that a guest has; and gives it back."""
    with raw_guest(airtapd) as rogue:
        for address, prefix in ((NEW4, 24), (NEW6, 64)):
            words = (f"{address}/{prefix}", "dev", "up0")
            add = ("ip", "address", "add", *words, *(["nodad"] if ":" in address else []))
            refused_soon(airtapd, rogue, address, partial(command, *add))
            assert lan.ping(address)
            command("ip", "address", "del", *words)
            has_it_again = partial(takes, airtapd, rogue, address)
            assert seconds_until(has_it_again, 5, f"{address} to be free") < 2
            command(*add)
            loses_it = partial(loses_all, airtapd, rogue)
            assert seconds_until(loses_it, 5, f"{address} to be taken from the guest") < 2


def test_address_on_another_device_of_the_host(lan: Lan, airtapd: Airtapd) -> None:
    with raw_guest(airtapd) as rogue:
        command("ip", "link", "add", "br9", "type", "bridge")
        try:
            refused_soon(
                airtapd, rogue, NEW4, lambda: command("ip", "address", "add", NEW4, "dev", "br9")
            )
        finally:
            command("ip", "link", "del", "br9")


def test_new_default_gateway(lan: Lan, airtapd: Airtapd) -> None:
    with raw_guest(airtapd) as rogue:
        for family, gateway in (("-4", NEW_GATEWAY4), ("-6", NEW_GATEWAY6)):
            words = ("route", "replace", "default", "via", gateway, "dev", "up0")
            change = partial(command, "ip", family, *words)
            refused_soon(airtapd, rogue, gateway, change)


def test_host_address_survives_a_storm_of_changes(lan: Lan, airtapd: Airtapd) -> None:
    """However many notifications there are, the host's address is never out of the set."""
    with raw_guest(airtapd) as rogue:
        for number in range(100, 140):
            command("ip", "address", "add", f"192.0.2.{number}/24", "dev", "up0")
            rogue.claim(HOST4)
            rogue.claim(ROUTER4)
        assert refused(airtapd)["host_address"] == 80
        assert known(airtapd, ROGUE_MAC) == set()
        assert seconds_until(lambda: not takes(airtapd, rogue, "192.0.2.139"), 5, "the last") < 2
        addresses = json.loads(command("ip", "-json", "-4", "address", "show", "up0"))
        for entry in addresses[0]["addr_info"]:
            rogue.claim(entry["local"])
        assert known(airtapd, ROGUE_MAC) == set()

"""DHCP in another's name, as the hostile guest of tests/adversary found it."""

import pytest

from lab.adversary import packets as p
from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import FAR_MAC, NEAR_MAC, ROUTER4, Lan, wait_for
from lab.sandbox import packet_socket
from lab.traffic import (
    BROADCAST,
    ROGUE4,
    ROGUE_MAC,
    SIBLING_MAC,
    RawGuest,
    collect,
    mark,
    pump,
    raw_guest,
    refused,
)

OTHER_MAC = "52:54:00:00:00:04"
DECLINE, RELEASE, OFFER = 4, 7, 2


def say(guest: RawGuest, to: str, target: str, ports: tuple[int, int], message: bytes) -> None:
    kind, packet = p.over_ip(ROGUE4, target, ports, message)
    guest.send(p.ethernet(to, guest.mac, kind, packet))


@BOTH_KINDS
def test_a_siblings_lease_is_the_siblings(lan: Lan, airtapd: Airtapd) -> None:
    """It is declined by its MAC and option 50, without any address that a guest has."""
    lease_is_kept(lan, airtapd)


@BOTH_KINDS
@pytest.mark.parametrize("apart", ['mode = "private"', "host_access = false"])
def test_also_where_the_host_meets_no_guest(lan: Lan, device_kind: str, apart: str) -> None:
    lines = f'[parents.up0]\nmacnat = "on"\nkind = "{device_kind}"\n{apart}\n'
    with Airtapd(config=lines) as airtapd:
        lease_is_kept(lan, airtapd)


def lease_is_kept(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, SIBLING_MAC, name="sibling") as sibling, raw_guest(airtapd) as rogue:
        address = sibling.dhcp()
        with lan.frames() as frames:
            for kind in (DECLINE, RELEASE):
                message = p.bootp(1, kind, SIBLING_MAC, wanted=address)
                say(rogue, FAR_MAC, ROUTER4, (68, 67), message)
            rogue.mark()
            assert not [frame for frame in collect(frames) if p.MARK in frame]
        assert refused(airtapd)["wrong_mac"] == 2
        assert lan.leases()[SIBLING_MAC] == address


@pytest.mark.parametrize("macnat", ["on", "off"])
def test_nobody_shows_the_host_an_offer(macnat: str) -> None:
    """A macvlan shows the uplink what one guest has for another, and dhclient reads all there."""
    with (
        Lan(one_mac=macnat == "on") as lan,
        Airtapd(config=f'[parents.up0]\nmacnat = "{macnat}"\n') as airtapd,
        raw_guest(airtapd, OTHER_MAC) as other,
        raw_guest(airtapd) as rogue,
        packet_socket(None, "up0") as everything,
    ):
        wait_for(lambda: airtapd.status()["uplinks"][0]["host_access"], 5, "host access")
        guarded = {ROGUE_MAC, OTHER_MAC}
        wait_for(lambda: _announce(airtapd, rogue) == guarded, 10, "from_guest at both")
        for to in (other.mac, BROADCAST):
            message = p.bootp(2, OFFER, NEAR_MAC, yours="192.0.2.222")
            say(rogue, to, "255.255.255.255", (1067, 68), message)
        with lan.frames() as router:
            router.send(bytes(mark(FAR_MAC)))
        assert not [frame for frame in collect(everything) if p.MARK in frame]
        assert refused(airtapd)["wrong_mac"] == 2


def _announce(airtapd: Airtapd, rogue: RawGuest) -> set[str]:
    rogue.claim(ROGUE4)
    return {g["mac"] for g in airtapd.guests() if g["mac"] != ROGUE_MAC or g["addresses"]}

"""IPv6 works, and IPv4 never gets a lease: the switch, or the Wi-Fi's controller, takes a DHCP
request only where its client (chaddr) is the station that sends it. The server sees nothing.

DHCP snooping with MAC verification, as the manuals of Canoga Perkins, Dell, SMC and Edgecore have
it; on by default on some.
"""

from functools import partial
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.dhcp_clients import each_client, leased
from lab.kinds import BOTH_KINDS
from lab.lan import HOST4, Lan, wait_for
from lab.meddling import snoop, snoop_no_more
from lab.traffic import GUEST_MAC, SIBLING_MAC, pump
from lab.trial import run_try


def choose(airtapd: Airtapd, choice: str) -> None:
    """Start it anew, with dhcp = choice for the uplink."""
    airtapd.stop()
    airtapd.config.write_text(f'{airtapd.config.read_text()}dhcp = "{choice}"\n')
    airtapd.start()


@BOTH_KINDS
@pytest.mark.parametrize("choice", ["auto", "uplink"])
def test_every_guest_gets_a_lease_of_its_own(lan: Lan, airtapd: Airtapd, choice: str) -> None:
    snoop(lan)
    choose(airtapd, choice)
    with pump(airtapd, GUEST_MAC) as guest, pump(airtapd, SIBLING_MAC, name="sibling") as sibling:
        one, other = guest.dhcp(), sibling.dhcp()
        assert one != other and HOST4 not in {one, other}
        assert lan.ping(one) and lan.ping(other)
        assert guest.dhcp() == one


@pytest.mark.parametrize("options", [["-C"], ["-B"], ["-x", "0x3d:0102"]])
def test_with_a_client_identifier_or_without(
    lan: Lan, airtapd: Airtapd, options: list[str]
) -> None:
    snoop(lan)
    choose(airtapd, "uplink")
    with pump(airtapd, GUEST_MAC) as guest, pump(airtapd, SIBLING_MAC, name="sibling") as sibling:
        one, other = guest.dhcp(15, *options), sibling.dhcp()
        assert one != other
        assert lan.ping(one) and lan.ping(other)


def test_whichever_client_they_run(lan: Lan, airtapd: Airtapd, tmp_path: Path) -> None:
    snoop(lan)
    with each_client(airtapd, tmp_path, broadcast=False) as guests:
        addresses = [
            wait_for(partial(leased, guest, process), 40, f"the address of {guest.namespace}")[0]
            for guest, process in guests.items()
        ]
        assert len({*addresses}) == len(addresses)
        assert all(lan.ping(address) for address in addresses)


def test_requests_stay_as_they_are_where_told_so(lan: Lan, airtapd: Airtapd) -> None:
    snoop(lan)
    choose(airtapd, "keep")
    with pump(airtapd, GUEST_MAC) as guest, pytest.raises(TimeoutError):
        guest.dhcp(8)


def test_what_is_answered_as_it_is_stays_so(lan: Lan, airtapd: Airtapd) -> None:
    """An outage later on changes nothing: guests would be other clients then."""
    with pump(airtapd, GUEST_MAC) as guest:
        address = guest.dhcp()
        snoop(lan)
        with pytest.raises(TimeoutError):
            guest.dhcp(8)
        snoop_no_more(lan)
        assert guest.dhcp() == address


def test_try_finds_the_way(lan: Lan, airtapd: Airtapd) -> None:
    snoop(lan)
    tried = run_try(airtapd, lan.near, "--kind=macvtap")
    assert tried.status == 0, tried.report

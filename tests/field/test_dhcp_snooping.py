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
from lab.doctor import Doctor
from lab.kinds import BOTH_KINDS
from lab.lan import HOST4, Lan, wait_for
from lab.meddling import snoop, snoop_no_more
from lab.traffic import GUEST_MAC, SIBLING_MAC, pump
from lab.trial import run_try


def serve_nobody(lan: Lan) -> None:
    """As if no server were there."""
    lan.run("nft", "insert", "rule", "netdev", "wire", "in", "udp", "dport", "67", "drop")


def choose(airtapd: Airtapd, choice: str) -> None:
    """Start it anew, with dhcp = choice for the uplink."""
    airtapd.stop()
    lines = [line for line in airtapd.config.read_text().splitlines() if "dhcp" not in line]
    airtapd.config.write_text("\n".join([*lines, f'dhcp = "{choice}"\n']))
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


@BOTH_KINDS
def test_a_server_that_leases_one_address_for_each_mac(lan: Lan, airtapd: Airtapd) -> None:
    """It has the host's for guests, which no guest gets; and it is said that this is why."""
    snoop(lan)
    lan.serve_by_mac()
    with pump(airtapd, GUEST_MAC) as guest:
        with pytest.raises(TimeoutError):
            guest.dhcp(10)
        assert guest.addresses() == []
        [uplink] = airtapd.status()["uplinks"]
        assert uplink["dhcp"]["hosts_address"]
        found = Doctor.of(airtapd).only("one-lease-per-mac", lan.near)
        assert "static" in found["remedy"]


def test_one_address_for_each_mac_where_guests_may_ask_themselves(
    lan: Lan, airtapd: Airtapd
) -> None:
    """The remedy helps: requests in guests' own names."""
    lan.serve_by_mac()
    choose(airtapd, "uplink")
    with pump(airtapd, GUEST_MAC) as guest:
        with pytest.raises(TimeoutError):
            guest.dhcp(3)
        doctor = Doctor.of(airtapd)
        assert 'dhcp = "keep"' in doctor.only("one-lease-per-mac", lan.near)["remedy"]
        choose(airtapd, "keep")
        assert guest.dhcp() != HOST4
        assert doctor.silent(lan.near)


def test_try_tells_one_lease_for_each_mac(lan: Lan, airtapd: Airtapd) -> None:
    snoop(lan)
    lan.serve_by_mac()
    lease = run_try(airtapd, lan.near, "--kind=macvtap").steps()["lease"]
    assert lease["result"] == "failed"
    assert "one address for each MAC" in lease["detail"]
    assert "static" in lease["hint"]


def test_try_tells_snooping_from_no_server(lan: Lan, airtapd: Airtapd) -> None:
    snoop(lan)
    choose(airtapd, "keep")
    lease = run_try(airtapd, lan.near, "--kind=macvtap", seconds=3).steps()["lease"]
    assert "DHCP snooping may" in lease["hint"] and 'dhcp = "uplink"' in lease["hint"]
    choose(airtapd, "auto")
    serve_nobody(lan)
    lease = run_try(airtapd, lan.near, "--kind=macvtap").steps()["lease"]
    assert "there is no DHCP server" in lease["hint"]


def test_doctor_tells_snooping_from_no_server(lan: Lan, airtapd: Airtapd) -> None:
    snoop(lan)
    choose(airtapd, "keep")
    doctor = Doctor.of(airtapd)
    with pump(airtapd, GUEST_MAC) as guest:
        with pytest.raises(TimeoutError):
            guest.dhcp(8)
        found = doctor.only("dhcp-unanswered", lan.near)
        assert "DHCP snooping" in found["what"] and 'dhcp = "auto"' in found["remedy"]
        choose(airtapd, "auto")
        serve_nobody(lan)
        with pytest.raises(TimeoutError):
            guest.dhcp(8)
        found = doctor.only("dhcp-unanswered", lan.near)
        assert "snooping" not in found["what"] and "static" in found["remedy"]
        lan.run("nft", "flush", "chain", "netdev", "wire", "in")
        guest.dhcp()
        assert doctor.silent(lan.near)


def test_try_finds_the_way(lan: Lan, airtapd: Airtapd) -> None:
    snoop(lan)
    tried = run_try(airtapd, lan.near, "--kind=macvtap")
    assert tried.status == 0, tried.report

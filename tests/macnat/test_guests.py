"""Guests on a wire that takes one MAC: what works there, and that these tests could tell."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.airtap import HELPER, Airtapd
from lab.guest import QemuGuest
from lab.kinds import BOTH_KINDS
from lab.lan import HOST4, NEAR_MAC, ROUTER4, ROUTER6, Lan, slaac_address, wait_for
from lab.sandbox import command
from lab.traffic import (
    GUEST4,
    GUEST6,
    GUEST_MAC,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    configure,
    known,
    pump,
    reach_each_other,
    two_guests,
)

MACS = "52:54:00:bb:00:01", "52:54:00:bb:00:02"
LEARNS = f"tap,id=n0,helper={HELPER},br=up0"
TOLD = f"tap,id=n0,helper={HELPER} --mac={MACS[1]},br=up0"


def test_two_qemu_guests(lan: Lan, airtapd: Airtapd, undisturbed_host: None) -> None:
    with (
        QemuGuest(MACS[0], LEARNS, name="one", env=airtapd.env) as one,
        QemuGuest(MACS[1], TOLD, name="two", env=airtapd.env) as two,
        pump(airtapd) as third,
    ):
        third.dhcp()
        wait_for(lambda: third.addresses(6), 10, "an IPv6 address by SLAAC")
        leased = {guest.mac: guest.wait_booted() for guest in (one, two)}
        assert len(set(leased.values())) == 2
        for mac, address in leased.items():
            assert lan.leases()[mac] == address
            assert lan.fetched(address)
            for reached in (address, slaac_address(mac)):
                assert lan.ping(reached)
                assert third.ping(reached)
            assert {address, slaac_address(mac)} <= known(airtapd, mac)
        for sender, receiver in ((one, two), (two, one)):
            for reached in (leased[receiver.mac], slaac_address(receiver.mac)):
                assert syn_arrives(lan, sender, receiver, reached)
        for nobodys in ("192.0.2.77", "2001:db8::77"):
            assert not syn_arrives(lan, two, one, nobodys, (300,))


def syn_arrives(
    lan: Lan,
    sender: QemuGuest,
    receiver: QemuGuest,
    address: str,
    timeouts: tuple[int, ...] = (300, 2000),
) -> bool:
    """Tell whether the sender's TCP reaches the receiver's at this address.

    timeouts: in ms; the first is enough, but on a busy machine.

    iPXE as Debian builds it has no ping, and answers no SYN; but it counts those that it gets.
    For one to be sent, the answer to ARP or ND must have come the other way.
    """
    before = stray_segments(lan, receiver)
    host = f"[{address}]" if ":" in address else address
    for timeout in timeouts:
        said = sender.run(lan, f"imgfetch --timeout {timeout} http://{host}/")
        assert "timed out" in said
        if stray_segments(lan, receiver) > before:
            return True
    return False


def stray_segments(lan: Lan, guest: QemuGuest) -> int:
    """How many TCP segments the guest has received that are for no connection of its own."""
    said = guest.run(lan, "ifstat")
    print(said)  # shown with a test that fails
    # ENOTCONN (38...01) out of tcp.c (0a).
    counted = re.search(r"RXE: (\d+) x [^]]*/380a6001\)", said)
    return int(counted[1]) if counted else 0


def test_both_families_all_ways(lan: Lan, airtapd: Airtapd, undisturbed_host: None) -> None:
    with two_guests(airtapd) as guests:
        reach_each_other(lan, guests)


@BOTH_KINDS
def test_learned_mac_and_slaac(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, told=False) as guest, pump(airtapd, SIBLING_MAC, name="sibling") as sibling:
        for each in (guest, sibling):
            assert each.dhcp() == lan.leases()[each.mac]
        wait_for(lambda: guest.addresses(6) and sibling.addresses(6), 10, "SLAAC")
        reach_each_other(lan, (guest, sibling))


@pytest.mark.parametrize(
    ("own", "other"), [(GUEST4, SIBLING4), (GUEST6, SIBLING6)], ids=["ipv4", "ipv6"]
)
def test_guest_that_spoke_to_a_sibling_only(
    lan: Lan, airtapd: Airtapd, own: str, other: str
) -> None:
    """The router asks nobody for its MAC, so that no answer of the guest's can teach the uplink."""
    with two_guests(airtapd) as (guest, sibling):
        guest.run("ip", "neigh", "replace", other, "lladdr", sibling.mac, "dev", "eth0")
        sibling.run("ip", "neigh", "replace", own, "lladdr", guest.mac, "dev", "eth0")
        lan.run("ip", "neigh", "replace", own, "lladdr", lan.near_mac, "dev", lan.far)
        # It may have one by SLAAC already, which would do as well for a packet's source.
        guest.run("ping", "-n", "-q", "-i", "0.2", "-c", "1", "-w", "5", "-I", own, other)
        assert own in known(airtapd, guest.mac)
        assert lan.ping(own)


def test_jumbo_frames(lan: Lan, airtapd: Airtapd) -> None:
    command("ip", "link", "set", lan.near, "mtu", "9000")
    lan.run("ip", "link", "set", lan.far, "mtu", "9000")
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        guest.run("ip", "link", "set", "eth0", "mtu", "9000")
        for address in ("192.0.2.1", "2001:db8::1"):
            guest.run("ping", "-c", "1", "-W", "1", "-M", "do", "-s", "8900", address)
            guest.run("ping", "-c", "1", "-W", "1", "-s", "30000", address)


def test_without_macnat_none_of_it_works(counting_lan: Lan) -> None:
    """The wire does drop foreign MACs, and guests then are deaf and mute."""
    with (
        Airtapd(config='[parents.up0]\nmacnat = "off"\n') as airtapd,
        pump(airtapd, ipv6=GUEST6) as guest,
    ):
        with pytest.raises(TimeoutError, match="no lease"):
            guest.dhcp(1)
        guest.run("ip", "address", "add", f"{GUEST4}/24", "dev", "eth0")
        with ThreadPoolExecutor(4) as pool:
            answered = [pool.submit(guest.ping, router) for router in (ROUTER4, ROUTER6)]
            answered += [pool.submit(counting_lan.ping, own) for own in (GUEST4, GUEST6)]
        assert not any(future.result() for future in answered)
        assert counting_lan.foreign_frames() > 5
        assert GUEST_MAC not in counting_lan.leases()
        assert not airtapd.status()["uplinks"][0]["macnat"]


def test_a_guest_that_only_asked_whether_its_address_is_free(lan: Lan, airtapd: Airtapd) -> None:
    """It is known soon after: an access point that answers for it does not have it speak."""
    own = "2001:db8::2a"
    with pump(airtapd) as guest:
        guest.run("ip", "address", "add", f"{own}/64", "dev", "eth0")
        wait_for(lambda: own in known(airtapd, guest.mac), 10, "the address to be known")
        assert own in guest.addresses(6)


def test_a_guest_that_comes_back_and_is_silent(lan: Lan, airtapd: Airtapd) -> None:
    """A neighbour that remembers its addresses does not ask for them."""
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
        reach_each_other(lan, [guest])
    wait_for(lambda: not airtapd.guests(), 10, "the guest's device to go")
    with pump(airtapd) as guest:
        taken = (GUEST4, GUEST6)
        for address in taken:  # so that the guest itself asks nothing and answers no ARP or ND
            lan.run("ip", "neigh", "replace", address, "lladdr", NEAR_MAC, "dev", lan.far)
        configure(guest, *taken)
        assert set(taken) <= known(airtapd, guest.mac)
        for address in taken:
            assert lan.ping(address)
    with pump(airtapd, SIBLING_MAC, GUEST4, name="sibling") as sibling:
        assert GUEST4 not in known(airtapd, sibling.mac)  # another's MAC gives it nothing


EVERYTHING = """
table inet everything {
    chain input { type filter hook input priority 0; policy drop; }
    chain output { type filter hook output priority 0; policy drop; }
    chain forward { type filter hook forward priority 0; policy drop; }
}
"""
OF_THE_GUEST = f"""
table netdev early {{
    chain ingress {{
        type filter hook ingress device "up0" priority 0;
        ether saddr {GUEST_MAC} icmp type echo-request counter comment "early"
    }}
}}
table inet late {{
    chain input {{
        type filter hook input priority 0;
        iifname "up0" ether saddr {GUEST_MAC} icmp type echo-request counter comment "late"
    }}
}}
"""


@BOTH_KINDS
def test_the_hosts_firewall(lan: Lan, airtapd: Airtapd, tmp_path: Path) -> None:
    """It is not asked between a guest and the LAN, and is about what a guest has for the host."""
    with pump(airtapd) as guest, firewall(tmp_path, EVERYTHING):
        assert lan.ping(guest.dhcp(), timeout=5)
        assert guest.ping(ROUTER4, timeout=5)
        assert not guest.ping(HOST4, timeout=2)
        command("nft", "flush", "ruleset")
        wait_for(lambda: guest.ping(HOST4), 10, "the host to answer")
        with firewall(tmp_path, OF_THE_GUEST):
            assert guest.ping(HOST4, count=3, timeout=5)
            shown = command("nft", "list", "ruleset")
            for rule in "early", "late":
                assert re.search(rf'counter packets [1-9]\d* bytes \d+ comment "{rule}"', shown)
        with firewall(tmp_path, OF_THE_GUEST.replace("counter comment", "drop comment")):
            assert not guest.ping(HOST4, timeout=2)
            assert guest.ping(ROUTER4, timeout=5)


@contextmanager
def firewall(directory: Path, rules: str) -> Iterator[None]:
    (directory / "rules").write_text(rules)
    command("nft", "--file", str(directory / "rules"))
    try:
        yield
    finally:
        command("nft", "flush", "ruleset")

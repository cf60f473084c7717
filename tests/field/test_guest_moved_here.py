"""A guest that was restored or migrated to this host is unreachable until it speaks: the LAN has it
at the MAC where it was, and for a card other than virtio's QEMU announces it by RARP alone.

harvester/harvester#5831, kubevirt/kubevirt#5912, cyberus-technology/cloud-hypervisor#66, and
metallb/metallb#571.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from scapy.layers.l2 import Ether
from scapy.packet import Raw

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import NEAR_MAC, Lan, wait_for
from lab.pump import PumpGuest
from lab.traffic import BROADCAST, GUEST4, GUEST6, GUEST_MAC, configure, known, neighbour, pump

ELSEWHERE = "02:00:5e:00:53:99"


@contextmanager
def silent_guest(airtapd: Airtapd) -> Iterator[PumpGuest]:
    """A guest that has these addresses alone, and did not ask whether they are free."""
    with pump(airtapd, GUEST_MAC) as guest:
        guest.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=0")
        guest.run("ip", "address", "flush", "dev", "eth0", "scope", "global")
        configure(guest, GUEST4, GUEST6)
        yield guest


def announce_by_rarp(guest: PumpGuest) -> None:
    """As QEMU does (net/announce.c: announce_self_create), in the guest's place."""
    octets = bytes.fromhex(guest.mac.replace(":", ""))
    request = bytes.fromhex("0001080006040003") + 2 * (octets + bytes(4))
    with guest.frames() as frames:
        frames.send(bytes(Ether(src=guest.mac, dst=BROADCAST, type=0x8035) / Raw(request)))


def has_at(lan: Lan, address: str, mac: str) -> bool:
    return neighbour(lan.namespace, address) == mac


def moves_here(lan: Lan, guest: PumpGuest, former: str, now: str) -> None:
    for address in (GUEST4, GUEST6):
        argv = ["ip", "neigh", "replace", address, "lladdr", former, "dev", lan.far]
        lan.run(*argv, "nud", "reachable")
        assert neighbour(lan.namespace, address) == former
    announce_by_rarp(guest)
    for address in (GUEST4, GUEST6):
        is_there = partial(has_at, lan, address, now)
        wait_for(is_there, 5, f"the LAN to have {address} at {now}")
        assert lan.ping(address)


@BOTH_KINDS
def test_the_lan_finds_a_guest_that_is_silent(lan: Lan, airtapd: Airtapd) -> None:
    with silent_guest(airtapd) as guest:
        assert known(airtapd, GUEST_MAC).isdisjoint({GUEST4, GUEST6})
        moves_here(lan, guest, GUEST_MAC, NEAR_MAC)


@BOTH_KINDS
def test_and_one_that_has_spoken_already(lan: Lan, airtapd: Airtapd) -> None:
    with silent_guest(airtapd) as guest:
        assert lan.ping(GUEST4, timeout=5) and lan.ping(GUEST6, timeout=5)
        moves_here(lan, guest, ELSEWHERE, NEAR_MAC)


def test_on_a_wire_that_takes_any_mac() -> None:
    with Lan() as lan, Airtapd() as airtapd, silent_guest(airtapd) as guest:
        wait_for(lambda: airtapd.guests()[0]["refused"], 5, "the guest to be looked at")
        moves_here(lan, guest, ELSEWHERE, GUEST_MAC)

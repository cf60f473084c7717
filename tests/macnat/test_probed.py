"""A guest that has asked whether an address is free is asked back, until that is known.

An access point that answers for its stations knows the address from the guest's question on, and
the LAN does not ask the guest any more.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import Lan, wait_for
from lab.one_mac import MACNAT_ON
from lab.sandbox import command
from lab.traffic import (
    BROADCAST,
    ROGUE4,
    ROGUE6,
    ROGUE_MAC,
    SIBLING6,
    SIBLING_MAC,
    RawGuest,
    asked,
    claim,
    known,
    raw_guest,
)

GROUP = "33:33:ff:00:00:23"


def question(address: str, vlan: int = 0, mac: str = ROGUE_MAC) -> Packet:
    """An ARP probe, or duplicate address detection."""
    ether = Ether(src=mac, dst=GROUP if ":" in address else BROADCAST)
    if vlan:
        ether = ether / Dot1Q(vlan=vlan)
    if ":" in address:
        return ether / IPv6(src="::", dst="ff02::1:ff00:23", hlim=255) / ICMPv6ND_NS(tgt=address)
    return ether / ARP(op=1, hwsrc=mac, psrc="0.0.0.0", pdst=address)


def await_question(guest: RawGuest, address: str) -> None:
    """Read what the guest gets, up to the question."""
    wait_for(lambda: asked(guest.next()) == address, 30, f"a question for {address}", interval=0)


@pytest.mark.parametrize(
    ("address", "vlan", "unanswered"), [(ROGUE4, 0, 1), (ROGUE6, 0, 2), (ROGUE6, 5, 0)]
)
@BOTH_KINDS
def test_asked_until_it_answers(
    lan: Lan, airtapd: Airtapd, address: str, vlan: int, unanswered: int
) -> None:
    with raw_guest(airtapd) as guest:
        guest.send(question(address, vlan))
        for _ in range(unanswered + 1):
            assert known(airtapd, ROGUE_MAC) == set()
            await_question(guest, address)
        guest.send(claim(address, ROGUE_MAC, vlan=vlan))
        assert known(airtapd, ROGUE_MAC) == {address}


@BOTH_KINDS
@pytest.mark.parametrize("address", [ROGUE4, ROGUE6])
def test_asked_several_times_before_another_has_it(
    lan: Lan, airtapd: Airtapd, address: str
) -> None:
    """Of whom a question is lost, or two, the address is not lost."""
    with raw_guest(airtapd) as newcomer, raw_guest(airtapd, SIBLING_MAC) as holder:
        holder.claim(address)
        for _ in range(3):
            newcomer.claim(address)
            for _unanswered in range(2):
                await_question(holder, address)
            holder.claim(address)
        assert known(airtapd, SIBLING_MAC) == {address}

        def is_lost() -> bool:
            newcomer.claim(address)
            return known(airtapd, SIBLING_MAC) == set()

        wait_for(is_lost, 10, "a guest that is silent to have lost it", interval=0.5)


def test_asked_by_the_next_daemon(lan: Lan, airtapd: Airtapd) -> None:
    with raw_guest(airtapd) as guest:
        guest.send(question(ROGUE6))
        airtapd.kill()
        airtapd.start()
        await_question(guest, ROGUE6)


def test_asked_after_the_device_was_down(lan: Lan, airtapd: Airtapd) -> None:
    """The first question is lost: the device is down when it comes."""
    with raw_guest(airtapd) as guest:
        guest.send(question(ROGUE6))
        with down(guest.device), raw_guest(airtapd, SIBLING_MAC) as other:
            other.send(question(SIBLING6, mac=SIBLING_MAC))
            await_question(other, SIBLING6)  # so the guest's was asked, in vain
        await_question(guest, ROGUE6)


@contextmanager
def down(device: str) -> Iterator[None]:
    command("ip", "link", "set", device, "down")
    try:
        yield
    finally:
        command("ip", "link", "set", device, "up")


def test_asked_though_no_event_told(lan: Lan) -> None:
    """A guest's 65th event of a second is not told; the address is found when airtapd looks."""
    constants = {"macnat.address_probe.IDLE_S": 0.5}
    with Airtapd(config=MACNAT_ON, constants=constants) as airtapd, raw_guest(airtapd) as guest:
        for number in range(100):
            guest.send(question(f"2001:db8::2:{number:x}"))
        guest.send(question(ROGUE6))
        await_question(guest, ROGUE6)

"""After a laptop was docked elsewhere its guests go on with the leases of the LAN before: home and
office both have 192.168.1.0/24, and a cable has no name.

groundwater/GhostVM#195, mynodebtc/mynode#708, VirtualBox/virtualbox#362.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import NEAR_MAC, ROUTER4, ROUTER6, Lan, wait_for
from lab.sandbox import command
from lab.traffic import GUEST4, GUEST_MAC, pump

HOME, OFFICE, OTHER = (f"02:00:5e:00:53:{n:02x}" for n in (1, 2, 3))
BOTH_FAMILIES = pytest.mark.parametrize("router", [ROUTER4, ROUTER6], ids=["ipv4", "ipv6"])


def stranded(airtapd: Airtapd) -> bool:
    return any(guest["stranded"] for guest in airtapd.guests())


def renewals(airtapd: Airtapd) -> int:
    return airtapd.log().count("another network")


def asked_for(frame: bytes) -> str:
    """The address of a router that airtapd asks for, whoever has it; or ""."""
    ether = Ether(frame)
    if ether.src == NEAR_MAC and ARP in ether and ether[ARP].psrc == "0.0.0.0":
        return str(ether[ARP].pdst)
    if ether.src == NEAR_MAC and ICMPv6ND_NS in ether:
        return str(ether[ICMPv6ND_NS].tgt)
    return ""


@contextmanager
def known_router(lan: Lan, airtapd: Airtapd, router: str) -> Iterator[None]:
    """A guest on a network where the host has one router, which is known."""
    command("ip", "-4" if ":" in router else "-6", "route", "flush", "default")
    with lan.frames() as frames, pump(airtapd, GUEST_MAC, GUEST4) as guest:
        frames.settimeout(5)
        while asked_for(frames.recv(2048)) != router:
            pass
        assert guest.ping(ROUTER4, count=5)
        yield


def plug_in(lan: Lan, mac: str) -> None:
    """The cable goes into another socket, behind which the router has this MAC."""
    lan.run("ip", "link", "set", lan.far, "down")
    lan.run("ip", "link", "set", lan.far, "address", mac, "up")
    lan.run("ip", "address", "replace", f"{ROUTER6}/64", "dev", lan.far, "nodad")


@BOTH_KINDS
@BOTH_FAMILIES
def test_guests_ask_for_leases_of_the_new_lan(lan: Lan, airtapd: Airtapd, router: str) -> None:
    """Once, also where airtapd is started anew meanwhile; who keeps its address is found there."""
    with known_router(lan, airtapd, router):
        plug_in(lan, OFFICE)
        wait_for(lambda: stranded(airtapd), 15, "airtapd to notice the network")
        assert lan.ping(GUEST4, timeout=5)
        assert renewals(airtapd) == 1
        airtapd.stop()
        plug_in(lan, HOME)
        airtapd.start()
        wait_for(lambda: stranded(airtapd), 15, "airtapd to notice the network")
        plug_in(lan, HOME)
        plug_in(lan, OFFICE)
        wait_for(lambda: renewals(airtapd) > 2, 15, "airtapd to notice the network")
        assert renewals(airtapd) == 3


@BOTH_FAMILIES
def test_a_router_that_is_slow_is_the_same(lan: Lan, airtapd: Airtapd, router: str) -> None:
    """Guests are told of the third network, and not of the one that is slow to be there."""
    with known_router(lan, airtapd, router), lan.frames() as frames:
        frames.settimeout(10)
        lan.run("ip", "link", "set", lan.far, "down")
        lan.run("ip", "address", "flush", "dev", lan.far, "scope", "global")
        lan.run("ip", "link", "set", lan.far, "up")
        asked = 0
        while asked < 5:  # more often than in a row
            with suppress(OSError):  # it was down
                asked += asked_for(frames.recv(2048)) == router
        assert renewals(airtapd) == 0
        lan.run("ip", "address", "add", f"{ROUTER4}/24", "dev", lan.far)
        lan.run("ip", "address", "add", f"{ROUTER6}/64", "dev", lan.far, "nodad")
        while asked_for(frames.recv(2048)) != router:
            pass
        plug_in(lan, OFFICE)
        wait_for(lambda: renewals(airtapd), 15, "airtapd to notice the network")
        assert renewals(airtapd) == 1


@BOTH_FAMILIES
def test_a_router_beside_another_is_the_same(lan: Lan, airtapd: Airtapd, router: str) -> None:
    """Somebody answers for it, and is quicker: guests are told once the router is not there."""
    with known_router(lan, airtapd, router), Answering(lan, router, OTHER) as other:
        plug_in(lan, HOME)
        wait_for(lambda: other.answered, 10, "airtapd to ask for the router")
        other.answered = 0
        plug_in(lan, HOME)
        wait_for(lambda: other.answered, 10, "airtapd to ask for the router")
        assert renewals(airtapd) == 0
        plug_in(lan, OFFICE)
        wait_for(lambda: renewals(airtapd), 15, "airtapd to notice the network")
        assert renewals(airtapd) == 1


class Answering:
    """Somebody on the LAN who answers for a router at another MAC, at once."""

    def __init__(self, lan: Lan, router: str, mac: str) -> None:
        self.answered = 0
        self._frames = lan.frames()
        self._router = router
        self._answer = bytes(answer(router, mac))
        self._ended = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> "Answering":
        self._frames.settimeout(0.1)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._frames.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            with suppress(OSError):  # nothing was asked, or the link is down
                if asked_for(self._frames.recv(2048)) == self._router:
                    self._frames.send(self._answer)
                    self.answered += 1


def answer(address: str, mac: str) -> Ether:
    to = Ether(src=mac, dst=NEAR_MAC)
    if ":" not in address:
        return to / ARP(op=2, hwsrc=mac, psrc=address, hwdst=NEAR_MAC, pdst="0.0.0.0")
    advert = ICMPv6ND_NA(tgt=address, R=1, S=1) / ICMPv6NDOptDstLLAddr(lladdr=mac)
    return to / IPv6(src=address, dst="fe80::ff:fe00:5310", hlim=255) / advert

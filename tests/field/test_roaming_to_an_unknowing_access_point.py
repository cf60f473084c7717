"""After a roam guests are unreachable, the host is not: the new access point answers for those whom
it has heard, asks no station, and has heard the host alone.

openwrt/openwrt#9555, #11029; Telecominfraproject/wlan-ap#331, #365.
"""

from contextlib import suppress

from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP, Ether

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import NEAR_MAC, Lan, wait_for
from lab.traffic import GUEST4, GUEST6, SIBLING4, SIBLING6, two_guests


def announced(frame: bytes) -> str:
    """The address that a frame says to be at the uplink's MAC, whoever has asked; or ""."""
    ether = Ether(frame)
    if ether.src == NEAR_MAC and ARP in ether and ether[ARP].psrc == ether[ARP].pdst:
        return str(ether[ARP].psrc)
    if ether.src == NEAR_MAC and ICMPv6ND_NA in ether:
        return str(ether[ICMPv6ND_NA].tgt)
    return ""


@BOTH_KINDS
def test_guests_are_announced_when_the_carrier_is_back(lan: Lan, airtapd: Airtapd) -> None:
    with two_guests(airtapd):
        addresses = {GUEST4, GUEST6, SIBLING4, SIBLING6}
        for address in addresses:
            wait_for(lambda address=address: lan.ping(address), 10, address)  # type: ignore[misc]
        lan.run("ip", "link", "set", lan.far, "down")
        heard: set[str] = set()
        with lan.frames() as frames:
            frames.settimeout(0.1)
            lan.run("ip", "link", "set", lan.far, "up")

            def all_are_heard() -> bool:
                with suppress(OSError):  # nothing yet, and once that the network was down
                    heard.add(announced(frames.recv(2048)))
                return addresses <= heard

            wait_for(all_are_heard, 10, "all to be announced", interval=0)

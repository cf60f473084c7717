"""Guests behind the host's station, and how they are reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.airtap import Airtapd
from lab.lan import wait_for
from lab.pump import PumpGuest
from tests.macnat import traffic
from tests.macnat.traffic import GUEST_MAC

UPLINK = "wlan1"


@contextmanager
def pump(
    airtapd: Airtapd,
    mac: str = GUEST_MAC,
    ipv4: str | None = None,
    ipv6: str | None = None,
    *,
    told: bool = True,
    name: str = "guest",
) -> Iterator[PumpGuest]:
    """A guest behind the station; see traffic.pump()."""
    with traffic.pump(airtapd, mac, ipv4, ipv6, told=told, name=name, uplink=UPLINK) as guest:
        yield guest


def lease(guest: PumpGuest) -> str:
    """Have a guest configure itself for both families, and return its IPv4 address."""
    address = guest.dhcp()
    wait_for(lambda: guest.addresses(6), 10, "an IPv6 address by SLAAC")
    return address

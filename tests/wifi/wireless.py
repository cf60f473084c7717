"""Guests behind the host's station, and how they are reached."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from lab import traffic
from lab.airtap import Airtapd
from lab.lan import wait_for
from lab.pump import PumpGuest
from lab.traffic import GUEST_MAC

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


def lease(airtapd: Airtapd, guest: PumpGuest) -> str:
    """Have a guest configure itself for both families, and return its IPv4 address.

    MAC NAT knows its IPv6 address then, which the guest need not have used: an access point may
    answer for it from its duplicate address detection on.
    """
    address = guest.dhcp()

    def configured() -> bool:
        own = set(guest.addresses(6))
        return bool(own) and own <= traffic.known(airtapd, guest.mac)

    wait_for(configured, 15, "an IPv6 address by SLAAC, and airtapd to know it")
    return address


@contextmanager
def configured(airtapd: Airtapd, line: str) -> Iterator[None]:
    """airtapd with one more line for its uplink."""
    before = airtapd.config.read_text()
    airtapd.config.write_text(before + line + "\n")
    _reload(airtapd)
    try:
        yield
    finally:
        airtapd.config.write_text(before)
        _reload(airtapd)


def _reload(airtapd: Airtapd) -> None:
    heard = airtapd.log().count("configuration is read again")
    os.kill(airtapd.pid, signal.SIGHUP)
    wait_for(
        lambda: airtapd.log().count("configuration is read again") > heard, 10, "the configuration"
    )

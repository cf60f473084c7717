"""Two networks within reach of the station, and how it goes from one to the other."""

from __future__ import annotations

from contextlib import suppress

from lab.lan import make_host, wait_for
from lab.laptop import ELSEWHERE
from lab.sandbox import command
from lab.wifi import AccessPoint, Station
from tests.wifi.wireless import UPLINK

# A guest shall have a lease of the new network within so many seconds.
PROMPTLY = 15


def other_network() -> AccessPoint:
    return AccessPoint(link="wlan2", namespace="ap2", ssid="other", subnet=ELSEWHERE)


def roam(station: Station, to: AccessPoint) -> None:
    """Join another network, and have addresses there as a DHCP client would."""
    station.cli("select_network", str(station.access_points.index(to)))
    wait_for(lambda: station.bssid == to.far_mac, 20, "the other access point")
    station.wait_associated()
    settle(to)


def settle(lan: AccessPoint) -> None:
    """Give the host its addresses of a network, and no others."""
    command("ip", "address", "flush", "dev", UPLINK, "scope", "global")
    for family in ("-4", "-6"):
        with suppress(RuntimeError):  # there is none
            command("ip", family, "route", "flush", "default", "dev", UPLINK)
    make_host(UPLINK, lan.subnet)

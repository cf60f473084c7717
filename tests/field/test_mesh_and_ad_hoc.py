"""Guests on 802.11s or ad hoc Wi-Fi are refused: "carries no Ethernet frames for guests".

binnes/WiFiMeshRaspberryPi#2, openwisp/netjsonconfig#368. A mesh point is proxy for other MACs, and
an ad hoc network carries any, but its radios hear for their own only.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from socket import if_nametoindex

import pytest

from airtap.kernel.nl80211 import station_bss
from lab.airtap import Airtapd
from lab.kinds import BOTH_IN_MACHINE
from lab.lan import HOST4, Lan, no_router_advertisements, wait_for
from lab.sandbox import command
from lab.traffic import GUEST_MAC, neighbour, pump
from lab.wifi import Radios

JOIN = {
    "mp": ("mesh", "join", "lab", "freq", "2412"),
    "ibss": ("ibss", "join", "lab", "2412", "fixed-freq", "02:00:5e:00:53:00"),
}


class Cell(Lan):
    """A LAN of two radios without an access point; the far one is its router."""

    def __init__(self, mode: str) -> None:
        super().__init__(near="wlan1", far="wlan0", namespace="far")
        self.mode = mode

    def _make_wire(self, undo: contextlib.ExitStack) -> None:
        self._make_namespace(undo)
        phy = Radios.phy(self.far)
        command("iw", "phy", phy, "set", "netns", "name", self.namespace)
        undo.callback(self.run, "iw", "phy", phy, "set", "netns", str(os.getpid()))
        self._enter(self.far, self.run, undo)
        self._enter(self.near, command, undo)
        no_router_advertisements(self.near)
        self._make_router()

    def _enter(self, link: str, run: Callable[..., object], undo: contextlib.ExitStack) -> None:
        run("iw", "dev", link, "set", "type", self.mode)
        undo.callback(run, "iw", "dev", link, "set", "type", "managed")
        run("ip", "link", "set", link, "up")
        undo.callback(run, "ip", "link", "set", link, "down")
        run("iw", "dev", link, *JOIN[self.mode])


@pytest.fixture(scope="module")
def radios() -> Radios:
    return Radios(3)


@pytest.fixture
def lan(radios: Radios, mode: str) -> Iterator[Cell]:
    with Cell(mode) as lan:
        wait_for(lambda: lan.ping(HOST4), 20, "the radios to find each other")
        yield lan
        command("ip", "address", "flush", "dev", lan.near)


@pytest.fixture
def airtapd(lan: Cell, device_kind: str) -> Iterator[Airtapd]:
    with Airtapd(config=f'[parents.wlan1]\nkind = "{device_kind}"\n') as daemon:
        yield daemon
        print(daemon.log())  # shown with a test that fails


@BOTH_IN_MACHINE
@pytest.mark.parametrize("mode", ["mp", "ibss"])
def test_a_guest_is_on_the_lan(lan: Cell, airtapd: Airtapd, mode: str, device_kind: str) -> None:
    own_mac = mode == "mp" and device_kind == "macvtap"
    with pump(airtapd, uplink="wlan1") as guest:
        [uplink] = airtapd.status()["uplinks"]
        assert uplink["type"] == {"mp": "wifi-mesh", "ibss": "wifi-adhoc"}[mode]
        assert uplink["macnat"] == (not own_mac)
        ipv4 = guest.dhcp()
        if mode == "ibss":  # by which another network is known
            assert station_bss(if_nametoindex("wlan1"))[0] == b"lab"
        ipv6 = wait_for(lambda: guest.addresses(6), 15, "an IPv6 address by SLAAC")[0]
        for address, router in ((ipv4, "192.0.2.1"), (ipv6, "2001:db8::1")):
            assert guest.ping(router, timeout=10)
            wait_for(lambda address=address: lan.ping(address), 10, address)  # type: ignore[misc]
            at = neighbour(lan.namespace, address)
            assert (at == GUEST_MAC) == own_mac

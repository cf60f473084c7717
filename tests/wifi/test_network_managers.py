"""Guests on a laptop whose network is a network manager's: what happens to it happens to them.

A guest that runs Linux, of QEMU's command line, listens for QMP; it has a lease of the network
where the laptop is within 15 s, or has kept it, and nobody manages its device.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import product

import pytest

from lab.airtap import HELPER, Airtapd
from lab.guest import GUEST_UID
from lab.lan import wait_for
from lab.linux import LinuxGuest
from lab.managers import CABLE, LINK, MANAGERS, Manager, NetworkManager
from lab.sandbox import command
from lab.suspend import Suspend
from lab.users import listening, runtime_of
from lab.wifi import AccessPoint, Radios
from tests.wifi.roaming import PROMPTLY, other_network

KINDS = ("macvtap",)
TEST_S = 900
MAC = "52:54:00:aa:00:01"


@pytest.fixture(scope="module")
def lan(radios: Radios) -> Iterator[AccessPoint]:
    """Two access points of one network."""
    with AccessPoint(bridged=True, second="wlan3") as lan:
        yield lan


@pytest.fixture(scope="module")
def other(radios: Radios) -> Iterator[AccessPoint]:
    with other_network() as other:
        yield other


@pytest.fixture(scope="module")
def manager(
    lan: AccessPoint, other: AccessPoint, request: pytest.FixtureRequest
) -> Iterator[Manager]:
    with MANAGERS[request.param]([lan, other]) as manager:
        yield manager
        print(manager.log())


@pytest.fixture(scope="module")
def suspend(tmp_path_factory: pytest.TempPathFactory) -> Suspend:
    return Suspend(tmp_path_factory.mktemp("suspend"))


@pytest.fixture(scope="module")
def constants(suspend: Suspend) -> Mapping[str, object]:
    return suspend.constants


@pytest.fixture(scope="module")
def guest(manager: Manager, daemon: Airtapd) -> Iterator[LinuxGuest]:
    netdev = f"tap,id=n0,helper={HELPER},br={LINK}"
    began = time.monotonic()
    with (
        runtime_of(GUEST_UID) as runtime,
        LinuxGuest(MAC, netdev, env=daemon.env, extra=listening(runtime, "web")) as guest,
    ):
        guest.wait_leases(1, 20)
        print(f"booted after {time.monotonic() - began:.1f} s")
        yield guest
        print(guest.serial())
    print(daemon.log())


@pytest.fixture(autouse=True)
def nothing_leaks() -> None:
    """The guest stays from one test to the next."""


class Laptop:
    """What happens to it, by name: each brings it to a network, which is returned."""

    def __init__(
        self, manager: Manager, lan: AccessPoint, other: AccessPoint, suspend: Suspend
    ) -> None:
        self.manager, self.lan, self.other, self.suspend = manager, lan, other, suspend

    def roam(self) -> AccessPoint:
        """Out of reach of the one access point, and within that of the other."""
        self.lan.on_the_air("wlan0", False)
        self.manager.wait_leased(self.lan)
        return self.lan

    def other_ssid(self) -> AccessPoint:
        self.manager.join(self.other)
        return self.other

    def randomised_mac(self) -> AccessPoint:
        before = self.manager.mac
        self.manager.randomise(self.lan)
        assert self.manager.mac != before
        self.manager.wait_leased(self.lan)
        return self.lan

    def restart(self) -> AccessPoint:
        self.manager.restart()
        self.manager.wait_leased(self.lan)
        return self.lan

    def sleep(self) -> AccessPoint:
        self.suspend.sleep(3600)
        return self.lan

    def airplane(self) -> AccessPoint:
        self.manager.airplane(True)
        wait_for(lambda: not self.lan.stations(), 20, "the station to be gone")
        self.manager.airplane(False)
        self.manager.wait_leased(self.lan)
        return self.lan

    def cable(self) -> AccessPoint:
        """Of the same network, in and out again: the host has two ways meanwhile."""
        port = ("peer", "name", "port", "netns", self.lan.namespace)
        command("ip", "link", "add", CABLE, "type", "veth", *port)
        self.lan.run("ip", "link", "set", "port", "master", self.lan.far, "up")
        command("ip", "link", "set", CABLE, "up")
        self.manager.plug_in()
        self.manager.wait_leased(self.lan, CABLE)
        command("ip", "link", "delete", CABLE)
        return self.lan


Event = Callable[[Laptop], AccessPoint]
EVENTS: list[Event] = [
    Laptop.roam,
    Laptop.other_ssid,
    Laptop.randomised_mac,
    Laptop.restart,
    Laptop.sleep,
    Laptop.airplane,
    Laptop.cable,
]
# Of the others those that make test has: each manager, and each event, at least once.
ALWAYS: Mapping[str, set[Event]] = {
    "nm-wpa": set(EVENTS),
    "nm-iwd": {Laptop.roam, Laptop.restart},
    "networkd-iwd": {Laptop.other_ssid, Laptop.randomised_mac},
    "ifupdown": {Laptop.airplane, Laptop.sleep},
}


def cells() -> Iterator[object]:
    for name, event in product(MANAGERS, EVENTS):
        marks = [] if event in ALWAYS[name] else [pytest.mark.slow]
        yield pytest.param(name, event, marks=marks, id=f"{name}-{event.__name__}")


@pytest.fixture(scope="module")
def laptop(manager: Manager, lan: AccessPoint, other: AccessPoint, suspend: Suspend) -> Laptop:
    return Laptop(manager, lan, other, suspend)


def happen(laptop: Laptop, guest: LinuxGuest, event: Event) -> None:
    """The guest is on the network to which an event leads, and on the first again afterwards."""
    there = event(laptop)

    def is_on(network: AccessPoint) -> bool:
        address = guest.leases()[-1]
        return address.startswith(network.subnet.ipv4) and network.ping(address)

    began = time.monotonic()
    try:
        wait_for(lambda: is_on(there), PROMPTLY, f"the guest to be on {there.ssid}")
        print(f"{event.__name__}: after {time.monotonic() - began:.1f} s")
    finally:
        if event is Laptop.roam:
            laptop.lan.on_the_air("wlan0", True)
        if there is laptop.other:
            laptop.manager.join(laptop.lan)
    wait_for(lambda: is_on(laptop.lan), PROMPTLY, "the guest to be back")


def nobody_manages_its_device(manager: Manager, daemon: Airtapd) -> None:
    devices = {each["device"] for each in daemon.guests()}
    assert devices
    if isinstance(manager, NetworkManager):
        states = manager.devices()
        assert {states[device] for device in devices} == {"unmanaged"}
        assert not [
            line for line in manager.log().splitlines() if "(airtap" in line and "-> " in line
        ]
    for device in devices:
        assert "inet" not in command("ip", "address", "show", "dev", device)


@pytest.mark.parametrize(("manager", "event"), list(cells()), indirect=["manager"], scope="module")
def test_what_happens_to_a_laptop(
    laptop: Laptop, guest: LinuxGuest, daemon: Airtapd, event: Event
) -> None:
    happen(laptop, guest, event)
    nobody_manages_its_device(laptop.manager, daemon)


@pytest.mark.slow
@pytest.mark.parametrize("manager", MANAGERS, indirect=True)
def test_fifty_events(laptop: Laptop, guest: LinuxGuest, daemon: Airtapd) -> None:
    # All but the random MAC, which is so once and for all.
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    for _ in range(50):
        happen(laptop, guest, chosen.choice([*EVENTS[:2], *EVENTS[3:]]))
    nobody_manages_its_device(laptop.manager, daemon)
    told = daemon.log().count("link down and up")
    assert told == daemon.log().count("another network") + daemon.log().count("has slept")

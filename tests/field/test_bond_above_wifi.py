"""Guests on a bond of cable and Wi-Fi work while the cable is in, and are deaf and mute without;
on a team, or on a VLAN above Wi-Fi, they always are.

https://rafalgolarz.com/blog/2018/01/10/bonding_wifi_and_ethernet_interfaces/
https://wiki.archlinux.org/index.php/Special:Diff/459238 (Wireless bonding)
https://lastlog.de/blog/bonding_eth0_wlan0_together_to_get_an_active_backup_link.html
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from airtap.ipc import protocol
from airtap.libvirt.connectivity import devices
from airtap.macnat.roaming import network_name
from airtap.names import octets
from lab.airtap import Airtapd
from lab.cable import CABLE, STATION, above, activate, cable, join, mac, unplugged
from lab.doctor import Doctor
from lab.domains import booted, guest_on
from lab.kinds import BOTH_IN_MACHINE
from lab.lan import wait_for
from lab.libvirt import Libvirtd
from lab.pump import PumpGuest
from lab.sandbox import command
from lab.traffic import GUEST4, GUEST6, GUEST_MAC, announcing, collect, known, neighbour, pump
from lab.wifi import AccessPoint, Radios, Station

UPLINKS = ("bond0", "team0", "vlan7")
# Ipvtaps have MAC NAT everywhere.
MACVTAP_IN_MACHINE = pytest.mark.parametrize(
    "device_kind",
    [pytest.param("macvtap", marks=pytest.mark.machine("um"), id="um-macvtap")],
    indirect=True,
)
BOND = ("type", "bond", "mode", "active-backup", "miimon", "50", "primary", CABLE)


@pytest.fixture(scope="module")
def lan() -> Iterator[AccessPoint]:
    """An access point and a cable into the same LAN."""
    Radios(3)
    with AccessPoint(bridged=True) as lan, cable(lan):
        yield lan


@pytest.fixture
def more_config() -> str:
    return ""


@pytest.fixture
def airtapd(lan: AccessPoint, device_kind: str, more_config: str) -> Iterator[Airtapd]:
    """With nothing said of MAC NAT, on a LAN that knows of no earlier guest."""
    lan.run("ip", "neigh", "flush", "all")
    table = f'[parents.{{}}]\nkind = "{device_kind}"\n{more_config}'
    config = "".join(map(table.format, UPLINKS))
    with Airtapd(config=config, socket=protocol.DEFAULT_SOCKET) as daemon:
        yield daemon
        print(daemon.log())  # shown with a test that fails


@contextmanager
def vlan(lan: AccessPoint, below: str) -> Iterator[None]:
    """A VLAN, 198.51.100.0/24 and 2001:db8:1::/64, above a device of the host's."""
    tag = ("type", "vlan", "id", "7")
    command("ip", "link", "add", "link", below, "name", "vlan7", *tag)
    try:
        command("ip", "link", "set", "vlan7", "up")
        lan.run("ip", "link", "add", "link", lan.far, "name", "far7", *tag)
        for address in ("198.51.100.1/24", "2001:db8:1::1/64"):
            lan.run("ip", "address", "add", address, "dev", "far7")
        lan.run("ip", "link", "set", "far7", "up")
        yield
    finally:
        lan.run("ip", "link", "delete", "far7", check=False)
        command("ip", "link", "delete", "vlan7")


def meet(
    lan: AccessPoint, guest: PumpGuest, at: str, own: tuple[str, ...] = (GUEST4, GUEST6)
) -> None:
    """LAN and guest find each other, the guest at this MAC."""
    for address in own:
        router = address.removesuffix("21") + "1"

        def met(address: str = address, router: str = router) -> bool:
            there = lan.ping(address) and guest.ping(router)
            return there and neighbour(lan.namespace, address) == at

        wait_for(met, 10, f"{address} to be reached at {at}, and to reach {router}")


def known_and_met(
    lan: AccessPoint,
    airtapd: Airtapd,
    guest: PumpGuest,
    at: str,
    own: tuple[str, ...] = (GUEST4, GUEST6),
) -> None:
    """They meet, until airtapd has heard both addresses of the guest."""

    def heard() -> bool:
        meet(lan, guest, at, own)
        return {*own} <= known(airtapd, GUEST_MAC)

    wait_for(heard, 10, "airtapd to know the guest")


@BOTH_IN_MACHINE
@pytest.mark.parametrize(
    ("fail_over_mac", "more_config"),
    [("active", ""), ("none", 'mode = "private"\nhost_access = false\n')],
)
def test_guests_follow_the_active_port(
    lan: AccessPoint, airtapd: Airtapd, device_kind: str, fail_over_mac: str
) -> None:
    options = (*BOND, "fail_over_mac", fail_over_mac)
    with (
        above(lan, "bond0", *options, ports=(CABLE, STATION)),
        pump(airtapd, GUEST_MAC, GUEST4, GUEST6, uplink="bond0") as guest,
    ):
        own = GUEST_MAC if device_kind == "macvtap" else mac(CABLE)
        known_and_met(lan, airtapd, guest, own)
        doctor = Doctor.of(airtapd)
        for _ in range(2):
            with unplugged(lan):
                meet(lan, guest, mac(STATION))
                assert doctor.bad("bond0") == {}
            meet(lan, guest, own)
            assert doctor.bad("bond0") == {}


@MACVTAP_IN_MACHINE
@pytest.mark.parametrize("more_config", ["", "host_access = false\n"])
def test_a_failover_while_airtapd_is_down(lan: AccessPoint, airtapd: Airtapd) -> None:
    with (
        above(lan, "bond0", *BOND, "fail_over_mac", "active", ports=(CABLE, STATION)),
        pump(airtapd, GUEST_MAC, GUEST4, GUEST6, uplink="bond0") as guest,
    ):
        known_and_met(lan, airtapd, guest, GUEST_MAC)
        airtapd.kill()
        with unplugged(lan):
            wait_for(lambda: mac("bond0") == mac(STATION), 5, "the failover")
            airtapd.start()
            meet(lan, guest, mac(STATION))
            airtapd.kill()
        wait_for(lambda: mac("bond0") == mac(CABLE), 5, "the way back")
        airtapd.start()
        meet(lan, guest, GUEST_MAC)


@MACVTAP_IN_MACHINE
def test_libvirts_guest_follows_too(lan: AccessPoint, airtapd: Airtapd) -> None:
    with above(lan, "bond0", *BOND, ports=(CABLE, STATION)), Libvirtd() as libvirtd:
        done = libvirtd.airtap("network", "define", "both", "--parent", "bond0")
        assert "bond0 takes one MAC only: airtapd has to run" in done.stdout
        with guest_on(libvirtd, "both", GUEST_MAC):
            address = booted(lan, libvirtd, GUEST_MAC)
            wait_for(lambda: lan.ping(address) and address in known(airtapd, GUEST_MAC), 10, "it")
            for _ in range(2):
                with unplugged(lan):
                    wait_for(lambda: lan.ping(address), 10, "the guest by Wi-Fi")
                    assert neighbour(lan.namespace, address) == mac(STATION)
                wait_for(lambda: lan.ping(address), 10, "the guest by cable")


@MACVTAP_IN_MACHINE
def test_guests_are_announced_at_a_bonds_other_cable(lan: AccessPoint, airtapd: Airtapd) -> None:
    """Their own MAC is elsewhere at once, which no switch could know."""
    with (
        cable(lan, "cable2"),
        above(lan, "bond0", *BOND, ports=(CABLE, "cable2")),
        pump(airtapd, GUEST_MAC, GUEST4, GUEST6, uplink="bond0") as guest,
    ):
        known_and_met(lan, airtapd, guest, GUEST_MAC)
        with lan.frames() as frames, unplugged(lan):
            collect(frames, announcing(GUEST_MAC, GUEST4, GUEST6), 10)


def uplink(airtapd: Airtapd, name: str) -> tuple[str, bool]:
    """Its type, and whether MAC NAT is on for it."""
    [found] = [entry for entry in airtapd.status()["uplinks"] if entry["name"] == name]
    return found["type"], found["macnat"]


@MACVTAP_IN_MACHINE
def test_a_team_takes_one_mac_while_it_has_a_station(lan: AccessPoint, airtapd: Airtapd) -> None:
    """Which port it sends by is teamd's affair, and not the kernel's to tell."""
    with (
        above(lan, "team0", "type", "team", ports=(CABLE,)) as station,
        pump(airtapd, GUEST_MAC, GUEST4, GUEST6, uplink="team0") as guest,
    ):
        activate("team0", CABLE)
        known_and_met(lan, airtapd, guest, GUEST_MAC)
        join(STATION, "team0")
        meet(lan, guest, mac(CABLE))
        station.wait_associated()
        activate("team0", STATION)
        with unplugged(lan):
            meet(lan, guest, mac(STATION))
        activate("team0", CABLE)
        command("ip", "link", "set", STATION, "nomaster")
        meet(lan, guest, GUEST_MAC)


@MACVTAP_IN_MACHINE
@pytest.mark.parametrize("below", [STATION, "bond0"])
def test_a_vlan_takes_what_is_below_it_takes(
    lan: AccessPoint, airtapd: Airtapd, below: str
) -> None:
    own = "198.51.100.21", "2001:db8:1::21"
    with ExitStack() as stack:
        if below == STATION:
            stack.enter_context(Station([lan], link=STATION, host=False))
        else:
            stack.enter_context(above(lan, below, *BOND, ports=(CABLE, STATION)))
        stack.enter_context(vlan(lan, below))
        guest = stack.enter_context(pump(airtapd, GUEST_MAC, *own, uplink="vlan7"))
        if below != STATION:
            known_and_met(lan, airtapd, guest, GUEST_MAC, own)
            stack.enter_context(unplugged(lan))
        meet(lan, guest, mac(STATION), own)
        assert uplink(airtapd, "vlan7") == ("wifi-station", True)
        # By which another network is known, and another access point of it.
        assert network_name(devices()["vlan7"]) == (b"lab", octets(lan.far_mac))


@MACVTAP_IN_MACHINE
def test_a_bridge_over_such_a_bond_leads_nowhere(lan: AccessPoint, airtapd: Airtapd) -> None:
    """Not once the bond sends by the station, so doctor says it while it sends by the cable."""
    with above(lan, "bond0", *BOND, ports=(CABLE, STATION)):
        command("ip", "link", "add", "br0", "type", "bridge")
        try:
            command("ip", "link", "set", "bond0", "master", "br0")
            found = Doctor.of(airtapd).bad("br0")
            assert "port bond0" in found["bridge-on-one-mac"]["what"]
        finally:
            command("ip", "link", "delete", "br0")

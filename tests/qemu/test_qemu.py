"""Real QEMU guests of an ordinary user, through the helper, on a LAN with DHCP and TFTP."""

import time
from collections.abc import Iterator

import pytest

from lab.airtap import HELPER, Airtapd
from lab.guest import GUEST_UID, QemuGuest
from lab.lan import Lan, slaac_address, wait_for
from lab.links import guest_devices, link
from lab.traffic import Ping

MACS = "52:54:00:aa:00:01", "52:54:00:aa:00:02"


@pytest.fixture
def bridged() -> Iterator[Lan]:
    with Lan(bridge="br0") as lan:
        yield lan


def shows_itself_on(lan: Lan, guest: QemuGuest) -> None:
    """It has its own lease and fetched a file; the LAN reaches it over both families."""
    address = guest.wait_booted()
    assert lan.leases()[guest.mac] == address
    assert lan.fetched(address)
    assert lan.ping(address)
    assert lan.ping(slaac_address(guest.mac))


def test_two_guests_on_macvtap(lan: Lan, airtapd: Airtapd) -> None:
    """One with its MAC learned, one with --mac= in the helper's string, which QEMU runs by sh."""
    netdevs = (
        f"tap,id=n0,helper={HELPER},br=up0",
        f"tap,id=n0,helper={HELPER} --mac={MACS[1]},br=up0",
    )
    with (
        QemuGuest(MACS[0], netdevs[0], name="one", env=airtapd.env) as one,
        QemuGuest(MACS[1], netdevs[1], name="two", env=airtapd.env) as two,
    ):
        for guest in (one, two):
            shows_itself_on(lan, guest)
        status = {guest["mac"]: guest for guest in airtapd.guests()}
        assert set(status) == set(MACS)
        for guest in (one, two):
            assert status[guest.mac]["owner"]["uid"] == GUEST_UID
            assert status[guest.mac]["owner"]["pid"] == guest.pid
        one.stop()
        wait_for(lambda: len(guest_devices()) == 1, 5, "the first guest's device to go")
        two.kill()
        wait_for(lambda: not guest_devices(), 5, "the second guest's device to go")


@pytest.mark.parametrize("kind", ["tap", "bridge"])
def test_guest_on_a_classic_bridge(bridged: Lan, kind: str) -> None:
    netdev = f"{kind},id=n0,helper={HELPER},br=br0"
    with Airtapd() as airtapd:
        with QemuGuest(MACS[0], netdev, env=airtapd.env) as guest:
            shows_itself_on(bridged, guest)
            [device] = guest_devices()
            assert link(device)["master"] == "br0"
        wait_for(lambda: not guest_devices(), 5, "the tap to go")


def test_bridge_netdev_on_an_ethernet_parent(lan: Lan, airtapd: Airtapd) -> None:
    """-netdev bridge reads the same protocol; br0, its default, is an alias here."""
    airtapd.stop()
    with airtapd.config.open("a") as config:
        config.write('[aliases]\nbr0 = "up0"\n')
    airtapd.start()
    with QemuGuest(MACS[0], f"bridge,id=n0,helper={HELPER}", env=airtapd.env) as guest:
        shows_itself_on(lan, guest)


def test_hot_plug_and_unplug(lan: Lan, airtapd: Airtapd) -> None:
    with QemuGuest(MACS[0], None, env=airtapd.env) as guest:
        # A reset in the middle of SeaBIOS's start can leave it hanging.
        wait_for(lambda: "No bootable device" in guest.serial(), 30, "the firmware to give up")
        guest.qmp("netdev_add", type="tap", id="n0", helper=str(HELPER), br="up0")
        [device] = guest_devices()
        guest.qmp("device_add", driver="virtio-net-pci", netdev="n0", mac=MACS[0], id="d0")
        guest.qmp("system_reset")
        shows_itself_on(lan, guest)
        assert link(device)["address"] == MACS[0]
        guest.qmp("device_del", id="d0")
        guest.qmp("netdev_del", id="n0")
        wait_for(lambda: not guest_devices(), 10, "the device to go")
        assert guest.alive


def test_refusal_reaches_the_user(lan: Lan) -> None:
    with Airtapd(acl="deny up0\nallow all\n") as airtapd:
        netdev = f"tap,id=n0,helper={HELPER},br=up0"
        with QemuGuest(MACS[0], netdev, env=airtapd.env) as guest:
            assert guest.wait_exit() == 1
            assert "access denied" in guest.stderr()
            assert "bridge helper failed" in guest.stderr()
    assert guest_devices() == set()


def test_guest_runs_through_the_daemons_death(lan: Lan, airtapd: Airtapd) -> None:
    netdev = f"tap,id=n0,helper={HELPER},br=up0"
    with QemuGuest(MACS[0], netdev, env=airtapd.env) as guest:
        address = guest.wait_booted()
        with Ping(address, namespace=lan.namespace) as ping:
            for _ in range(3):
                airtapd.kill()
                time.sleep(0.2)
                airtapd.start()
        assert ping.lost == 0, ping.said
        assert [g["owner"]["pid"] for g in airtapd.guests()] == [guest.pid]
    wait_for(lambda: not guest_devices(), 5, "the device to go")


def test_guest_that_dies_with_the_daemon_away(lan: Lan, airtapd: Airtapd) -> None:
    netdev = f"tap,id=n0,helper={HELPER},br=up0"
    with QemuGuest(MACS[0], netdev, env=airtapd.env) as guest:
        guest.wait_booted()
        airtapd.kill()
        guest.kill()
        assert len(guest_devices()) == 1
        airtapd.start()
        assert guest_devices() == set()

"""MAC NAT is on while an uplink needs it and has children, whoever made them; else all is gone."""

import fcntl
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import Lan, wait_for
from lab.one_mac import MACNAT_ON
from lab.pump import PumpGuest
from lab.sandbox import command, host_links
from lab.traffic import (
    GUEST4,
    GUEST6,
    GUEST_MAC,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    asked,
    collect,
    configure,
    known,
    pump,
    reach_each_other,
    seconds_until,
    two_guests,
)

# To load the programs takes 0.1 s of CPU time; all else that is waited for takes far less.
PROMPTLY = 4.0
PINS = Path("/sys/fs/bpf/airtap")
SECOND_MAC = "02:00:5e:00:54:10"
_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI_VNET_HDR = 0x5002


def pins() -> set[str]:
    return {path.name for path in PINS.iterdir()} if PINS.is_dir() else set()


def is_on(uplink: str = "up0") -> bool:
    """Whether filters of MAC NAT are on an uplink; none of it is there if not."""
    return "airtap_from_uplink" in command("tc", "filter", "show", "dev", uplink, "ingress")


def is_clean(uplink: str = "up0") -> bool:
    """Whether nothing of MAC NAT is left on an uplink, and no pin at all."""
    return "clsact" not in command("tc", "qdisc", "show", "dev", uplink) and not pins()


@contextmanager
def macvtap_by_hand(
    mac: str = SIBLING_MAC, name: str = "macvtap0", uplink: str = "up0"
) -> Iterator[str]:
    """A macvtap as libvirt makes it, without a word to airtapd."""
    kind = ("type", "macvtap", "mode", "bridge")
    command("ip", "link", "add", "link", uplink, "name", name, "address", mac, *kind)
    try:
        command("ip", "link", "set", name, "allmulticast", "on", "up")
        yield name
    finally:
        if name in host_links():
            command("ip", "link", "del", name)


def open_tap(name: str) -> int:
    """Open a macvtap as libvirt does."""
    tap = os.open(f"/dev/tap{socket.if_nametoindex(name)}", os.O_RDWR)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI_VNET_HDR))
    return tap


def test_macvtap_made_by_others(counting_lan: Lan, airtapd: Airtapd) -> None:
    """What it says before airtapd has seen it goes out as it is; after that nothing does."""
    lan = counting_lan
    assert is_clean()
    with macvtap_by_hand() as name:
        assert seconds_until(is_on, 5, "MAC NAT to be on") < PROMPTLY
        foreign = lan.foreign_frames()
        with (
            PumpGuest(open_tap(name), SIBLING_MAC, name="sibling") as sibling,
            pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest,
        ):
            configure(sibling, SIBLING4, SIBLING6)
            reach_each_other(lan, (guest, sibling))
            assert sibling.dhcp() in lan.leases().values()
        assert lan.foreign_frames() == foreign < 10
    assert seconds_until(is_clean, 5, "MAC NAT to go") < PROMPTLY


def test_macvtap_of_others_that_changes_its_mac(counting_lan: Lan, airtapd: Airtapd) -> None:
    with macvtap_by_hand("52:54:00:00:00:77") as name:
        wait_for(is_on, PROMPTLY, "MAC NAT to be on")
        command("ip", "link", "set", name, "address", SIBLING_MAC)
        with PumpGuest(open_tap(name), SIBLING_MAC, name="sibling") as sibling:
            configure(sibling, SIBLING4, SIBLING6)
            wait_for(lambda: sibling.ping("192.0.2.1"), 3, "the guest to be heard")
            assert counting_lan.ping(SIBLING6)


def test_macvtap_that_was_there_before_the_daemon(counting_lan: Lan) -> None:
    with macvtap_by_hand() as name:
        command("ip", "link", "set", name, "down")
        with Airtapd(config=MACNAT_ON):
            assert is_on()
            before = counting_lan.foreign_frames()
            command("ip", "link", "set", name, "up")
            time.sleep(0.5)  # for what the host says on a new link
            assert counting_lan.foreign_frames() == before
        assert is_on(), "what is attached outlives the daemon"
    with Airtapd(config=MACNAT_ON):
        assert is_clean(), "and goes when the next one finds no child"


@BOTH_KINDS
def test_last_child_takes_all_with_it(lan: Lan, airtapd: Airtapd) -> None:
    for _ in range(3):
        with pump(airtapd):
            with pump(airtapd, SIBLING_MAC, name="sibling"):
                assert is_on() and pins()
            assert is_on() and pins()
        assert seconds_until(is_clean, 5, "MAC NAT to go") < PROMPTLY


def reload(airtapd: Airtapd, setting: str) -> None:
    acl = airtapd.config.read_text().splitlines()[0]
    airtapd.config.write_text(f'{acl}\n[parents.up0]\nmacnat = "{setting}"\nhost_access = false\n')
    os.kill(airtapd.pid, signal.SIGHUP)


def test_off_and_on_again_under_guests(counting_lan: Lan, airtapd: Airtapd) -> None:
    lan = counting_lan
    with two_guests(airtapd) as guests:
        reach_each_other(lan, guests)
        assert lan.foreign_frames() == 0
        for setting in ("off", "auto"):  # of Ethernet, auto is off
            reload(airtapd, setting)
            assert seconds_until(is_clean, 5, "MAC NAT to go") < PROMPTLY
            assert "clsact" not in command("tc", "qdisc", "show")
            assert not lan.ping(GUEST4)
            assert guests[0].ping(SIBLING4), "the wire is not between siblings"
            foreign = lan.foreign_frames()
            assert foreign > 0
            reload(airtapd, "on")
            assert seconds_until(is_on, 5, "MAC NAT to be on") < PROMPTLY
            foreign = lan.foreign_frames()
            for guest in guests:  # what was known of them is forgotten: they speak first
                speak_from_all_addresses(guest)
            reach_each_other(lan, guests)
            assert lan.foreign_frames() == foreign


def speak_from_all_addresses(guest: PumpGuest) -> None:
    for family, router in ((4, "192.0.2.1"), (6, "2001:db8::1")):
        for address in guest.addresses(family):
            # The first may be too early: from_guest comes to a guest's device after the uplink is
            # done.
            guest.run("ping", "-c1", "-i0.1", "-w5", "-I", address, router)


def test_two_uplinks(lan: Lan) -> None:
    """Guests with the same MAC and the same addresses, each on a LAN of its own."""
    second = Lan(
        near="up1", far="lan1", namespace="lan2", one_mac=True, near_mac=SECOND_MAC, host=False
    )
    both = f'{MACNAT_ON}[parents.up1]\nmacnat = "on"\n'
    with second, Airtapd(config=both) as airtapd:
        with pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest:
            with pump(airtapd, GUEST_MAC, GUEST4, GUEST6, name="twin", uplink="up1") as twin:
                assert len(pins()) == 2
                reach_each_other(lan, [guest])
                reach_each_other(second, [twin])
                for uplink in airtapd.status()["uplinks"]:
                    [entry] = uplink["guests"]
                    assert {GUEST4, GUEST6} <= set(entry["addresses"])
            wait_for(lambda: len(pins()) == 1, PROMPTLY, "the second uplink's pins to go")
            assert is_on("up0") and not is_on("up1")
            reach_each_other(lan, [guest])
        wait_for(is_clean, PROMPTLY, "all to go")
        assert second.foreign_frames() == 0


@pytest.mark.parametrize("away", [False, True], ids=["watched", "daemon-away"])
def test_uplink_deleted_under_guests(counting_lan: Lan, airtapd: Airtapd, away: bool) -> None:
    with two_guests(airtapd) as (guest, _):
        assert guest.ping("192.0.2.1")
        assert pins()
        if away:
            airtapd.kill()
        command("ip", "link", "del", "up0")
        if away:
            assert pins()
            airtapd.start()
        assert seconds_until(lambda: not pins(), 5, "the pins to go") < PROMPTLY
        wait_for(lambda: not airtapd.guests(), 5, "the guests' devices to be forgotten")
    assert airtapd.alive


@BOTH_KINDS
def test_guest_that_is_released(lan: Lan, airtapd: Airtapd) -> None:
    """Its address is another's at once."""
    with pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest:
        assert guest.ping("192.0.2.1")
    wait_for(lambda: not airtapd.guests(), 5, "the guest's device to go")
    with pump(airtapd, SIBLING_MAC, GUEST4, GUEST6, name="sibling") as other:
        assert other.ping("192.0.2.1") and other.ping("2001:db8::1")
        reach_each_other(lan, [other])
        assert {GUEST4, GUEST6} <= known(airtapd, SIBLING_MAC)


def nth_probe(number: int, address: str) -> Callable[[bytes], bool]:
    """Tells the frame that is so manieth to ask a guest whether an address is its own."""
    probes = 0

    def last(frame: bytes) -> bool:
        nonlocal probes
        probes += asked(frame) == address
        return probes == number

    return last


@BOTH_KINDS
def test_address_moves_to_a_guest_when_its_holder_is_silent(lan: Lan, airtapd: Airtapd) -> None:
    """One that answers keeps it; one that has left it, as after a failover, does not."""
    with (
        pump(airtapd, GUEST_MAC, GUEST4) as guest,
        pump(airtapd, SIBLING_MAC, name="sibling") as sibling,
    ):
        assert guest.ping("192.0.2.1")
        guest.run("ip", "address", "flush", "dev", "eth0")
        sibling.run("ip", "address", "add", f"{GUEST4}/24", "dev", "eth0")
        wait_for(lambda: sibling.ping("192.0.2.1"), 8, "the address to be the sibling's")
        assert lan.ping(GUEST4)
        guest.run("ip", "address", "add", f"{GUEST4}/24", "dev", "eth0")
        with sibling.frames() as frames, ThreadPoolExecutor(1) as pool:
            pinging = pool.submit(guest.ping, "192.0.2.1", timeout=2)
            collect(frames, nth_probe(2, GUEST4))  # what came of the first is decided by then
            assert GUEST4 in known(airtapd, SIBLING_MAC)
            assert not pinging.result()
        assert sibling.ping("192.0.2.1")


def test_address_that_a_guest_has_given_up(lan: Lan, device_kind: str) -> None:
    """Asked for when idle, for which this daemon waits a fifth of a second and not a minute."""
    config = f'{MACNAT_ON}kind = "{device_kind}"\n'
    airtapd = Airtapd(config=config, constants={"macnat.address_probe.IDLE_S": 0.2})
    with airtapd, pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest:
        for address in (GUEST4, GUEST6):
            assert lan.ping(address)
        assert {GUEST4, GUEST6} <= known(airtapd, GUEST_MAC)
        guest.run("ip", "address", "del", f"{GUEST4}/24", "dev", "eth0")
        wait_for(lambda: GUEST4 not in known(airtapd, GUEST_MAC), 10, "it to be forgotten")
        with guest.frames() as frames:
            collect(frames, nth_probe(2, GUEST6))
        assert GUEST6 in known(airtapd, GUEST_MAC)
        assert lan.ping(GUEST6)


def test_device_with_the_ifindex_of_another(counting_lan: Lan, airtapd: Airtapd) -> None:
    """The one before was looked at, and found to be no child."""
    no_ipv6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    no_ipv6.write_text("1")  # a route that comes or goes has all devices looked at
    try:
        command("ip", "link", "add", "index", "4000", "name", "other", "type", "bridge")
        time.sleep(0.5)
        command("ip", "link", "set", "other", "mtu", "1400")
        time.sleep(0.5)
        command("ip", "link", "delete", "other")
        kind = ("type", "macvtap", "mode", "bridge")
        command("ip", "link", "add", "link", "up0", "index", "4000", "name", "again", *kind)
        command("ip", "link", "set", "again", "up")
        wait_for(is_on, PROMPTLY, "MAC NAT to be on")
    finally:
        no_ipv6.write_text("0")
        for name in {"other", "again"} & host_links():
            command("ip", "link", "delete", name)


def test_idle_daemon_stays_for_the_children_of_others(counting_lan: Lan) -> None:
    """Started as a client does it; it has no guest of its own, and MAC NAT to keep."""
    airtapd = Airtapd(config=MACNAT_ON)
    airtapd.arguments = ["--exit-when-idle", "0.1"]
    command("ip", "link", "add", "mv0", "link", counting_lan.near, "type", "macvtap")
    with airtapd:
        command("ip", "link", "set", "mv0", "up")
        wait_for(is_on, PROMPTLY, "MAC NAT to be on")
        time.sleep(0.5)
        assert airtapd.alive
        command("ip", "link", "delete", "mv0")
        wait_for(lambda: not airtapd.alive, 5, "the daemon to end")
        assert is_clean()


def test_children_are_guarded_where_the_host_cannot_be_kept_off(counting_lan: Lan) -> None:
    """As where /proc/sys is read-only."""
    constants = {"kernel.links._HOST_OFF": (("/proc/version", "1"),)}
    with (
        Airtapd(config=MACNAT_ON, constants=constants) as airtapd,
        macvtap_by_hand(GUEST_MAC, "macvtap0") as first,
        macvtap_by_hand(SIBLING_MAC, "macvtap1") as second,
    ):
        for name in (first, second):
            wait_for(partial(is_guarded, name), PROMPTLY, "it to be guarded")
        told = [f"{name}: its guest" for name in (first, second)]
        wait_for(lambda: all(each in airtapd.log() for each in told), PROMPTLY, "that to be told")


def is_guarded(name: str) -> bool:
    return "airtap_from_guest" in command("tc", "filter", "show", "dev", name, "egress")


def test_a_child_that_cannot_be_guarded_costs_others_nothing(
    counting_lan: Lan, airtapd: Airtapd
) -> None:
    """One with an ingress qdisc, as libvirt makes for a bandwidth limit, has no room for clsact."""
    airtapd.kill()
    command("ip", "link", "add", "mv0", "link", "up0", "type", "macvtap")
    try:
        command("tc", "qdisc", "add", "dev", "mv0", "ingress")
        command("ip", "link", "set", "mv0", "up")
        airtapd.start()
        with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6) as guest:
            reach_each_other(counting_lan, [guest])
            assert "mv0: its guest is not heard: an ingress qdisc" in airtapd.log()
    finally:
        command("ip", "link", "delete", "mv0")

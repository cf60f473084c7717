"""A guest that routes for others (a VPN, Thread) drops out after a while: each source that it
forwards takes one of its places. Who is behind it is not reached before it has spoken; a host that
forwards sends what is for it back to the router, past the VPN.

home-assistant/home-assistant.io#44823, home-assistant/addons#4613 (a Thread border router, a /64
behind it), hassio-addons/app-tailscale#415.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.kinds import BOTH_KINDS
from lab.lan import HOST4, NEAR_MAC, ROUTER4, ROUTER6, Lan, wait_for
from lab.one_mac import MACNAT_ON
from lab.routing_guest import BEHIND4, BEHIND6, NETWORK4, NETWORK6, machine_behind
from lab.sandbox import command, packet_socket
from lab.traffic import (
    GUEST4,
    GUEST6,
    GUEST_MAC,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    collect,
    known,
    mark,
    pump,
    status_of,
)

ROUTES = f"""[parents.up0.routes]
"{NETWORK4}" = "{GUEST_MAC}"
"{NETWORK6}" = "{GUEST_MAC}"
"""
BOTH = ((NETWORK4, GUEST4), (NETWORK6, GUEST6))


@BOTH_KINDS
def test_it_keeps_its_own_addresses(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest, machine_behind(guest) as behind:
        for address in (GUEST4, GUEST6):
            assert lan.ping(address, timeout=5)
        behind.say_from([f"10.8.1.{n}" for n in range(1, 25)], ROUTER4)
        behind.say_from([f"2001:db8:8::1:{n:x}" for n in range(1, 41)], ROUTER6)
        last = {"10.8.1.24", "2001:db8:8::1:28"}
        wait_for(lambda: last < known(airtapd, GUEST_MAC), 10, "what is forwarded to be known")
        assert {"10.8.1.1", "2001:db8:8::1:1"}.isdisjoint(known(airtapd, GUEST_MAC))
        for address in (GUEST4, GUEST6):
            assert lan.ping(address, timeout=5), f"{address} is known no more"


@contextmanager
def forwarding() -> Iterator[None]:
    """The host forwards, as libvirt's NAT networks and Docker have it do."""
    names = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
    command("sysctl", "-qw", *(f"{name}=1" for name in names))
    try:
        yield
    finally:
        command("sysctl", "-qw", *(f"{name}=0" for name in names))


def forwarded(lan: Lan) -> list[str]:
    """For whom behind the guest the LAN hears something from the uplink, when it sends that."""
    with lan.frames() as frames:
        for address in (BEHIND4, BEHIND6):
            lan.ping(address)
        with packet_socket(None, lan.near) as near:
            near.send(bytes(mark(NEAR_MAC)))
        heard = [Ether(frame) for frame in collect(frames)]
    packets = [each[layer] for each in heard for layer in (IP, IPv6) if layer in each]
    return [packet.dst for packet in packets if packet.dst in (BEHIND4, BEHIND6)]


@BOTH_KINDS
def test_who_is_behind_it_is_reached_by_it_alone(lan: Lan, device_kind: str) -> None:
    config = f'{MACNAT_ON}kind = "{device_kind}"\n{ROUTES}'
    with (
        forwarding(),
        Airtapd(config=config) as airtapd,
        pump(airtapd, SIBLING_MAC, SIBLING4, SIBLING6, name="sibling") as sibling,
    ):
        for network, address in BOTH:
            for each in (lan, sibling):
                each.run("ip", "route", "add", network, "via", address)
        with pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest, machine_behind(guest):
            for address in (BEHIND4, BEHIND6):
                assert lan.ping(address, timeout=5), f"the LAN does not reach {address}"
                airtapd.kill()
                airtapd.start()
                assert sibling.ping(address, timeout=5), f"a sibling does not reach {address}"
        assert forwarded(lan) == []


@BOTH_KINDS
def test_nobody_else_passes_for_who_is_behind_it(lan: Lan, device_kind: str) -> None:
    config = f'{MACNAT_ON}kind = "{device_kind}"\n{ROUTES}'
    with (
        Airtapd(config=config) as airtapd,
        pump(airtapd, SIBLING_MAC, SIBLING4, SIBLING6, name="sibling") as sibling,
        machine_behind(sibling) as machine,
    ):
        assert sibling.ping(ROUTER4, timeout=5)
        machine.say_from(["10.8.1.1"], ROUTER4)
        wait_for(lambda: status_of(airtapd, SIBLING_MAC)["refused"]["guest_address"], 5, "refusal")
        assert known(airtapd, SIBLING_MAC).isdisjoint({BEHIND4, "10.8.1.1"})
        assert sibling.ping(HOST4, timeout=5)


def test_where_nothing_is_configured_doctor_says_what_to_write(lan: Lan, airtapd: Airtapd) -> None:
    with (
        forwarding(),
        pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest,
        machine_behind(guest) as machine,
    ):
        assert guest.ping(ROUTER4, timeout=5)
        assert Doctor.of(airtapd).silent("up0")
        machine.say_from(["10.8.1.1"], ROUTER4)
        wait_for(lambda: "10.8.1.1" in known(airtapd, GUEST_MAC), 5, "who is behind to be known")
        finding = Doctor.of(airtapd).only("host-forwards", "up0")
        assert "10.8.1.1" in finding["evidence"]
        assert f'[parents.up0]: routes = {{ "PREFIX" = "{GUEST_MAC}" }}' in finding["remedy"]
        airtapd.config.write_text(airtapd.config.read_text() + ROUTES)
        os.kill(airtapd.pid, signal.SIGHUP)
        lan.run("ip", "route", "add", NETWORK4, "via", GUEST4)
        assert lan.ping(BEHIND4, timeout=5)
        assert Doctor.of(airtapd).silent("up0")

"""What a guest may claim: what the host would reach on this uplink, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from lab.airtap import Airtapd
from lab.host_access import reaches
from lab.kinds import BOTH_IN_MACHINE, BOTH_KINDS
from lab.lan import FAR_MAC, HOST4, NEAR_MAC, ROUTER4, Lan, wait_for
from lab.sandbox import command
from lab.traffic import (
    BROADCAST,
    GUEST4,
    GUEST6,
    ROGUE4,
    ROGUE_MAC,
    SIBLING4,
    SIBLING_MAC,
    RawGuest,
    claim,
    collect,
    known,
    pump,
    raw_guest,
    refused,
)

BEHIND4, BEHIND6 = "10.9.0.2", "2001:db8:9::2"


@contextmanager
def routed_by_the_host() -> Iterator[None]:
    """A network namespace "behind", which the host routes between and the LAN: containers, say."""
    with ExitStack() as undo:
        command("ip", "netns", "add", "behind")
        undo.callback(command, "ip", "netns", "delete", "behind")
        peer = ("peer", "name", "inside", "netns", "behind")
        command("ip", "link", "add", "cont0", "type", "veth", *peer)
        for prefix, device, end in ((), "cont0", 1), (("-n", "behind"), "inside", 2):
            command("ip", *prefix, "link", "set", device, "up")
            command("ip", *prefix, "address", "add", f"10.9.0.{end}/24", "dev", device)
            command(
                *("ip", *prefix, "address", "add", f"2001:db8:9::{end}/64", "dev", device, "nodad")
            )
        command("ip", "-n", "behind", "route", "add", "default", "via", "10.9.0.1")
        command("ip", "-n", "behind", "-6", "route", "add", "default", "via", "2001:db8:9::1")
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            setting = Path("/proc/sys/net", name)
            undo.callback(setting.write_text, setting.read_text())
            setting.write_text("1")
        yield


def is_refused(airtapd: Airtapd, guest: RawGuest, address: str, vlan: int = 0) -> bool:
    """Tell whether a guest cannot have an address, which it claims."""
    before = refused(airtapd)["host_address"]
    guest.send(claim(address, guest.mac, vlan=vlan))
    refusals = refused(airtapd)["host_address"] - before
    assert refusals + (address in known(airtapd, guest.mac)) == 1
    return bool(refusals)


def is_free(airtapd: Airtapd, guest: RawGuest, address: str) -> bool:
    return not is_refused(airtapd, guest, address)


@BOTH_KINDS
def test_what_is_behind_the_host(lan: Lan, airtapd: Airtapd) -> None:
    """The LAN reaches it by way of the host, whatever a guest says."""
    with routed_by_the_host(), raw_guest(airtapd) as rogue:
        lan.run("ip", "route", "add", "10.9.0.0/24", "via", HOST4)
        lan.run("ip", "route", "add", "2001:db8:9::/64", "via", "2001:db8::10")
        for address in (BEHIND4, BEHIND6):
            wait_for(partial(lan.ping, address), 5, f"{address} behind the host")
            for vlan in (0, 5):
                assert is_refused(airtapd, rogue, address, vlan)
            rogue.send(Ether(src=ROGUE_MAC, dst=FAR_MAC) / IP(src=BEHIND4, dst=ROUTER4) / UDP())
            assert lan.ping(address, count=2, timeout=2)
        assert refused(airtapd)["host_address"] == 6
        lan.run("ip", "route", "del", "10.9.0.0/24")
        lan.run("ip", "route", "del", "2001:db8:9::/64")


def test_routes_that_come_and_go(lan: Lan, airtapd: Airtapd) -> None:
    """What was learned before is withdrawn, and may be claimed again when the route is gone."""
    with raw_guest(airtapd) as rogue:
        for address in (BEHIND4, BEHIND6):
            assert is_free(airtapd, rogue, address)
        with routed_by_the_host():
            wait_for(lambda: not known(airtapd, ROGUE_MAC), 10, "addresses to be withdrawn")
            assert is_refused(airtapd, rogue, BEHIND4)
            command("ip", "link", "set", "cont0", "down")  # nobody tells of the IPv4 route
            for address in (BEHIND4, BEHIND6):
                wait_for(partial(is_free, airtapd, rogue, address), 10, f"{address} to be free")


@pytest.mark.parametrize(
    ("routes", "address", "free"),
    [
        (["198.51.100.0/24 via 192.0.2.1 dev up0"], "198.51.100.9", True),
        (["198.51.0.0/16 dev cont0"], "198.51.100.9", False),
        (["198.51.0.0/16 dev cont0", "198.51.100.0/24 via 192.0.2.1"], "198.51.100.9", True),
        (["198.51.0.0/16 dev cont0", "198.51.100.0/24 via 192.0.2.1"], "198.51.99.9", False),
        (["198.51.0.0/16 dev cont0 table 52"], "198.51.100.9", False),
        (["198.51.0.0/16 dev cont0", "blackhole 198.51.100.0/24"], "198.51.100.9", False),
        (["blackhole 198.51.100.0/24", "unreachable 198.52.0.0/16"], "198.51.100.9", True),
        (["192.0.2.0/24 dev cont0 metric 9"], ROGUE4, True),
        (["0.0.0.0/1 dev cont0", "128.0.0.0/1 dev cont0"], "8.8.8.8", True),
        (["169.254.0.0/16 dev cont0"], "169.254.7.7", True),
        (
            ["198.51.100.0/24 nexthop via 192.0.2.1 nexthop dev cont0"],
            "198.51.100.9",
            True,
        ),
    ],
)
def test_where_routes_lead(
    lan: Lan, airtapd: Airtapd, routes: list[str], address: str, free: bool
) -> None:
    with routed_by_the_host(), ExitStack() as undo:
        for route in routes:
            command("ip", "route", "add", *route.split())
            undo.callback(command, "ip", "route", "del", *route.split())
        with raw_guest(airtapd) as rogue:
            assert is_free(airtapd, rogue, address) == free


@BOTH_KINDS
def test_gateways_of_other_routing_tables(lan: Lan, airtapd: Airtapd) -> None:
    """As those of VRFs, whose routes are in tables of their own."""
    gateways = {"-4": "192.0.2.254", "-6": "2001:db8::fe"}
    for family, gateway in gateways.items():
        command(*f"ip {family} route add default via {gateway} dev up0 table 100".split())
    try:
        with raw_guest(airtapd) as rogue:
            for gateway in gateways.values():
                assert is_refused(airtapd, rogue, gateway)
    finally:
        for family in gateways:
            command("ip", family, "route", "flush", "table", "100")


@BOTH_IN_MACHINE
def test_gateways_of_a_vrf(lan: Lan, airtapd: Airtapd) -> None:
    """Its routes are in a table of its own."""
    command("ip", "link", "add", "vrf1", "up", "type", "vrf", "table", "77")
    try:
        command("ip", "link", "set", "up0", "master", "vrf1")
        gateways = {"-4": "192.0.2.254", "-6": "2001:db8::fe"}
        command("ip", "address", "replace", "2001:db8::10/64", "dev", "up0", "nodad")
        for family, gateway in gateways.items():
            command(*f"ip {family} route replace default via {gateway} vrf vrf1".split())
        with raw_guest(airtapd) as rogue:
            for gateway in gateways.values():
                assert is_refused(airtapd, rogue, gateway)
            assert is_free(airtapd, rogue, ROGUE4)
    finally:
        command("ip", "link", "delete", "vrf1")


@BOTH_KINDS
def test_more_networks_on_the_link_than_there_is_room_for(lan: Lan, airtapd: Airtapd) -> None:
    """The LAN's router advertises as many in one packet; the host's own networks stay."""
    Path("/proc/sys/net/ipv6/conf/up0/accept_ra").write_text("1")
    extra = [f"{11 + n}.0.0.0/8" for n in range(40)]
    with pump(airtapd, ipv4=GUEST4, ipv6=GUEST6), lan.frames() as far:
        assert reaches(GUEST4) and reaches(GUEST6)
        far.send(bytes(advertised(40)))
        for prefix in extra:
            command("ip", "route", "replace", prefix, "dev", "up0")
        try:
            wait_for(lambda: command("ip", "-6", "route").count("::/13 ") == 40, 5, "the routes")
            wait_for(lambda: "too many" in airtapd.log(), 10, "a word on routes that are too many")
            assert reaches(GUEST4) and reaches(GUEST6)
        finally:
            for prefix in extra:
                command("ip", "route", "del", prefix, "dev", "up0")


def advertised(networks: int) -> Packet:
    """A router advertisement of so many networks on the link, shorter than the host's own."""
    packet: Packet = IPv6(src="fe80::1", dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=0)
    for n in range(networks):
        prefix = f"{0x2100 + 8 * n:x}::"
        packet = packet / ICMPv6NDOptPrefixInfo(prefix=prefix, prefixlen=13, A=0)
    return Ether(src=FAR_MAC, dst="33:33:00:00:00:01") / packet


def release(client: str, address: str, flags: str = "") -> Packet:
    """A DHCPRELEASE."""
    message = BOOTP(chaddr=bytes.fromhex(client.replace(":", "")), ciaddr=address, xid=7)
    options = DHCP(options=[("message-type", "release"), ("server_id", ROUTER4), "end"])
    return IP(src=ROGUE4, dst=ROUTER4, flags=flags) / UDP(sport=68, dport=67) / message / options


FORGED = {
    "wrong_mac": [release(NEAR_MAC, "0.0.0.0"), release(NEAR_MAC, ROGUE4)],
    "host_address": [release(ROGUE_MAC, HOST4), release(ROGUE_MAC, ROUTER4)],
    "guest_address": [release(ROGUE_MAC, SIBLING4)],
    "malformed": [
        release(ROGUE_MAC, ROGUE4, flags="MF"),
        IP(src=ROGUE4, dst=ROUTER4) / UDP(sport=68, dport=67) / bytes(20),
    ],
}


@BOTH_KINDS
def test_dhcp_in_the_name_of_others(lan: Lan, airtapd: Airtapd) -> None:
    """From an address that is new, is known, and from none; with a tag, and with IP options."""
    with (
        raw_guest(airtapd, SIBLING_MAC) as sibling,
        raw_guest(airtapd) as rogue,
        lan.frames() as frames,
    ):
        for vlan in (0, 5):
            sibling.send(claim(SIBLING4, SIBLING_MAC, vlan=vlan))
        sibling.mark()
        collect(frames)
        for guard, packets in FORGED.items():
            before = refused(airtapd)[guard]
            sent = [varied for packet in packets for varied in variations(packet)]
            for frame in sent:
                rogue.send(frame)
            assert refused(airtapd)[guard] == before + len(sent), guard
        rogue.mark()
        assert not [f for f in collect(frames) if UDP in Ether(f) and Ether(f)[UDP].dport == 67]


def variations(packet: Packet) -> Iterator[Packet]:
    for source in (ROGUE4, "0.0.0.0"):
        for options in ([], [b"\1\1\1\1"]):
            copy = packet.copy()
            copy.src, copy.options = source, options
            for tag in ((), (Dot1Q(vlan=0),), (Dot1Q(vlan=5),)):
                frame: Packet = Ether(src=ROGUE_MAC, dst=BROADCAST)
                for layer in (*tag, copy):
                    frame = frame / layer
                yield frame


@BOTH_KINDS
def test_dhcp_of_its_own_and_as_a_relay(lan: Lan, airtapd: Airtapd) -> None:
    client = "52:54:00:0c:11:e7"
    relayed = release(client, "10.7.0.9")
    relayed[BOOTP].giaddr = ROGUE4
    answer = release(client, "0.0.0.0")
    answer[BOOTP].op = 2
    with raw_guest(airtapd) as guest, lan.frames() as frames:
        for packet in (release(ROGUE_MAC, ROGUE4), relayed, answer):
            guest.send(Ether(src=ROGUE_MAC, dst=FAR_MAC) / packet)
        guest.mark()
        seen = [Ether(f) for f in collect(frames)]
        assert [f[BOOTP].ciaddr for f in seen if BOOTP in f] == [ROGUE4, "10.7.0.9", "0.0.0.0"]
        assert not any(refused(airtapd).values())


@pytest.mark.parametrize("kernel", [pytest.param("um", marks=pytest.mark.machine("um"), id="um")])
@pytest.mark.parametrize("host_access", ["true", "false"])
def test_an_ipvtap_without_mac_nat(kernel: str, counting_lan: Lan, host_access: str) -> None:
    """All its guests have the uplink's MAC, and none has an address of others for that."""
    config = f'[parents.up0]\nkind = "ipvtap"\nmacnat = "off"\nhost_access = {host_access}\n'
    with (
        Airtapd(config=config) as airtapd,
        airtapd.attach("up0") as other,
        airtapd.attach("up0") as tap,
        counting_lan.frames() as frames,
        routed_by_the_host(),
    ):
        sibling, rogue = RawGuest(other, NEAR_MAC), RawGuest(tap, NEAR_MAC)
        sibling.claim(SIBLING4)

        def refusals(guard: str) -> int:
            [shown] = [guest for guest in airtapd.guests() if guest["device"] == rogue.device]
            return int(shown["refused"][guard])

        def withdrawn() -> bool:
            rogue.claim(BEHIND4)
            return refusals("host_address") > 0

        wait_for(withdrawn, 10, "airtapd to know what is behind the host")
        collect_all(sibling, frames)
        before = refusals("host_address")
        for address in (HOST4, ROUTER4, BEHIND4, SIBLING4):
            rogue.send(claim(address, NEAR_MAC, FAR_MAC))
            rogue.send(Ether(src=NEAR_MAC, dst=FAR_MAC) / IP(src=address, dst=ROUTER4) / UDP())
        assert (refusals("host_address") - before, refusals("guest_address")) == (6, 2)
        assert not collect_all(rogue, frames)


def collect_all(guest: RawGuest, frames: socket.socket) -> list[bytes]:
    """What of ARP and UDP has come in at the router's MAC by the time that a guest's mark does."""
    guest.mark()
    at_router = [frame for frame in map(Ether, collect(frames)) if frame.dst == FAR_MAC]
    return [raw(frame) for frame in at_router if ARP in frame or UDP in frame]

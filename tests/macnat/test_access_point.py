"""What access points do to a station's frames: echoes, and groups' packets sent to one MAC."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import FAR_MAC, NEAR_MAC, SLOWNESS, Lan, wait_for
from lab.meddling import Echo, as_an_answer, echoing
from lab.pump import PumpGuest
from lab.sandbox import inside
from lab.traffic import GUEST4, GUEST6, pump, running, two_guests

PORT = 5353
GROUP4, GROUP6 = "224.0.0.251", "ff02::fb"


def same(frame: Packet) -> Packet | None:
    """The frame itself, as a broadcast that comes back to its sender."""
    return frame


def to_the_station(frame: Packet) -> Packet | None:
    """The frame, from the access point to the station's own MAC."""
    frame.src, frame.dst = FAR_MAC, NEAR_MAC
    return frame


@pytest.mark.parametrize("echo", [same, to_the_station, as_an_answer])
def test_probes_come_back(lan: Lan, airtapd: Airtapd, echo: Echo) -> None:
    """No guest takes them for a conflict with its own address."""
    with pump(airtapd) as guest, echoing(lan, echo) as echoed:
        argv = ["arping", "-D", "-c", "1", "-w", "2", "-I", "eth0", GUEST4]
        assert guest.run(*argv, check=False).returncode == 0
        wait_for(lambda: [frame for frame in echoed if ARP in frame], 2, "an echo of the probe")
        # Else Linux knows its own probe by the nonce (RFC 7527).
        guest.run("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/eth0/enhanced_dad")
        guest.run("ip", "address", "add", f"{GUEST6}/64", "dev", "eth0")
        wait_for(lambda: GUEST6 in guest.addresses(6), 5, "the end of duplicate address detection")
        shown = guest.run("ip", "-6", "address", "show", "dev", "eth0").stdout
        assert "dadfailed" not in shown
        assert [frame for frame in echoed if ARP not in frame]


@BOTH_KINDS
def test_lease_whose_address_is_answered_for(lan: Lan, airtapd: Airtapd) -> None:
    """busybox, told to probe, declines a lease whose address somebody answers for."""
    with pump(airtapd) as guest, echoing(lan, as_an_answer):
        address = guest.dhcp(5, f"-a{round(300 * SLOWNESS)}")
        assert lan.leases()[guest.mac] == address
        assert "DHCPDECLINE" not in lan.log()


def test_a_real_conflict_is_still_one(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd) as guest:
        argv = ["arping", "-D", "-w", "20", "-I", "eth0", "192.0.2.1"]  # ends at the first answer
        assert guest.run(*argv, check=False).returncode == 1
        guest.run("ip", "address", "add", "2001:db8::1/64", "dev", "eth0")
        shown = ("ip", "-6", "address", "show", "dev", "eth0")
        wait_for(lambda: "dadfailed" in guest.run(*shown).stdout, 10, "the duplicate to be seen")


@contextmanager
def listening(guests: tuple[PumpGuest, ...]) -> Iterator[list[socket.socket]]:
    """UDP sockets, the host's first, that take the groups' packets too."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(group_socket("up0"))]
        for guest in guests:
            with inside(guest.namespace):
                sockets.append(stack.enter_context(group_socket("eth0")))
        yield sockets


def group_socket(device: str) -> socket.socket:
    taker = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    index = socket.if_nametoindex(device).to_bytes(4, "little")
    group4 = socket.inet_aton(GROUP4) + bytes(4) + index
    taker.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group4)
    group6 = socket.inet_pton(socket.AF_INET6, GROUP6) + index
    taker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group6)
    taker.bind(("::", PORT))
    taker.settimeout(1)
    return taker


@pytest.mark.parametrize("to", ["255.255.255.255", "192.0.2.255", GROUP4, GROUP6])
@BOTH_KINDS
def test_group_packet_sent_to_the_stations_mac(lan: Lan, airtapd: Airtapd, to: str) -> None:
    """Both guests and the host get it, once."""
    with two_guests(airtapd) as guests, listening(guests) as sockets, lan.frames() as frames:
        ip = IPv6(src="2001:db8::1", dst=to) if ":" in to else IP(src="192.0.2.1", dst=to)
        packet = Ether(src=FAR_MAC, dst=NEAR_MAC) / ip / UDP(sport=PORT, dport=PORT)
        frames.send(bytes(packet / Raw(to.encode())))
        for taker in sockets:
            assert taker.recv(100) == to.encode()
        for taker in sockets:
            taker.settimeout(0.05)
            with pytest.raises(TimeoutError):
                taker.recv(100)


@BOTH_KINDS
def test_arp_request_sent_to_the_stations_mac(lan: Lan, airtapd: Airtapd) -> None:
    """For an address that no one has spoken from: the guest that has it answers."""
    with two_guests(airtapd) as (guest, _), lan.frames() as frames:
        guest.run("ip", "address", "add", "192.0.2.99/24", "dev", "eth0")
        question = ARP(psrc="192.0.2.1", hwsrc=FAR_MAC, pdst="192.0.2.99")
        with running(guest, ["sleep", "1"]):
            frames.send(bytes(Ether(src=FAR_MAC, dst=NEAR_MAC) / question))
            frames.settimeout(2)
            answers = (Ether(frames.recv(1 << 16)) for _ in range(100))
            answer = next(f for f in answers if ARP in f and f[ARP].psrc == "192.0.2.99")
        assert (answer.src, answer[ARP].hwsrc) == (NEAR_MAC, NEAR_MAC)

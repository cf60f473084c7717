"""A guest that does not take its frames: the host does not take them either.

Whoever holds a macvtap or ipvtap may detach its queue. What is for the guest then reaches the
host's stack, on the guest's device: past the firewall rules for the uplink, and past host_access.
"""

import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import FAR_MAC, HOST4, NEAR_MAC, ROUTER4, Lan
from lab.sandbox import command
from lab.traffic import BROADCAST, ROGUE_MAC, SIBLING_MAC, RawGuest, mark, raw_guest

PORT = 7777
_TUNSETQUEUE, _IFF_DETACH_QUEUE = 0x400454D9, 0x0400
_IP_PKTINFO = 8


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A server of the host's that takes what comes, wherever it comes in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", PORT))
        server.setsockopt(socket.SOL_IP, _IP_PKTINFO, 1)
        server.settimeout(5)
        yield server


def arrivals(server: socket.socket, last: bytes) -> list[tuple[str, bytes]]:
    """The devices at which packets came in, up to the last one, and what they say."""
    found: list[tuple[str, bytes]] = []
    while not found or found[-1][1] != last:
        data, beside, _flags, _address = server.recvmsg(64, 64)
        index = struct.unpack_from("i", beside[0][2])[0]
        found.append((socket.if_indextoname(index), data))
    return found[:-1]


def detach_queue(guest: RawGuest) -> None:
    fcntl.ioctl(guest.fd, _TUNSETQUEUE, struct.pack("16sH22x", b"", _IFF_DETACH_QUEUE))


def packet(source: str, to: str, says: bytes) -> Packet:
    return IP(src=source, dst=to) / UDP(sport=PORT, dport=PORT) / says


def send_all(lan: Lan, sibling: RawGuest) -> None:
    """What reaches a guest's device and is for the host: from a sibling, and from the LAN; then
    the last, to the host itself."""
    with lan.frames() as frames:
        for tag in (Ether(), Ether() / Dot1Q(vlan=0)):
            head = tag.copy()
            head.src, head.dst = SIBLING_MAC, ROGUE_MAC
            sibling.send(head / packet("192.0.2.22", HOST4, b"from a sibling"))
            head = tag.copy()
            head.src, head.dst = FAR_MAC, BROADCAST
            frames.send(bytes(head / packet(ROUTER4, "255.255.255.255", b"to all")))
            head.dst = ROGUE_MAC
            with suppress(OSError):  # an access point does not send there
                frames.send(bytes(head / packet(ROUTER4, HOST4, b"at the guest's MAC")))
        frames.send(bytes(mark(FAR_MAC)))
        sibling.received()  # an ipvlan's broadcasts wait for a worker
        frames.send(bytes(Ether(src=FAR_MAC, dst=NEAR_MAC) / packet(ROUTER4, HOST4, b"last")))


@BOTH_KINDS
@pytest.mark.parametrize("macnat", ["on", "off"])
@pytest.mark.parametrize("host_access", ["true", "false"])
def test_host_is_kept_off(
    counting_lan: Lan, device_kind: str, macnat: str, host_access: str
) -> None:
    settings = f'macnat = "{macnat}"\nkind = "{device_kind}"\nhost_access = {host_access}\n'
    with (
        Airtapd(config=f"[parents.up0]\n{settings}") as airtapd,
        raw_guest(airtapd) as bob,
        raw_guest(airtapd, SIBLING_MAC) as sibling,
        listening() as server,
    ):
        detach_queue(bob)
        send_all(counting_lan, sibling)
        assert bob.device not in {name for name, _ in arrivals(server, b"last")}
        command("sysctl", "-qw", f"net.ipv4.conf.{bob.device}.rp_filter=0")
        send_all(counting_lan, sibling)
        assert bob.device in {name for name, _ in arrivals(server, b"last")}, "the test is blind"

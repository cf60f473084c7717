"""What test_run cannot show of kind ipvtap: where the kernel takes what the programs redirect.

The programs sit on veths here, as on ipvtaps: what is sent on one stands for what its guest says,
and what comes in there is what the guest would receive. The ipvlan itself has no part in that.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyroute2 import AsyncIPRoute
from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from airtap.bpf.attach import CHILD, PARENT, Role
from airtap.bpf.macnat import Macnat, open_macnat
from lab.sandbox import command
from tests.bpf.rig import OTHERHOST, devices

UPLINK, MAC_A, MAC_B = "02:00:00:00:00:01", "02:00:00:00:0a:01", "02:00:00:00:0b:01"
ROUTER = "02:00:00:00:00:03"
A, B, LAN = "192.0.2.100", "192.0.2.200", "192.0.2.1"
# linux/if_packet.h, linux/virtio_net.h
SOL_PACKET, PACKET_AUXDATA, PACKET_VNET_HDR = 263, 8, 15
VLAN_VALID, NEEDS_CSUM, OUTGOING = 0x10, 1, 4
_VIRTIO = struct.Struct("=BBHHHH")
_AUXDATA = struct.Struct("=3I4H")


@dataclass(frozen=True)
class Arrival:
    """A frame that came in at a device. vlan: of a tag beside it; 0: none. checksum: what the
    kernel is still to write, as (start, offset), or None."""

    frame: bytes
    pkt_type: int
    vlan: int
    checksum: tuple[int, int] | None


class Port:
    """A packet socket on a device."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        for option in (PACKET_AUXDATA, PACKET_VNET_HDR):
            self.socket.setsockopt(SOL_PACKET, option, 1)
        self.socket.bind((name, 3))
        self.socket.settimeout(0.3)

    def send(self, packet: Packet, checksum: tuple[int, int] | None = None) -> None:
        """checksum: (start, offset) of one that the kernel is to write."""
        start, offset = checksum or (0, 0)
        self.socket.send(_VIRTIO.pack(checksum is not None, 0, 0, 0, start, offset) + raw(packet))

    def received(self) -> list[Arrival]:
        """What has come in, once no more comes."""
        found: list[Arrival] = []
        while True:
            try:
                data, ancillary, _flags, address = self.socket.recvmsg(2048, 256)
            except TimeoutError:
                return found
            if address[2] == OUTGOING:
                continue
            [(_level, _kind, auxdata)] = ancillary
            status, *_, tci, _tpid = _AUXDATA.unpack(auxdata)
            flags, _gso, _length, _size, start, offset = _VIRTIO.unpack_from(data)
            vlan = tci if status & VLAN_VALID else 0
            checksum = (start, offset) if flags & NEEDS_CSUM else None
            found.append(Arrival(data[_VIRTIO.size :], address[2], vlan, checksum))


@dataclass
class Wires:
    """The uplink's far end, two guests' devices, and one's far end: what that guest says comes
    out there if it is neither dropped nor redirected."""

    macnat: Macnat
    b_ifindex: int
    lan: Port
    a: Port
    b: Port
    a_far: Port


@pytest.fixture(scope="module")
def loaded() -> Iterator[Macnat]:
    found = open_macnat(None)
    yield found
    found.close()


@pytest.fixture
def wires(loaded: Macnat) -> Iterator[Wires]:
    """Where both guests have said who they are, without a tag and in VLAN 5."""
    with devices("up0", "ga", "gb") as [uplink, a, b], ExitStack() as stack:
        for name in ("up0", "up0-far", "ga", "ga-far", "gb", "gb-far"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            command("ip", "link", "set", name, "up")
        loaded.config.set_role(Role("ipvtap"), "bridge")
        loaded.config.set_parent(1, UPLINK)
        for index in (a, b):
            loaded.guests.add(index, None)
            stack.callback(loaded.guests.remove, index)
        asyncio.run(_attach(loaded, uplink, (a, b)))
        ports = [Port(name) for name in ("up0-far", "ga", "gb", "ga-far")]
        for port in ports:
            stack.callback(port.socket.close)
        made = Wires(loaded, b, *ports)
        for port, mac, address in ((made.a, MAC_A, A), (made.b, MAC_B, B)):
            for ether in (Ether(src=mac, dst=ROUTER), Ether(src=mac, dst=ROUTER) / Dot1Q(vlan=5)):
                port.send(ether / IP(src=address, dst=LAN) / UDP())
        assert len(made.a_far.received()) == 2
        assert {entry.mac for entry in loaded.addresses.all()} == {MAC_A, MAC_B}
        yield made


async def _attach(macnat: Macnat, uplink: int, guests: tuple[int, ...]) -> None:
    async with AsyncIPRoute() as ipr:
        await macnat.programs.attach(ipr, uplink, PARENT["ipvtap"])
        for guest in guests:
            await macnat.programs.attach(ipr, guest, CHILD["ipvtap"])


def test_what_a_guest_sends_to_its_sibling_comes_in_there(wires: Wires) -> None:
    packet = Ether(src=MAC_A, dst=UPLINK) / IP(src=A, dst=B) / UDP() / b"hello"
    wires.a.send(packet)
    expected = raw(Ether(src=UPLINK, dst=MAC_B) / packet.payload)
    assert wires.b.received() == [Arrival(expected, OTHERHOST, 0, None)]
    assert wires.a_far.received() == wires.lan.received() == []


def test_a_tag_goes_with_the_frame(wires: Wires) -> None:
    packet = IP(src=A, dst=B) / UDP() / b"hello"
    wires.a.send(Ether(src=MAC_A, dst=UPLINK) / Dot1Q(vlan=5) / packet)
    wires.lan.send(Ether(src=ROUTER, dst=UPLINK) / Dot1Q(vlan=5) / packet)
    wires.lan.send(Ether(src=ROUTER, dst=UPLINK) / Dot1Q(vlan=6) / packet)
    assert wires.b.received() == [
        Arrival(raw(Ether(src=source, dst=MAC_B) / packet), OTHERHOST, 5, None)
        for source in (UPLINK, ROUTER)
    ]


def test_a_siblings_arp_names_it(wires: Wires) -> None:
    arp = ARP(op=2, hwsrc=MAC_A, psrc=A, hwdst=UPLINK, pdst=B)
    wires.a.send(Ether(src=MAC_A, dst=UPLINK) / arp)
    expected = ARP(op=2, hwsrc=UPLINK, psrc=A, hwdst=MAC_B, pdst=B)
    [arrival] = wires.b.received()
    assert arrival.frame == raw(Ether(src=UPLINK, dst=MAC_B) / expected)


def test_a_checksum_is_still_to_be_written_on_the_other_side(wires: Wires) -> None:
    packet = Ether(src=MAC_A, dst=UPLINK) / IP(src=A, dst=B) / UDP(chksum=0x1234) / b"hello"
    wires.a.send(packet, checksum=(34, 6))
    [arrival] = wires.b.received()
    assert arrival.checksum == (34, 6)
    assert arrival.frame[14:] == raw(packet)[14:]


def test_what_comes_from_the_lan_comes_in_at_its_guest(wires: Wires) -> None:
    packet = Ether(src=ROUTER, dst=UPLINK) / IP(src=LAN, dst=B) / UDP(chksum=0x1234) / b"hello"
    wires.lan.send(packet, checksum=(34, 6))
    wires.lan.send(Ether(src=ROUTER, dst=UPLINK) / IP(src=LAN, dst="192.0.2.201") / UDP())
    expected = raw(Ether(src=ROUTER, dst=MAC_B) / packet.payload)
    assert wires.b.received() == [Arrival(expected, OTHERHOST, 0, (34, 6))]
    assert wires.a.received() == []


def test_a_guest_is_told(wires: Wires) -> None:
    frame = raw(Ether(src=UPLINK, dst=MAC_B) / ARP(hwsrc=UPLINK, psrc=LAN, pdst=B))
    wires.macnat.programs.inject(wires.b_ifindex, frame)
    [arrival] = wires.b.received()
    assert arrival.frame == frame
    command("ip", "link", "set", "gb", "down")
    wires.macnat.programs.inject(wires.b_ifindex, frame)
    wires.macnat.programs.inject(99_999, frame)

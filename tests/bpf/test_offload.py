"""What test_run cannot make: frames whose checksum the kernel is still to write.

A macvtap's owner says in a virtio header where that is. The uplink here computes it in software,
as Wi-Fi drivers do, so the far end sees what would be on the air.
"""

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import AsyncIPRoute
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from airtap.bpf.macnat import Macnat, open_macnat
from airtap.bpf.role import CHILD, PARENT
from airtap.kernel import tap
from lab.sandbox import command
from tests.bpf.sums import transport_sum

UPLINK, GUEST = "02:00:00:00:00:01", "02:00:00:00:0a:01"
NO_HEADER = bytes(10)
# linux/sockios.h, linux/ethtool.h
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17


class Wire:
    """A guest's tap, MAC NAT, and the far end of the uplink."""

    def __init__(self, guest: int, far: socket.socket, macnat: Macnat, ifindex: int) -> None:
        self.guest = guest
        self.far = far
        self.macnat = macnat
        self.ifindex = ifindex

    def send(self, frame: bytes, csum_start: int = 0, csum_offset: int = 0) -> bytes | None:
        """What arrives of a frame whose checksum is left to the kernel if csum_start is given."""
        header = struct.pack("=BBHHHH", csum_start > 0, 0, 0, 0, csum_start, csum_offset)
        os.write(self.guest, header + frame)
        try:
            return self.far.recv(2048)
        except TimeoutError:
            return None


@pytest.fixture
def wire() -> Iterator[Wire]:
    command("ip", "link", "add", "up1", "address", UPLINK, "type", "veth", "peer", "name", "far1")
    try:
        for name in ("up1", "far1"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            command("ip", "link", "set", name, "up")
        _no_checksum_offload("up1")
        command(
            *("ip", "link", "add", "link", "up1", "name", "mt1", "address", GUEST),
            *("type", "macvtap", "mode", "bridge"),
        )
        Path("/proc/sys/net/ipv6/conf/mt1/disable_ipv6").write_text("1")
        yield from _running()
    finally:
        command("ip", "link", "delete", "up1")


def _running() -> Iterator[Wire]:
    ifindex, parent = (socket.if_nametoindex(name) for name in ("mt1", "up1"))
    node = tap.node_of("mt1", ifindex)
    if node is None:  # another namespace has this node's name; see kernel/tap.py
        pytest.skip("no /dev/tap of our own for this ifindex")
    guest = tap.open_node(node, vnet_hdr=True)
    macnat = open_macnat(None)
    far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    try:
        macnat.config.set_parent(1, UPLINK)
        macnat.guests.add(ifindex, GUEST)
        asyncio.run(_attach(macnat, parent, ifindex))
        far.bind(("far1", 3))
        far.settimeout(0.5)
        command("ip", "link", "set", "mt1", "up")
        yield Wire(guest, far, macnat, ifindex)
    finally:
        far.close()
        macnat.close()
        os.close(guest)


async def _attach(macnat: Macnat, parent: int, child: int) -> None:
    async with AsyncIPRoute() as ipr:
        await macnat.programs.attach(ipr, parent, PARENT["macvtap"])
        await macnat.programs.attach(ipr, child, CHILD["macvtap"])


def _no_checksum_offload(name: str) -> None:
    value = (ctypes.c_uint32 * 2)(ETHTOOL_STXCSUM, 0)
    request = struct.pack("16sP", name.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, request.ljust(40, b"\0"))


def discover(checksum: int | None) -> bytes:
    packet = Ether(src=GUEST, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
    message = BOOTP(chaddr=b"\2\0\0\0\x0a\1", xid=7) / DHCP(options=[("message-type", 1), "end"])
    return raw(packet / UDP(sport=68, dport=67, chksum=checksum) / message)


@pytest.mark.parametrize("kind", ["full", "none", "partial"])
def test_dhcp_with_each_kind_of_checksum(wire: Wire, kind: str) -> None:
    full = discover(None)
    if kind == "partial":
        body = full[34:]
        pseudo = struct.pack("!4s4sBBH", bytes(4), b"\xff" * 4, 0, 17, len(body))
        words = struct.unpack(f"!{len(pseudo) // 2}H", pseudo)
        folded = sum(words) % 0xFFFF
        arrived = wire.send(full[:40] + struct.pack("!H", folded) + full[42:], 34, 6)
    else:
        arrived = wire.send(full if kind == "full" else discover(0))
    assert arrived is not None
    assert arrived[6:12] == bytes.fromhex(UPLINK.replace(":", ""))
    assert arrived[52:54] == b"\x80\x00"
    found = transport_sum(arrived, None)
    assert found is not None
    assert found.field == 0 if kind == "none" else (found.field != 0 and found.rest == 0)


def test_a_checksum_cannot_be_aimed_at_an_arp_senders_address(wire: Wire) -> None:
    """Frame offset 28 is the sender's protocol address: the kernel would write a sum over it."""
    frame = raw(Ether(src=GUEST, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=GUEST, psrc="192.0.2.100"))
    assert wire.send(frame) is not None
    assert wire.send(frame + bytes(18), csum_start=20, csum_offset=8) is None
    assert wire.macnat.guests.counters()[wire.ifindex].malformed == 1

"""Two guests' taps on an uplink that computes no checksums, as Wi-Fi drivers do.

A tap's owner says in a virtio header where the kernel is to write one. The far end, and a sibling
that takes no frames without (TUNSETOFFLOAD), see what would be on the air.
"""

import asyncio
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from pyroute2 import AsyncIPRoute
from scapy.compat import raw
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from airtap.bpf.attach import CHILD, PARENT, Role
from airtap.bpf.macnat import Macnat, open_macnat
from airtap.bpf.pins import load
from airtap.kernel import tap
from lab.lan import wait_for
from lab.links import without_offload
from lab.sandbox import command

UPLINK, GUEST, SIBLING = "02:00:00:00:00:01", "02:00:00:00:0a:01", "02:00:00:00:0b:01"
HEADER = 10  # struct virtio_net_hdr
TUNSETOFFLOAD = 0x400454D0  # linux/if_tun.h
_MARK = raw(Ether(src=GUEST, dst="ff:ff:ff:ff:ff:ff", type=0x88B6) / Raw(b"a mark".ljust(46)))


class Wire:
    """Two guests' taps, MAC NAT, and the far end of the uplink."""

    def __init__(self, taps: list[int], far: socket.socket, macnat: Macnat, ifindex: int) -> None:
        self._guest, self._sibling = taps
        self._far = far
        self.macnat = macnat
        self.ifindex = ifindex

    def send(self, frame: bytes, pending: tuple[int, int] | None = None) -> list[bytes]:
        """What arrives of a broadcast, at the far end and at the sibling.

        pending: csum_start and csum_offset of a checksum that is left to the kernel.
        """
        header = struct.pack("=BBHHHH", pending is not None, 0, 0, 0, *(pending or (0, 0)))
        os.write(self._guest, header + frame)
        os.write(self._guest, bytes(HEADER) + _MARK)
        there = _until_mark(self._far, lambda: self._far.recv(1 << 16))
        return there + _until_mark(self._sibling, lambda: os.read(self._sibling, 1 << 16)[HEADER:])

    def refused(self) -> dict[str, int]:
        """The guest's frames that the guards have dropped, as far as there are any."""
        counters = self.macnat.guests.counters()[self.ifindex]
        names = ("wrong_mac", "host_address", "guest_address", "malformed", "link_control")
        return {name: getattr(counters, name) for name in names if getattr(counters, name)}


def _until_mark(fd: int | socket.socket, read: Callable[[], bytes]) -> list[bytes]:
    found: list[bytes] = []
    while select.select([fd], [], [], 10)[0]:
        frame = read()
        if frame[12:14] == b"\x88\xb6":
            return found
        found.append(frame)
    raise TimeoutError(f"{len(found)} frames, and no mark")


@contextmanager
def wire(kind: str, content: bytes | None = None) -> Iterator[Wire]:
    """kind: of the guests' devices, macvtap or ipvtap. content: other programs than airtap's."""
    command("ip", "link", "add", "up1", "address", UPLINK, "type", "veth", "peer", "name", "far1")
    with ExitStack() as undo:
        undo.callback(command, "ip", "link", "delete", "up1")
        for name in ("up1", "far1"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            command("ip", "link", "set", name, "up")
        without_offload("up1")
        names = {"mt1": GUEST, "mt2": SIBLING}
        taps = [_tap(undo, name, mac, kind) for name, mac in names.items()]
        fcntl.ioctl(taps[1], TUNSETOFFLOAD, 0)
        macnat = Macnat(load(content, "macnat", None), None) if content else open_macnat(None)
        macnat.config.set_timing()
        undo.callback(macnat.close)
        macnat.config.set_role(Role(kind), "bridge")
        macnat.config.set_parent(socket.if_nametoindex("up1"), UPLINK)
        for name, mac in names.items():
            macnat.guests.add(socket.if_nametoindex(name), mac)
        asyncio.run(_attach(macnat, kind, names))
        far = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        far.bind(("far1", 3))
        for name in names:
            command("ip", "link", "set", name, "up")
        yield Wire(taps, far, macnat, socket.if_nametoindex("mt1"))


def _tap(undo: ExitStack, name: str, mac: str, kind: str) -> int:
    own = ("address", mac) if kind == "macvtap" else ()
    mode = ("mode", "bridge") if kind == "macvtap" else ("mode", "l2", "bridge")
    index = tap.free_index(max(tap.device_indexes()))  # its node is no other namespace's
    link = ("ip", "link", "add", "link", "up1", "name", name, "index", f"{index}")
    command(*link, *own, "type", kind, *mode)
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    node = wait_for(partial(tap.node_of, name, index), 5, f"the node of {name}") or ""
    fd = tap.open_node(node, vnet_hdr=True)
    undo.callback(os.close, fd)
    return fd


async def _attach(macnat: Macnat, kind: str, children: dict[str, str]) -> None:
    async with AsyncIPRoute() as ipr:
        await macnat.programs.attach(ipr, socket.if_nametoindex("up1"), PARENT[kind])
        for name in children:
            await macnat.programs.attach(ipr, socket.if_nametoindex(name), CHILD[kind])

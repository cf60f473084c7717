"""The real programs on a bench: maps of their own, nothing attached, frames through test_run."""

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from airtap.bpf.attach import HOOKS, Role
from airtap.bpf.macnat import Macnat
from airtap.bpf.map import Map
from airtap.bpf.object import Object
from lab.probe import DROP, PASS, REDIRECT
from lab.sandbox import command

TO_INGRESS = 1  # BPF_F_INGRESS
HOST, BROADCAST, MULTICAST, OTHERHOST = range(4)  # linux/if_packet.h

# struct __sk_buff: what test_run takes of it (net/bpf/test_run.c): ingress_ifindex, ifindex, cb.
_CONTEXT = struct.Struct("=36xII4x5I124x")
HOUR = 3600.0
PROGRAMS = tuple(HOOKS)


@dataclass(frozen=True)
class Outcome:
    """What a program made of a frame.

    tag: the TCI beside the frame, or None. to: the device at whose ingress it goes on; 0: it stays.
    mark: what it tells the next program of the frame, in tc_index.
    """

    passed: bool
    frame: bytes
    pkt_type: int
    tag: int | None
    to: int
    mark: int


class Rig:
    """macnat: the maps of the programs under test. devices: ifindexes that exist."""

    def __init__(self, content: bytes, devices: list[int]) -> None:
        self.devices = devices
        self._object = Object(content, "probe")
        self._object.load()
        self.macnat = Macnat(self._object, None)
        self._programs = {name: self._object.program(f"probe_{name}") for name in PROGRAMS}

    def close(self) -> None:
        self.macnat.close()

    def run(
        self,
        program: str,
        frame: bytes,
        ifindex: int,
        tag: int | None = None,
        pkt_type: int = HOST,
        mark: int = 0,
        came_in: int = 0,
    ) -> Outcome:
        """came_in: the device where a frame that leaves has come in."""
        beside = 0 if tag is None else 0x10000 + tag
        context = _CONTEXT.pack(came_in, ifindex, beside, pkt_type, mark, len(frame), 0)
        result = self._programs[program].test_run(frame.ljust(60, b"\0"), context)
        _in, _ifindex, mark, pkt_type, beside, flags, to = _CONTEXT.unpack(result.context)
        if result.verdict == REDIRECT:
            assert to and flags == TO_INGRESS, f"{program} redirects to {to} with flags {flags}"
        else:
            assert result.verdict in (PASS, DROP), f"{program} returned {result.verdict}"
            assert not to, f"{program} redirects, and returned {result.verdict}"
        tag = beside - 0x10000 if beside else None
        return Outcome(result.verdict != DROP, result.frame, pkt_type, tag, to, mark)

    def reset(self) -> None:
        """Macvtaps, empty maps, timing of an hour: nothing grows old by itself during a test."""
        self.macnat.config.set_role(Role("macvtap"), "bridge")
        self.macnat.hosts.set_addresses(set(), set())
        self.macnat.hosts.set_routes({})
        self.macnat.behind.set({})
        for entry in self.macnat.addresses.all():
            self.macnat.addresses.forget(entry.address, entry.vlan)
        for ifindex in self.devices:
            self.macnat.owners.forget(ifindex)
        for ifindex in self.macnat.guests.macs():
            self.macnat.guests.remove(ifindex)
            self.macnat.probed.remove_guest(ifindex)
        for mac in self.macnat.host_access.all():
            self.macnat.host_access.remove(mac)
        self.macnat.config.set_timing(alive=HOUR, refresh=HOUR)
        self.macnat.dhcp.choose("keep")

    def records(self) -> bytes:
        """What the programs have written of frames, on all processors, told or not."""
        one = self._object.map("records")
        last = Path("/sys/devices/system/cpu/possible").read_text().strip().rpartition("-")[2]
        size = one.value_size * (int(last) + 1)  # a multiple of 8, as the kernel has them here
        return Map(one.name, one.fd, one.key_size, size, 1).lookup(bytes(one.key_size)) or b""

    def age(self) -> None:
        """Make every learned address unused for two hours."""
        addresses = self._object.map("addresses")
        then = (time.monotonic_ns() - int(2 * HOUR * 1e9)) % 2**64  # before boot, perhaps
        for key, value in list(addresses.items()):
            addresses.update(key, struct.pack("=QQ", 0, then) + value[16:])


@contextmanager
def devices(*names: str) -> Iterator[list[int]]:
    """Network devices that do nothing; their ifindexes."""
    made = []
    try:
        for name in names:
            command("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-far")
            made.append(name)
        yield [int(Path(f"/sys/class/net/{name}/ifindex").read_text()) for name in names]
    finally:
        for name in made:
            command("ip", "link", "delete", name)

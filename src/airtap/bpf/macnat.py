"""MAC NAT and host access of one uplink: maps, and programs on the clsact hooks of devices.

bpf/macnat.bpf.c and bpf/host_access.h say what the programs do; this module loads them, fills and
reads their maps, and attaches them. It decides nothing about when.

All state is in maps that are pinned below /sys/fs/bpf/airtap, one directory for each uplink. A
daemon that comes back takes the pinned maps, and leaves programs attached that are the same as its
own, if it may ask about them; others it replaces in place (net/sched/cls_bpf.c: cls_bpf_change
swaps them under RCU), so neither an address nor a packet is lost.
"""

import errno
import logging
import struct
import time
from collections.abc import Callable, Collection
from importlib import resources
from ipaddress import IPv4Address
from pathlib import Path

from pyroute2 import AsyncIPRoute

from ..errors import Problem, reason
from ..kernel import clsact
from ..kernel.addresses import Address, Subnet
from ..kernel.links import IPVLAN_MODES
from ..names import octets
from . import records
from .libbpf import BpfError, NoLibbpf
from .map import Ring
from .object import Object, Program, program_by_id
from .pins import load, remove_pins
from .records import UNKNOWN_MAC, Configuration, Entry, Event, GuestCounters, Learned
from .role import HOOKS, KINDS, PARENT, Role
from .tracer import Tracer

log = logging.getLogger(__name__)

ALIVE_S = 300.0
REFRESH_S = 1.0

_SKB = struct.Struct("=48xI140x")  # struct __sk_buff with its cb[0]
_NO_SLOT = records.IPV4_QUOTA + records.IPV6_QUOTA
_FIRST = records.pack_index(0)
_CLOCK_MONOTONIC_COARSE = 6  # include/uapi/linux/time.h


class Macnat:
    """MAC NAT of one uplink. Use as returned by open_macnat(); close() when done.

    tracer: tells what the programs make of guests' frames.

    Methods raise BpfError where nothing else is said.
    """

    def __init__(self, loaded: Object, directory: Path | None) -> None:
        self._object = loaded
        self._directory = directory
        self._config = loaded.map("config")
        self._hosts = loaded.map("hosts")
        self._on_links = loaded.map("on_links")
        self._guests = loaded.map("guests")
        self._macs = loaded.map("macs")
        self._listeners = loaded.map("listeners")
        self._tables = loaded.map("tables")
        self._addresses = loaded.map("addresses")
        self._note = loaded.map("note")
        self._events = loaded.map("events")
        self._role = Role(self.kind())
        self.tracer = Tracer(loaded)
        self._ring: Ring | None = None

    def close(self) -> None:
        """Close every descriptor. What is attached goes on, and what is pinned stays."""
        self.unwatch()
        self.tracer.close()
        self._object.close()

    def remove(self) -> None:
        """close(), and remove the pins: the state goes with the last attached program."""
        self.close()
        if self._directory is not None:
            remove_pins(self._directory)

    def program(self, name: str) -> Program:
        """One of HOOKS of role.py, or inject."""
        return self._object.program(name)

    def set_timing(self, alive: float = ALIVE_S, refresh: float = REFRESH_S) -> None:
        """Set for how many seconds an unused address is still its guest's, and how often its use
        is noted."""
        # That clock's resolution is a jiffy (kernel/time/posix-timers.c: posix_get_coarse_res).
        jiffies = int(refresh / time.clock_getres(_CLOCK_MONOTONIC_COARSE))
        self._configure(alive=int(alive * records.NS), refresh=jiffies)

    def set_role(self, role: Role, mode: str | None) -> None:
        """Set what this is for. Call this before attaching.

        mode: how ipvtap children see each other, "bridge", "private" or "vepa"; any other leaves
        it as it is. Macvtaps' driver sees to theirs.
        """
        changes = {"kind": KINDS.index(role.kind), "observe": int(role.observes)}
        if mode in IPVLAN_MODES:
            changes["mode"] = IPVLAN_MODES.index(mode)
        self._configure(**changes)
        self._role = role

    def kind(self) -> str:
        """Of the children, by set_role(); what an earlier daemon has set counts."""
        return KINDS[self._read_config().kind]

    def parent_mac(self) -> str:
        """The MAC that all frames get; UNKNOWN_MAC before set_parent()."""
        return self._read_config().parent.hex(":")

    def translates(self) -> bool:
        """Whether MAC NAT is on, by set_role(); what an earlier daemon has set counts."""
        return not self._read_config().observe

    def set_parent(self, ifindex: int, mac: str) -> None:
        """Set the uplink: the MAC that frames get on the way up, and where the host gets its own.

        Call this before attaching.
        """
        self._configure(parent=octets(mac), ifindex=ifindex)

    def note(self, text: str) -> None:
        """Keep a text beside what is learned; one that is too long (2 KB) is not kept."""
        packed = text.encode()
        if len(packed) < self._note.value_size:
            self._note.update(_FIRST, packed.ljust(self._note.value_size, b"\0"))

    def noted(self) -> str:
        """What note() has kept, "" at first."""
        return (self._note.lookup(_FIRST) or b"").rstrip(b"\0").decode(errors="replace")

    def host_addresses(self) -> set[Address]:
        """The addresses that set_host_addresses() set."""
        return {
            address for key, _ in self._hosts.items() if (address := records.unpack_key(key)[0])
        }

    def set_host_addresses(
        self, addresses: Collection[Address], broadcasts: Collection[IPv4Address] = ()
    ) -> list[Learned]:
        """Set the addresses of the host and its gateways, which no guest may use, in any VLAN.

        broadcasts: the directed broadcast addresses of the uplink's IPv4 networks; packets for
        one that come in with the uplink's MAC go to all, and no guest may use it either.
        Returns what guests had learned of these, now forgotten. No address that is in the set
        before and after is ever out of it.
        """
        new, old = set(addresses), self.host_addresses()
        for address in new - old:
            self._hosts.update(records.pack_key(address), records.pack_index(1))
        # After that: from_guest looks again behind its back, see learn_address() in addresses.h.
        taken = [entry for entry in self.addresses() if entry.address in new]
        for entry in taken:
            self.forget(entry.address, entry.vlan)
        for address in old - new:
            self._hosts.delete(records.pack_key(address))
        self._set_broadcasts(set(broadcasts))
        return taken

    def set_on_link(self, prefixes: Collection[Subnet]) -> None:
        """Set what the host reaches on the uplink without a router: the first PREFIXES of these.

        Of the rest the host's packets go to the wire, also those that are for guests.
        """
        chosen = sorted(prefixes, key=lambda net: (not net.is_link_local, net.prefixlen, str(net)))
        if len(chosen) > records.PREFIXES:
            what = "host access: %d routes are too many, the last: %s"
            log.warning(what, len(chosen), chosen[-1])
        packed = records.pack_prefixes(chosen[: records.PREFIXES])
        self._on_links.update(_FIRST, packed.ljust(self._on_links.value_size, b"\0"))

    def guests(self) -> dict[int, str]:
        """The devices added and not removed: ifindex to MAC."""
        return {records.unpack_index(k): records.unpack_mac(v) for k, v in self._guests.items()}

    def add_guest(self, ifindex: int, mac: str | None) -> None:
        """Announce a guest's device, or its new MAC. Call this before attach_child().

        mac: None while it is not known: the guards hold, whatever the MAC, and nothing is learned.
        Raises BpfError (E2BIG: there are GUESTS already).
        """
        key = records.pack_index(ifindex)
        new = self._tables.insert(key, bytes(self._tables.value_size))
        self._guests.update(key, records.pack_mac(mac or UNKNOWN_MAC))
        if not new:
            self._set_mac_of_addresses(ifindex, mac)

    def remove_guest(self, ifindex: int) -> list[Learned]:
        """Forget a guest and return the addresses it had. Not there: success.

        Where from_guest is still attached, everything that the guest sends is dropped from now on.
        """
        key = records.pack_index(ifindex)
        self._guests.delete(key)
        self._tables.delete(key)
        held = [entry for entry in self.addresses() if entry.ifindex == ifindex]
        for entry in held:
            self.forget(entry.address, entry.vlan)
        return held

    def meeting(self) -> dict[str, int]:
        """The guests that the host may meet: MAC to ifindex."""
        return {records.unpack_mac(k): records.unpack_index(v) for k, v in self._macs.items()}

    def met_at(self, mac: str) -> int:
        """The ifindex of the guest that the host meets at a MAC; 0 for none."""
        value = self._macs.lookup(records.pack_mac(mac))
        return records.unpack_index(value) if value else 0

    def introduce(self, mac: str, ifindex: int) -> None:
        """Have the host meet the guest of a device at its MAC."""
        self._macs.update(records.pack_mac(mac), records.pack_index(ifindex))
        self._list_listeners()

    def part(self, mac: str) -> None:
        """Have the host meet nobody at a MAC. Not there: success."""
        self._macs.delete(records.pack_mac(mac))
        self._list_listeners()

    def give_back(self, ifindex: int, mac: str, former: Collection[Learned]) -> None:
        """Have a guest hold what it has held on another device, as if seen in use just now.

        Not what is somebody's by now. The entries are no part of its quota: they have no slot.
        """
        hosts = self.host_addresses() if former else set()
        entry = Entry(0, time.monotonic_ns(), ifindex, _NO_SLOT, octets(mac))
        for held in former:
            if held.address not in hosts:
                self._addresses.insert(records.pack_key(held.address, held.vlan), entry.pack())

    def addresses(self) -> list[Learned]:
        """All learned addresses."""
        entries = (records.unpack_learned(key, value) for key, value in self._addresses.items())
        return [entry for entry in entries if entry is not None]

    def find(self, address: Address, vlan: int = 0) -> Learned | None:
        """Who holds an address."""
        key = records.pack_key(address, vlan)
        value = self._addresses.lookup(key)
        return None if value is None else records.unpack_learned(key, value)

    def forget(self, address: Address, vlan: int = 0) -> None:
        """Delete a learned address; whoever uses it next has it. Not there: success."""
        self._addresses.delete(records.pack_key(address, vlan))

    def tell(self, ifindex: int, frame: bytes) -> None:
        """Have a guest receive a frame of ours. A guest that is gone or down: success."""
        self.program("inject").test_run(frame, _SKB.pack(ifindex))

    def counters(self) -> dict[int, GuestCounters]:
        """Each guest's counters, by ifindex."""
        return {
            records.unpack_index(k): records.unpack_counters(v) for k, v in self._tables.items()
        }

    def watch(self, on_event: Callable[[Event], None]) -> int:
        """Open the events. Returns a descriptor, to be given to loop.add_reader with consume().

        Events that no one has read, of an earlier daemon's time too, come first. The descriptor
        is ours and lasts until unwatch() or close().
        """
        self.unwatch()
        self._ring = Ring(self._events, lambda sample: on_event(records.unpack_event(sample)))
        return self._ring.fd

    def consume(self) -> None:
        """Call on_event for what has come in."""
        if self._ring is not None:
            self._ring.consume()

    def unwatch(self) -> None:
        """Close the events; take the descriptor out of the loop before."""
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()

    async def attach_parent(self, ipr: AsyncIPRoute, ifindex: int) -> None:
        """Put the programs on the uplink. What is attached already stays.

        Set the role, the MAC and the host's addresses before. Raises LinkNotFound, LinkError
        (EEXIST: an ingress qdisc or a foreign filter is in the way).
        """
        await self._attach(ipr, ifindex, self._role.on_parent)

    async def attach_child(self, ipr: AsyncIPRoute, ifindex: int) -> None:
        """Put the programs on a guest's device, after add_guest(). Raises as attach_parent()."""
        await self._attach(ipr, ifindex, self._role.on_child)

    async def _attach(self, ipr: AsyncIPRoute, ifindex: int, names: Collection[str]) -> None:
        for name in names:
            if not await self.is_attached(ipr, ifindex, (name,)):
                await clsact.attach(ipr, ifindex, HOOKS[name], self.program(name).fd)

    async def is_attached(
        self, ipr: AsyncIPRoute, ifindex: int, names: Collection[str] = PARENT["macvtap"]
    ) -> bool:
        """Whether these very programs are on a device: same instructions, and on our maps.

        False for those of an earlier daemon that we may not ask about: they are replaced, once.
        Raises LinkNotFound, LinkError.
        """
        for name in names:
            number = await clsact.attached(ipr, ifindex, HOOKS[name])
            ours = self.program(name).info()
            if number == ours.id:
                continue
            there = program_by_id(number) if number else None
            if there is None or (there.tag, there.map_ids) != (ours.tag, ours.map_ids):
                return False
        return True

    def _list_listeners(self) -> None:
        packed = records.pack_listeners([index for _, index in self._macs.items()])
        self._listeners.update(_FIRST, packed.ljust(self._listeners.value_size, b"\0"))

    def _read_config(self) -> Configuration:
        value = self._config.lookup(_FIRST)
        return Configuration.unpack(value) if value else Configuration()

    def _configure(self, **changes: bytes | int) -> None:
        new = self._read_config()._replace(**changes)  # type: ignore[arg-type]
        self._config.update(_FIRST, new.pack())

    def _set_mac_of_addresses(self, guest: int, mac: str | None) -> None:
        for key, value in self._addresses.items():
            entry = Entry.unpack(value)
            if entry.ifindex != guest:
                continue
            if mac is None:
                self._addresses.delete(key)
            elif entry.mac != octets(mac):
                self._addresses.replace(key, entry._replace(mac=octets(mac)).pack())

    def _set_broadcasts(self, new: set[IPv4Address]) -> None:
        wanted = {records.pack_key(address) for address in new}
        for key, value in self._addresses.items():
            if not Entry.unpack(value).ifindex and key not in wanted:
                self._addresses.delete(key)
        for key in wanted:
            self._addresses.update(key, Entry(0, 0, 0, 0, b"\xff" * 6).pack())


def open_macnat(directory: Path | None) -> Macnat:
    """Load the programs, on the maps that are pinned in directory, or on new ones pinned there.

    directory: of pin_directory(); None to pin nothing. Pins whose layout is another version's are
    replaced: addresses are then learned anew. Raises Problem no-macnat, saying what is missing.
    """
    try:
        content = (resources.files("airtap") / "bpf/macnat.bpf.o").read_bytes()
        return _begin(load(content, "macnat", directory), directory)
    except FileNotFoundError as exc:
        raise Problem("no-macnat", f"{exc.filename} is not there", "install airtap anew") from exc
    except NoLibbpf as exc:
        hint = "install libbpf 1.0 or later (Debian: libbpf1)"
        raise Problem("no-macnat", f"no usable libbpf.so.1: {exc}", hint) from exc
    except BpfError as exc:
        raise Problem("no-macnat", f"the kernel takes no MAC NAT: {exc}", _hint(exc)) from exc
    except OSError as exc:
        raise Problem("no-macnat", f"cannot use {exc.filename}: {reason(exc)}") from exc


async def detach(ipr: AsyncIPRoute, ifindex: int, keep: Collection[str] = ()) -> None:
    """Take programs off a device, parent or child, of whichever version. Not there: success.

    keep: names of those that stay; without any, the clsact goes too unless a filter that is not
    ours is on it. Raises LinkError.
    """
    await clsact.detach(ipr, ifindex, [HOOKS[name] for name in keep])


def _begin(loaded: Object, directory: Path | None) -> Macnat:
    try:
        macnat = Macnat(loaded, directory)
        macnat.tracer.clear()
        if macnat.parent_mac() == UNKNOWN_MAC:
            macnat.set_timing()
        macnat._list_listeners()  # an earlier version had no such list
    except BaseException:
        loaded.close()
        raise
    return macnat


def _hint(error: BpfError) -> str:
    if error.errno == errno.EPERM:
        return "it takes the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    return "it takes Linux 6.1 or later with CONFIG_NET_CLS_BPF and CONFIG_DEBUG_INFO_BTF"

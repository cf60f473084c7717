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
import os
import struct
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from pyroute2 import AsyncIPRoute

from ..errors import Problem, reason
from . import clsact
from .addresses import Address, Subnet
from .clsact import EGRESS, INGRESS, Hook
from .libbpf import BpfError, NoLibbpf, Object, Program, Ring, is_bpffs, program_by_id
from .links import IPVLAN_MODES
from .tracing import Tracer

log = logging.getLogger(__name__)

PIN_ROOT = Path("/sys/fs/bpf/airtap")
ALIVE_S = 300.0
REFRESH_S = 1.0
IPV4_QUOTA, IPV6_QUOTA, GUESTS, PREFIXES = 16, 32, 1024, 32  # of macnat.bpf.c
UNKNOWN_MAC = "00:00:00:00:00:00"

# Each program's place. On a device that carries several, the lower number comes first.
_HOOKS = {
    "learn": Hook(EGRESS, 0xA1, "airtap_learn"),
    "call": Hook(EGRESS, 0xA2, "airtap_call"),
    "meet": Hook(EGRESS, 0xA2, "airtap_meet"),
    "up": Hook(EGRESS, 0xA3, "airtap_up"),
    "across": Hook(EGRESS, 0xA4, "airtap_across"),
    "down": Hook(INGRESS, 0xA1, "airtap_down"),
}
_KINDS = ("macvtap", "ipvtap")
# What MAC NAT has on the uplink and its children, by the children's kind.
PARENT = {"macvtap": ("up", "down"), "ipvtap": ("down",)}
CHILD = {"macvtap": ("learn",), "ipvtap": ("learn", "up", "across")}

# Structures of macnat.bpf.c, in the host's byte order. A MAC is followed by two bytes of padding.
_INDEX = struct.Struct("=I")
_MAC = struct.Struct("=6s2x")
_CONFIG = struct.Struct("=6s2xIIQQII")
_KEY = struct.Struct("=16sHH")
_ENTRY = struct.Struct("=QQII6s2x")
_TABLE = struct.Struct("=8x8xQ5QQQQQ")
_PREFIX = struct.Struct("=16s16sI")
_STATISTICS = struct.Struct("=QQ")
_EVENT = struct.Struct("=Q16sHHII6s2xBB2x")
_SKB = struct.Struct("=48xI140x")  # struct __sk_buff with its cb[0]
_FIRST = _INDEX.pack(0)
_NS = 1_000_000_000
_CLOCK_MONOTONIC_COARSE = 6  # include/uapi/linux/time.h

_CHANGES = ("learned", "moved", "evicted", "refused", "withheld", "spoke", "probed")
_REASONS = ("wrong-mac", "host-address", "guest-address", "malformed", "link-control")


class _Configuration(NamedTuple):
    """struct config of macnat.bpf.c."""

    parent: bytes
    ifindex: int
    observe: int
    alive: int
    refresh: int
    kind: int
    mode: int


@dataclass(frozen=True)
class Learned:
    """An address that a guest has used. vlan: 0 for none. last_seen: s, time.monotonic()."""

    address: Address
    vlan: int
    ifindex: int
    mac: str
    last_seen: float


@dataclass(frozen=True)
class Event:
    """What learn did, as it happened. Times are in s of time.monotonic().

    what: "learned"; "moved" (learned, from the guest with ifindex other, which has not used it
    for config.alive); "evicted" (the guest went over its quota; this was unused for longest);
    "refused" (dropped, see reason; at most 8 a second and guest); "withheld" (more than 64
    changes in this second: those that follow are not reported, so read addresses() a second later);
    "spoke" (an ipvtap's guest whose MAC was not known: mac is its own, and noted in guests());
    "probed" (the guest has asked whether an address is free that nobody here is known to have).
    reason: of a refusal, a field of GuestCounters. "guest-address": other holds the address; if
    it is found not to answer for it any more, forget() the address.
    address: None where none is at stake. mac: source address of the frame.
    """

    what: str
    reason: str
    ifindex: int
    other: int
    address: Address | None
    vlan: int
    mac: str
    time: float


@dataclass(frozen=True)
class GuestCounters:
    """Frames of one guest that the guards dropped, by guard, and what became of its addresses.

    last_seen: s of time.monotonic() when an address of the guest's was last seen in use; 0 for
    never. unreported: events withheld or lost.
    """

    wrong_mac: int
    host_address: int
    guest_address: int
    malformed: int
    link_control: int
    learned: int
    moved: int
    evicted: int
    unreported: int
    last_seen: float


@dataclass(frozen=True)
class UplinkCounters:
    """Frames dropped at the uplink.

    echoes: ARP and ND that say of an address that it is at the uplink's own MAC. malformed: could
    not be translated whole.
    """

    echoes: int
    malformed: int


@dataclass(frozen=True)
class Role:
    """What the programs are there for at one uplink.

    kind: of its children, macvtap or ipvtap. translate: MAC NAT; on macvtaps, without it, learn
    only listens. host_access: the host and its guests meet.
    """

    kind: str
    translate: bool = True
    host_access: bool = False

    @property
    def observes(self) -> bool:
        """Whether learn only listens."""
        return self.kind == "macvtap" and not self.translate

    @property
    def on_parent(self) -> tuple[str, ...]:
        """The programs that the uplink carries."""
        own = () if self.observes else PARENT[self.kind]
        return ("meet", *own) if self.host_access else own

    @property
    def on_child(self) -> tuple[str, ...]:
        """The programs that each child carries."""
        first, *rest = CHILD[self.kind]
        called = ("call",) if self.host_access and self.kind == "ipvtap" else ()
        return (first, *called, *rest)


def pin_directory(ifindex: int, root: Path = PIN_ROOT) -> Path:
    """Where the maps of the uplink with this ifindex, in our network namespace, are pinned."""
    return root / f"{os.stat('/proc/self/ns/net').st_ino}-{ifindex}"


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
        self._tables = loaded.map("tables")
        self._addresses = loaded.map("addresses")
        self._statistics = loaded.map("statistics")
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
        """One of learn, up, across, down, meet, call and tell."""
        return self._object.program(name)

    def set_timing(self, alive: float = ALIVE_S, refresh: float = REFRESH_S) -> None:
        """Set for how many seconds an unused address is still its guest's, and how often its use
        is noted."""
        # That clock's resolution is a jiffy (kernel/time/posix-timers.c: posix_get_coarse_res).
        jiffies = int(refresh / time.clock_getres(_CLOCK_MONOTONIC_COARSE))
        self._configure(alive=int(alive * _NS), refresh=jiffies)

    def set_role(self, role: Role, mode: str | None) -> None:
        """Set what this is for. Call this before attaching.

        mode: how ipvtap children see each other, "bridge", "private" or "vepa"; any other leaves
        it as it is. Macvtaps' driver sees to theirs.
        """
        changes = {"kind": _KINDS.index(role.kind), "observe": int(role.observes)}
        if mode in IPVLAN_MODES:
            changes["mode"] = IPVLAN_MODES.index(mode)
        self._configure(**changes)
        self._role = role

    def kind(self) -> str:
        """Of the children, by set_role(); what an earlier daemon has set counts."""
        return _KINDS[self._read_config().kind]

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
        self._configure(parent=_octets(mac), ifindex=ifindex)

    def note(self, text: str) -> None:
        """Keep a text beside what is learned; one that is too long (2 KB) is not kept."""
        octets = text.encode()
        if len(octets) < self._note.value_size:
            self._note.update(_FIRST, octets.ljust(self._note.value_size, b"\0"))

    def noted(self) -> str:
        """What note() has kept, "" at first."""
        return (self._note.lookup(_FIRST) or b"").rstrip(b"\0").decode(errors="replace")

    def host_addresses(self) -> set[Address]:
        """The addresses that set_host_addresses() set."""
        return {address for key, _ in self._hosts.items() if (address := _decode(key)[0])}

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
            self._hosts.update(_key(address, 0), _INDEX.pack(1))
        # After that: learn looks again behind its back, see remember() in macnat.bpf.c.
        taken = [entry for entry in self.addresses() if entry.address in new]
        for entry in taken:
            self.forget(entry.address, entry.vlan)
        for address in old - new:
            self._hosts.delete(_key(address, 0))
        self._set_broadcasts(set(broadcasts))
        return taken

    def set_on_link(self, prefixes: Collection[Subnet]) -> None:
        """Set what the host reaches on the uplink without a router: the first PREFIXES of these.

        Of the rest the host's packets go to the wire, also those that are for guests.
        """
        chosen = sorted(prefixes, key=lambda net: (not net.is_link_local, net.prefixlen, str(net)))
        if len(chosen) > PREFIXES:
            log.warning(
                "host access: %d routes are too many, the last: %s", len(chosen), chosen[-1]
            )
        packed = b"".join(
            _PREFIX.pack(net.network_address.packed, net.netmask.packed, net.version)
            for net in chosen[:PREFIXES]
        )
        self._on_links.update(_FIRST, packed.ljust(self._on_links.value_size, b"\0"))

    def guests(self) -> dict[int, str]:
        """The devices added and not removed: ifindex to MAC."""
        return {_INDEX.unpack(k)[0]: _MAC.unpack(v)[0].hex(":") for k, v in self._guests.items()}

    def add_guest(self, ifindex: int, mac: str | None) -> None:
        """Announce a guest's device, or its new MAC. Call this before attach_child().

        mac: None while it is not known: the guards hold, whatever the MAC, and nothing is learned.
        Raises BpfError (E2BIG: there are GUESTS already).
        """
        key = _INDEX.pack(ifindex)
        new = self._tables.insert(key, bytes(self._tables.value_size))
        self._guests.update(key, _MAC.pack(_octets(mac or UNKNOWN_MAC)))
        if not new:
            self._set_mac_of_addresses(ifindex, mac)

    def remove_guest(self, ifindex: int) -> list[Learned]:
        """Forget a guest and return the addresses it had. Not there: success.

        Where learn is still attached, everything that the guest sends is dropped from now on.
        """
        key = _INDEX.pack(ifindex)
        self._guests.delete(key)
        self._tables.delete(key)
        held = [entry for entry in self.addresses() if entry.ifindex == ifindex]
        for entry in held:
            self.forget(entry.address, entry.vlan)
        return held

    def meeting(self) -> dict[str, int]:
        """The guests that the host may meet: MAC to ifindex."""
        return {_MAC.unpack(k)[0].hex(":"): _INDEX.unpack(v)[0] for k, v in self._macs.items()}

    def met_at(self, mac: str) -> int:
        """The ifindex of the guest that the host meets at a MAC; 0 for none."""
        value = self._macs.lookup(_MAC.pack(_octets(mac)))
        return _INDEX.unpack(value)[0] if value else 0

    def introduce(self, mac: str, ifindex: int) -> None:
        """Have the host meet the guest of a device at its MAC."""
        self._macs.update(_MAC.pack(_octets(mac)), _INDEX.pack(ifindex))

    def part(self, mac: str) -> None:
        """Have the host meet nobody at a MAC. Not there: success."""
        self._macs.delete(_MAC.pack(_octets(mac)))

    def give_back(self, ifindex: int, mac: str, former: Collection[Learned]) -> None:
        """Have a guest hold what it has held on another device, as if seen in use just now.

        Not what is somebody's by now. The entries are no part of its quota: they have no slot.
        """
        hosts = self.host_addresses() if former else set()
        entry = _ENTRY.pack(0, int(now() * _NS), ifindex, IPV4_QUOTA + IPV6_QUOTA, _octets(mac))
        for held in former:
            if held.address not in hosts:
                self._addresses.insert(_key(held.address, held.vlan), entry)

    def addresses(self) -> list[Learned]:
        """All learned addresses."""
        entries = (_learned(key, value) for key, value in self._addresses.items())
        return [entry for entry in entries if entry is not None]

    def find(self, address: Address, vlan: int = 0) -> Learned | None:
        """Who holds an address."""
        key = _key(address, vlan)
        value = self._addresses.lookup(key)
        return None if value is None else _learned(key, value)

    def forget(self, address: Address, vlan: int = 0) -> None:
        """Delete a learned address; whoever uses it next has it. Not there: success."""
        self._addresses.delete(_key(address, vlan))

    def tell(self, ifindex: int, frame: bytes) -> None:
        """Have a guest receive a frame of ours. A guest that is gone or down: success."""
        self.program("tell").test_run(frame, _SKB.pack(ifindex))

    def counters(self) -> dict[int, GuestCounters]:
        """Each guest's counters, by ifindex."""
        return {_INDEX.unpack(k)[0]: _guest_counters(v) for k, v in self._tables.items()}

    def uplink_counters(self) -> UplinkCounters:
        value = self._statistics.lookup(_FIRST) or bytes(_STATISTICS.size)
        return UplinkCounters(*_STATISTICS.unpack(value))

    def watch(self, on_event: Callable[[Event], None]) -> int:
        """Open the events. Returns a descriptor, to be given to loop.add_reader with consume().

        Events that no one has read, of an earlier daemon's time too, come first. The descriptor
        is ours and lasts until unwatch() or close().
        """
        self.unwatch()
        self._ring = Ring(self._events, lambda sample: on_event(_event(sample)))
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
                await clsact.attach(ipr, ifindex, _HOOKS[name], self.program(name).fd)

    async def is_attached(
        self, ipr: AsyncIPRoute, ifindex: int, names: Collection[str] = PARENT["macvtap"]
    ) -> bool:
        """Whether these very programs are on a device: same instructions, and on our maps.

        False for those of an earlier daemon that we may not ask about: they are replaced, once.
        Raises LinkNotFound, LinkError.
        """
        for name in names:
            number = await clsact.attached(ipr, ifindex, _HOOKS[name])
            ours = self.program(name).info()
            if number == ours.id:
                continue
            there = program_by_id(number) if number else None
            if there is None or (there.tag, there.map_ids) != (ours.tag, ours.map_ids):
                return False
        return True

    def _read_config(self) -> _Configuration:
        return _Configuration._make(
            _CONFIG.unpack(self._config.lookup(_FIRST) or bytes(_CONFIG.size))
        )

    def _configure(self, **changes: bytes | int) -> None:
        new = self._read_config()._replace(**changes)  # type: ignore[arg-type]
        self._config.update(_FIRST, _CONFIG.pack(*new))

    def _set_mac_of_addresses(self, guest: int, mac: str | None) -> None:
        for key, value in self._addresses.items():
            *rest, ifindex, slot, old = _ENTRY.unpack(value)
            if ifindex != guest:
                continue
            if mac is None:
                self._addresses.delete(key)
            elif old != _octets(mac):
                self._addresses.replace(key, _ENTRY.pack(*rest, ifindex, slot, _octets(mac)))

    def _set_broadcasts(self, new: set[IPv4Address]) -> None:
        entry = _ENTRY.pack(0, 0, 0, 0, b"\xff" * 6)
        wanted = {_key(address, 0) for address in new}
        for key, value in self._addresses.items():
            if not _ENTRY.unpack(value)[2] and key not in wanted:
                self._addresses.delete(key)
        for key in wanted:
            self._addresses.update(key, entry)


def open_macnat(directory: Path | None) -> Macnat:
    """Load the programs, on the maps that are pinned in directory, or on new ones pinned there.

    directory: of pin_directory(); None to pin nothing. Pins whose layout is another version's are
    replaced: addresses are then learned anew. Raises Problem no-macnat, saying what is missing.
    """
    try:
        if directory is not None:
            _make_directory(directory)
        content = (resources.files("airtap") / "bpf/macnat.bpf.o").read_bytes()
        return _load(content, directory)
    except FileNotFoundError as exc:
        raise Problem("no-macnat", f"{exc.filename} is not there", "install airtap anew") from exc
    except OSError as exc:
        raise Problem("no-macnat", f"cannot use {exc.filename}: {reason(exc)}") from exc
    except NoLibbpf as exc:
        hint = "install libbpf 1.0 or later (Debian: libbpf1)"
        raise Problem("no-macnat", f"no usable libbpf.so.1: {exc}", hint) from exc
    except BpfError as exc:
        raise Problem("no-macnat", f"the kernel takes no MAC NAT: {exc}", _hint(exc)) from exc


async def detach(ipr: AsyncIPRoute, ifindex: int, keep: Collection[str] = ()) -> None:
    """Take programs off a device, parent or child, of whichever version. Not there: success.

    keep: names of those that stay; without any, the clsact goes too unless a filter that is not
    ours is on it. Raises LinkError.
    """
    await clsact.detach(ipr, ifindex, [hook for name, hook in _HOOKS.items() if name not in keep])


def hooks(names: Collection[str]) -> list[Hook]:
    """Where the programs of those names (Role.on_parent, on_child) are attached."""
    return [_HOOKS[name] for name in names]


def _make_directory(directory: Path) -> None:
    existing = next(path for path in directory.parents if path.exists())
    if not is_bpffs(existing):
        raise Problem(
            "no-macnat",
            f"{existing} is in no BPF file system",
            "mount -t bpf bpf /sys/fs/bpf",
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _load(content: bytes, directory: Path | None) -> Macnat:
    try:
        return _load_once(content, directory)
    except BpfError as exc:
        # libbpf.c: bpf_object__reuse_map
        if directory is None or "parameter mismatch" not in exc.text:
            raise
        log.warning("%s is of another version of airtap: addresses are learned anew", directory)
    remove_pins(directory)
    directory.mkdir(mode=0o700)
    return _load_once(content, directory)


def _load_once(content: bytes, directory: Path | None) -> Macnat:
    loaded = Object(content, "macnat")
    try:
        if directory is not None:
            loaded.pin_maps(directory)
        loaded.load()
        macnat = Macnat(loaded, directory)
        macnat.tracer.clear()
        if macnat.parent_mac() == UNKNOWN_MAC:
            macnat.set_timing()
        return macnat
    except BaseException:
        loaded.close()
        raise


def _hint(error: BpfError) -> str:
    if error.errno == errno.EPERM:
        return "it takes the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    return "it takes Linux 6.1 or later with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF"


def remove_pins(directory: Path) -> None:
    """Remove an uplink's pinned maps. Not there: success. Raises OSError."""
    with suppress(FileNotFoundError):
        for pin in directory.iterdir():
            pin.unlink(missing_ok=True)
        directory.rmdir()


def pinned(root: Path = PIN_ROOT) -> Iterator[tuple[int, Path]]:
    """(ifindex, directory) of each uplink of our network namespace that has pins."""
    with suppress(FileNotFoundError):
        for path in root.iterdir():
            _, _, ifindex = path.name.partition("-")
            if ifindex.isdecimal() and path == pin_directory(int(ifindex), root):
                yield int(ifindex), path


def now() -> float:
    """The clock of every time here: s of CLOCK_MONOTONIC."""
    return time.monotonic()


def _key(address: Address, vlan: int) -> bytes:
    return _KEY.pack(address.packed, vlan, address.version)


def _decode(key: bytes) -> tuple[Address | None, int]:
    octets, vlan, family = _KEY.unpack(key)
    if family == 4:
        return IPv4Address(octets[:4]), vlan
    return (IPv6Address(octets) if family == 6 else None), vlan


def _learned(key: bytes, value: bytes) -> Learned | None:
    """An entry of addresses; None for a broadcast address, which is nobody's."""
    address, vlan = _decode(key)
    _settled, last_seen, ifindex, _slot, mac = _ENTRY.unpack(value)
    if not ifindex or address is None:
        return None
    return Learned(address, vlan, ifindex, mac.hex(":"), last_seen / _NS)


def _octets(mac: str) -> bytes:
    octets = bytes.fromhex(mac.replace(":", ""))
    if len(octets) != 6:
        raise ValueError(f"not a MAC address: {mac}")
    return octets


def _guest_counters(value: bytes) -> GuestCounters:
    last_seen, *numbers = _TABLE.unpack_from(value)
    fields = (*numbers, last_seen / _NS)
    return GuestCounters(*fields)


def _event(sample: bytes) -> Event:
    nanoseconds, octets, vlan, family, ifindex, other, mac, what, why = _EVENT.unpack_from(sample)
    address, vlan = _decode(_KEY.pack(octets, vlan, family))
    return Event(
        what=_CHANGES[what],
        reason=_REASONS[why] if _CHANGES[what] == "refused" else "",
        ifindex=ifindex,
        other=other,
        address=address,
        vlan=vlan,
        mac=mac.hex(":"),
        time=nanoseconds / _NS,
    )

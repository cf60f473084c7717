"""Records of the maps and events of the programs: structures of abi.h, to and from bytes.

All are in the host's byte order. A MAC is followed by two bytes of padding.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from ..kernel.addresses import Address, Prefix, Subnet
from ..names import octets
from ..refusals import Refusal

IPV4_QUOTA, IPV6_QUOTA, GUESTS, PREFIXES, ROUTES, BEHIND = 16, 32, 1024, 32, 16384, 1024  # of abi.h
UNTAGGED, TAGGED = 1, 2  # enum elsewhere
IN_USE, TENTATIVE, GATEWAY = 1, 2, 3  # of abi.h
PROBES = 8
UNKNOWN_MAC = "00:00:00:00:00:00"
NS = 1_000_000_000

_INDEX = struct.Struct("=I")
_MAC = struct.Struct("=6s2x")
_CONFIG = struct.Struct("=6s2xIIQQIHH")
_KEY = struct.Struct("=16sHH")
_ENTRY = struct.Struct("=QQII6s2x")
_TABLE = struct.Struct("=8x8xQ5QQQQQ")
_BEARER = struct.Struct("=Q16sHHI")
_PREFIX = struct.Struct("=16s16sI")
_ROUTE = struct.Struct("=II16s")
_DHCP = struct.Struct("=QIIIIII")
_BEHIND = struct.Struct("=6s2xI")
_EVENT = struct.Struct("=Q16sHHII6s2xBB2x")

_PROBES = range(0, PROBES * _KEY.size, _KEY.size)  # where the keys of a struct probes are
_CHANGES = (
    *("learned", "moved", "evicted", "refused", "suppressed", "mac-learned", "probed"),
    *("mac-seen", "arrived"),
)
_REASONS = [refusal.key.replace("_", "-") for refusal in Refusal]


class Configuration(NamedTuple):
    """struct config."""

    parent: bytes = bytes(6)
    ifindex: int = 0
    observe: int = 0
    alive: int = 0
    refresh: int = 0
    kind: int = 0
    mode: int = 0
    behind: int = 0

    def pack(self) -> bytes:
        return _CONFIG.pack(*self)

    @classmethod
    def unpack(cls, value: bytes) -> "Configuration":
        return cls._make(_CONFIG.unpack(value))


class Entry(NamedTuple):
    """struct entry: who has an address.

    fresh_until: jiffies, up to which its use need not be noted.
    last_seen: ns of time.monotonic_ns().
    ifindex: the guest's device, or 0 if nobody has it: it is a broadcast address.
    """

    fresh_until: int
    last_seen: int
    ifindex: int
    slot: int
    mac: bytes

    def pack(self) -> bytes:
        return _ENTRY.pack(*self)

    @classmethod
    def unpack(cls, value: bytes) -> "Entry":
        return cls._make(_ENTRY.unpack(value))


class Bearer(NamedTuple):
    """struct bearer: who bears a MAC.

    last_seen: when the LAN was seen to use it, in ns of time.monotonic_ns(); 0 for never.
    key: the address from which that was, for unpack_key().
    ifindex: the guest's device, 0 for nobody's any more.
    """

    last_seen: int = 0
    key: bytes = bytes(20)
    ifindex: int = 0

    def pack(self) -> bytes:
        return _BEARER.pack(self.last_seen, *_KEY.unpack(self.key), self.ifindex)

    @classmethod
    def unpack(cls, value: bytes) -> "Bearer":
        last_seen, *key, ifindex = _BEARER.unpack(value)
        return cls(last_seen, _KEY.pack(*key), ifindex)


# What DhcpTable.choose() takes; none at first.
DHCP_CHOICES = ("", "auto", "keep", "uplink")


class Dhcp(NamedTuple):
    """struct dhcp: how guests ask for leases.

    unanswered: requests since the last answer.
    choice: of DHCP_CHOICES.
    hosts_address: answers with an address of the host's, since the last with another.
    """

    since: int = 0
    unanswered: int = 0
    in_uplinks_name: int = 0
    settled: int = 0
    choice: int = 0
    tried: int = 0
    hosts_address: int = 0

    def pack(self) -> bytes:
        return _DHCP.pack(*self)

    @classmethod
    def unpack(cls, value: bytes) -> "Dhcp":
        return cls._make(_DHCP.unpack(value))


@dataclass(frozen=True)
class Learned:
    """An address that a guest has used.

    vlan: 0 for none.
    last_seen: s of time.monotonic().
    """

    address: Address
    vlan: int
    ifindex: int
    mac: str
    last_seen: float


@dataclass(frozen=True)
class Event:
    """What from_guest and from_uplink did, at the time when it happened, in s of time.monotonic().

    what: "learned"; "moved" (learned, from the guest with ifindex other, which has not used it
    for config.alive); "evicted" (the guest went over its quota; this was unused for longest);
    "refused" (dropped, see reason; at most 8 a second and guest); "suppressed" (more than 64
    changes in this second: those that follow are not reported, so read addresses() a second later);
    "mac-learned" (of an ipvtap's guest, not known before: mac is its own, and noted in guests());
    "probed" (the guest has asked whether an address is free that nobody here is known to have, or
    was offered one by a DHCP server);
    "mac-seen" (from_uplink, at most once a second: the LAN uses the MAC of the guest's device; the
    address is one that it used last, if any); "arrived" (the guest has sent RARP: QEMU says so that
    it is here now, restored or migrated).
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

    unreported: how many events were suppressed or lost.
    last_seen: s of time.monotonic() when an address of the guest's was last seen in use; 0 for
    never.
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


def pack_index(number: int) -> bytes:
    """Pack an ifindex, or another number of 32 bits."""
    return _INDEX.pack(number)


def unpack_index(data: bytes) -> int:
    return int(_INDEX.unpack(data)[0])


def pack_mac(mac: str) -> bytes:
    return _MAC.pack(octets(mac))


def unpack_mac(data: bytes) -> str:
    return bytes(_MAC.unpack(data)[0]).hex(":")


def pack_key(address: Address, vlan: int = 0) -> bytes:
    """Pack a struct key. vlan: 0 for none."""
    return _KEY.pack(address.packed, vlan, address.version)


def unpack_key(key: bytes) -> tuple[Address | None, int]:
    """Read (address, vlan) from a struct key. The address of neither family is None."""
    packed, vlan, family = _KEY.unpack(key)
    if family == 4:
        return IPv4Address(packed[:4]), vlan
    return (IPv6Address(packed) if family == 6 else None), vlan


def unpack_probes(value: bytes) -> list[tuple[Address, int]]:
    """Read a struct probes: each address with its VLAN."""
    keys = [unpack_key(value[at : at + _KEY.size]) for at in _PROBES]
    return [(address, vlan) for address, vlan in keys if address is not None]


def without_probe(value: bytes, address: Address, vlan: int) -> bytes:
    """Return a struct probes without this address and VLAN."""
    gone = pack_key(address, vlan)
    keys = [value[at : at + _KEY.size] for at in _PROBES]
    kept = [bytes(_KEY.size) if key == gone else key for key in keys]
    return b"".join(kept) + value[_PROBES.stop :]


def pack_listeners(devices: Collection[bytes]) -> bytes:
    """Pack a struct listeners, without its empty places. devices: at most GUESTS, packed."""
    return b"".join((pack_index(len(devices)), *devices))


def pack_prefixes(prefixes: Collection[Subnet]) -> bytes:
    """Pack a struct on_link, without its empty places. prefixes: at most PREFIXES."""
    return b"".join(
        _PREFIX.pack(net.network_address.packed, net.netmask.packed, net.version)
        for net in prefixes
    )


def pack_route(prefix: Prefix) -> bytes:
    """Pack a struct route."""
    version, length, bits = prefix
    return _ROUTE.pack(32 + length, version, bits.to_bytes(4 if version == 4 else 16))


def pack_behind(mac: str, alone: bool) -> bytes:
    """Pack a struct behind."""
    return _BEHIND.pack(octets(mac), alone)


def unpack_behind(value: bytes) -> str:
    """Read the MAC of a struct behind."""
    return bytes(_BEHIND.unpack(value)[0]).hex(":")


def unpack_bits(route: bytes) -> int:
    """Read how long the prefix of a struct route is; the longer, the more."""
    return int(_ROUTE.unpack(route)[0])


def unpack_learned(key: bytes, value: bytes) -> Learned | None:
    """Read a key and an entry of addresses. None for a broadcast address, which is nobody's."""
    address, vlan = unpack_key(key)
    entry = Entry.unpack(value)
    if not entry.ifindex or address is None:
        return None
    return Learned(address, vlan, entry.ifindex, entry.mac.hex(":"), entry.last_seen / NS)


def unpack_counters(value: bytes) -> GuestCounters:
    """Read the head of a struct table."""
    last_seen, *numbers = _TABLE.unpack_from(value)
    fields = (*numbers, last_seen / NS)
    return GuestCounters(*fields)


def unpack_event(sample: bytes) -> Event:
    """Read a struct event."""
    nanoseconds, packed, vlan, family, ifindex, other, mac, what, why = _EVENT.unpack_from(sample)
    address, vlan = unpack_key(_KEY.pack(packed, vlan, family))
    return Event(
        what=_CHANGES[what],
        reason=_REASONS[why] if _CHANGES[what] == "refused" else "",
        ifindex=ifindex,
        other=other,
        address=address,
        vlan=vlan,
        mac=mac.hex(":"),
        time=nanoseconds / NS,
    )

"""What became of a guest's frames, in words, from the records of the programs they passed.

A frame that a guest sends passes several programs, each of which gives a record: a chain. The frame
that one program left is the frame that the next one found, by which chains are put together. A
chain is told when no more can come, or when a moment has passed without more.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ..bpf.trace_record import DROP, EVERYONE, NOBODY, PASS, REDIRECT, Record
from ..packet.ethernet import ETH_P_ARP, ETH_P_IP, ETH_P_IPV6
from ..refusals import Refusal
from .describe import dhcp_flags, in_words, layer3, mac, nd_message

# Bits of record.said: enum what and SAID_* of abi.h.
LEARNED, MOVED, EVICTED, REFUSED, SUPPRESSED, MAC_LEARNED, PROBED, MAC_SEEN, ARRIVED = (
    1 << n for n in range(9)
)
WITHHELD, COPIED, CONFIGURES = 1 << 13, 1 << 14, 1 << 15

_REFUSED_BY = {
    "to_uplink": "refused: ARP, ND or DHCP that cannot be translated whole",
    "to_sibling": "refused: siblings are kept apart here (mode private)",
}
# ns after which no more is expected of a frame: its programs run within microseconds.
_COMPLETE_NS = 200_000_000
_OPEN = 64


@dataclass(frozen=True)
class Setting:
    """What is traced: a guest's device and MAC, and what is on at its uplink."""

    device: str
    mac: str | None
    uplink: str
    uplink_mac: str
    kind: str
    macnat: bool
    host_access: bool
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """What became of one frame.

    time: ns of CLOCK_MONOTONIC.
    records: those of the programs that it passed, in their order.
    refused: whether it ended there.
    """

    time: int
    direction: str
    what: str
    done: tuple[str, ...]
    refused: bool
    records: tuple[Record, ...]


class Correlator:
    """Puts the records of one frame together, and tells what became of it.

    lossy: whether records were lost of late, so that one that is missing says nothing.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.lossy = False
        self._addresses = set(setting.addresses)
        self._chains: list[list[Record]] = []

    def feed(self, record: Record) -> Iterator[Line]:
        """Take a record, in the order in which they come, and give the frames of which all is
        known."""
        if record.name == "from_uplink":
            yield from self._from_lan(record)
        elif record.name == "uplink_egress" and mac(record.before[6:12]) == self.setting.uplink_mac:
            if record.whose != NOBODY or mac(record.before[:6]) == self.setting.mac:
                yield _line([record], "host -> guest", _from_host(record, self.setting))
        else:
            yield from self._from_guest(record)

    def flush(self, now: int) -> Iterator[Line]:
        """Give the frames of which nothing more has come. now: ns of CLOCK_MONOTONIC."""
        while self._chains and now - self._chains[0][-1].time > _COMPLETE_NS:
            yield self._told(self._chains.pop(0))

    def _from_guest(self, record: Record) -> Iterator[Line]:
        chain = next((chain for chain in self._chains if _follows(record, chain[-1])), None)
        if chain is None:
            if self._is_siblings(record):
                yield _line([record], "sibling -> guest", changes(record, record))
                return
            if record.name == "from_guest" or len(self._chains) >= _OPEN:
                while self._chains:  # one guest's frames come one by one
                    yield self._told(self._chains.pop(0))
            chain = []
            self._chains.append(chain)
        chain.append(record)
        if self._is_complete(record):
            self._chains.remove(chain)
            yield self._told(chain)

    def _is_siblings(self, record: Record) -> bool:
        """Whether to_sibling takes a frame of a sibling's to the guest."""
        own = mac(record.after[:6]) == self.setting.mac
        return record.name == "to_sibling" and record.verdict == REDIRECT and own

    def _is_complete(self, record: Record) -> bool:
        last = "to_sibling" if self.setting.kind == "ipvtap" else "to_uplink"
        return record.verdict != PASS or record.name == last

    def _told(self, chain: Sequence[Record]) -> Line:
        done = [text for record in chain for text in _noted(record)]
        done += changes(chain[0], chain[-1])
        direction, more = self._end_of(chain)
        learnt = [record for record in chain if record.said & (LEARNED | MOVED)]
        self._addresses |= {_address(record.key, record.key_family) for record in learnt}
        return _line(chain, direction, [*done, *more] or ["passes unchanged"])

    def _end_of(self, records: Sequence[Record]) -> tuple[str, list[str]]:
        """Return where a frame of the guest's goes, and what else is to say of it."""
        last = records[-1]
        if last.verdict == DROP:
            return "guest -> LAN", _why_dropped(last)
        if last.verdict == REDIRECT:
            receiver = "sibling" if last.name == "to_sibling" else "host"
            return f"guest -> {receiver}", [f"handed to the {receiver}"]
        is_group = bool(last.after[0] & 1)
        reaches_uplink = last.name == "to_uplink" or self.setting.kind == "ipvtap"
        if self.setting.macnat and not reaches_uplink and self.lossy:
            return "guest -> LAN", ["what became of it is lost"]
        if self.setting.macnat and not reaches_uplink and not is_group:
            return "guest -> sibling", ["did not come by the uplink: to a sibling, if to anybody"]
        return "guest -> LAN", []

    def _from_lan(self, record: Record) -> Iterator[Line]:
        if record.verdict == DROP:
            if sender_address(record.before) in self._addresses:
                yield _line([record], "LAN -> guest", ["dropped: an echo of what this guest sent"])
        elif record.whose == NOBODY:
            done = [*changes(record, record), "no guest has that address: to the host"]
            yield _line([record], "LAN -> host", done)
        else:
            delivered = "to all guests" if record.whose == EVERYONE else "delivered to the guest"
            yield _line([record], "LAN -> guest", [*changes(record, record), delivered])


def _follows(record: Record, last: Record) -> bool:
    is_later = record.program > last.program
    same_length = record.before_length == last.after_length
    return is_later and same_length and record.before == last.after


def _line(chain: Sequence[Record], direction: str, done: Sequence[str]) -> Line:
    first, refused = chain[0], chain[-1].verdict == DROP
    what = in_words(first.before, _tag(first))
    return Line(first.time, direction, what, tuple(done), refused, tuple(chain))


def _from_host(record: Record, setting: Setting) -> list[str]:
    if record.verdict == REDIRECT:
        return ["delivered to the guest"]
    if record.said & COPIED:
        return ["a copy to each guest"]
    return [f"not for an address that {setting.device} has on this link: to the LAN"]


def _noted(record: Record) -> Iterator[str]:
    """What from_guest and host access said of a frame."""
    address = _address(record.key, record.key_family)
    if record.said & MAC_LEARNED:
        yield f"the guest's MAC is {mac(record.before[6:12])}"
    if record.said & LEARNED:
        yield f"learned {address}"
    if record.said & MOVED:
        yield f"learned {address}, another guest's before, who was silent"
    if record.said & EVICTED:
        yield f"forgot {_address(record.evicted, record.evicted_family)}: too many addresses"
    if record.said & PROBED:
        yield f"nobody here has {address} yet"
    if record.said & ARRIVED:
        yield "the guest has come here: it is asked for its addresses"
    yield from _to_host(record)


def _to_host(record: Record) -> Iterator[str]:
    """What the host has of a guest's frame."""
    if record.said & COPIED:
        yield "a copy to the host"
    if record.said & CONFIGURES and record.verdict == PASS:
        yield "not for the host, which it would configure"
    if record.said & WITHHELD and record.verdict == PASS:
        yield "not for the host"
    if record.said & REFUSED and record.verdict != DROP:
        yield f"hidden from the host: {_reason(record)}"


def _why_dropped(record: Record) -> list[str]:
    if record.said & REFUSED:
        return [f"refused: {_reason(record)}"]
    if record.said & CONFIGURES:
        return ["refused: it would configure the host"]
    if record.said & WITHHELD:
        return ["refused: for no sibling, and not for the host"]
    return [_REFUSED_BY.get(record.name, "refused")]


def _reason(record: Record) -> str:
    """enum reason of abi.h, in words."""
    address = _address(record.key, record.key_family)
    wrong_mac = f"source MAC {mac(record.before[6:12])} is not the guest's"
    reasons: dict[int, str] = {
        # Of DHCP the address was looked at before.
        Refusal.WRONG_MAC: "in the name of the uplink's MAC" if record.key_family else wrong_mac,
        Refusal.HOST_ADDRESS: f"{address} is an address of the host, a gateway or the LAN's"
        " broadcast, or routed elsewhere",
        Refusal.GUEST_ADDRESS: f"{address} is another guest's",
        Refusal.MALFORMED: "malformed",
        Refusal.LINK_CONTROL: "it speaks for the link itself",
    }
    return reasons.get(record.reason, "for an unknown reason")


def changes(first: Record, last: Record) -> list[str]:
    """Say what the programs changed in a frame, from before the first to after the last of them."""
    if last.verdict == DROP:
        return []
    return [*_mac_changes(first.before, last.after), *_inner_changes(first.before, last.after)]


def _mac_changes(before: bytes, after: bytes) -> Iterator[str]:
    for name, start in (("source", 6), ("destination", 0)):
        old, new = before[start : start + 6], after[start : start + 6]
        if old != new:
            yield f"{name} MAC {mac(old)} -> {mac(new)}"


def _inner_changes(before: bytes, after: bytes) -> Iterator[str]:
    kind, at = layer3(before)
    if kind == ETH_P_ARP:
        if before[at + 8 : at + 14] != after[at + 8 : at + 14]:
            yield "ARP sender rewritten"
        if before[at + 18 : at + 24] != after[at + 18 : at + 24]:
            yield "ARP target rewritten"
    elif kind == ETH_P_IP:
        if dhcp_flags(before, at) != dhcp_flags(after, at):
            yield "DHCP broadcast flag set"
    elif kind == ETH_P_IPV6:
        nd = nd_message(before, at)
        if nd is not None and before[nd + 4 :] != after[nd + 4 :]:
            yield "ND link-layer option rewritten"


def sender_address(frame: bytes) -> str:
    """Return the address from which a frame of ARP or IPv6 speaks; "" for others."""
    kind, at = layer3(frame)
    if kind == ETH_P_ARP and len(frame) >= at + 28:
        return str(IPv4Address(frame[at + 14 : at + 18]))
    if kind == ETH_P_IPV6 and len(frame) >= at + 40:
        return str(IPv6Address(frame[at + 8 : at + 24]))
    return ""


def tagged(frame: bytes, record: Record) -> bytes:
    """Return a frame with the tag that stood beside it."""
    tag = _tag(record)
    if tag is None or len(frame) < 14:
        return frame
    return frame[:12] + record.tag_proto + tag.to_bytes(2) + frame[12:]


def _tag(record: Record) -> int | None:
    return int.from_bytes(record.tag, sys.byteorder) if any(record.tag_proto) else None


def _address(octets: bytes, family: int) -> str:
    if family == 4:
        return str(IPv4Address(octets[:4]))
    return str(IPv6Address(octets)) if family == 6 else "no address"

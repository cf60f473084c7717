"""The rules of MAC NAT in plain Python, to compare the programs with.

Written from the rules, not from the C: frames are bytes and slices, addresses are objects, and
checksums are not known here at all (see sums.py).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tests.bpf.rig import BROADCAST, MULTICAST, OTHERHOST
from tests.bpf.view import (
    ARP,
    IPV4,
    IPV6,
    Address,
    View,
    configures,
    destination,
    dhcp_client,
    dhcp_message,
    egress_dhcp,
    group_mac,
    is_ipv4_arp,
    is_link_control,
    is_unassignable,
    nd_message,
    probed,
)

Place = tuple[Address, int]
Network = IPv4Network | IPv6Network

QUOTA = {4: 16, 6: 32}
PROBES = 8
EVERYBODY = b"\xff" * 6


@dataclass(eq=False)
class Slot:
    """own: whether the guest has said by ARP or ND that it has the address."""

    place: Place
    own: bool


@dataclass
class Holder:
    ifindex: int
    slot: Slot
    old: bool = False


@dataclass(frozen=True)
class Fate:
    """What becomes of a frame. pkt_type: what that becomes, or None where it stays. to: the
    device that gets the frame as if it came in there; 0: it goes on where it was going."""

    passed: bool
    frame: bytes
    pkt_type: int | None = None
    to: int = 0


@dataclass
class Guest:
    mac: bytes | None
    slots: dict[int, list[Slot]] = field(default_factory=lambda: {4: [], 6: []})
    counts: Counter[str] = field(default_factory=Counter)
    probes: list[Place] = field(default_factory=list)


def longest_of(networks: Iterable[Network], address: Address) -> Network | None:
    found = [network for network in networks if address in network]
    return max(found, key=lambda network: network.prefixlen, default=None)


class Model:
    """kind: of the guests' devices, macvtap or ipvtap. mode: of ipvtaps, as ip-link(8) has it."""

    def __init__(self, parent: bytes, kind: str, mode: str) -> None:
        self.parent = parent
        self.kind = kind
        self.mode = mode
        self.guests: dict[int, Guest] = {}
        self.owners: dict[int, str] = {}
        self.held: dict[Place, Holder] = {}
        self.hosts: set[Address] = set()
        self.broadcasts: set[Address] = set()
        self.routes: dict[Network, int] = {}
        self.behind: dict[Network, bytes] = {}
        self.bearers: dict[bytes, int] = {}

    # What user space does

    def set_hosts(self, hosts: set[Address], broadcasts: set[Address]) -> None:
        self.hosts, self.broadcasts = hosts, broadcasts
        for place in list(self.held):
            if place[0] in hosts or (place[0] in broadcasts and place[1] == 0):
                del self.held[place]

    def set_routes(self, routes: dict[Network, int]) -> None:
        """routes: for whose frames each leads elsewhere, 1 untagged, 2 tagged ones."""
        self.routes = routes
        for place in list(self.held):
            if self._is_elsewhere(place):
                del self.held[place]

    def _is_elsewhere(self, place: Place) -> bool:
        address, vlan = place
        longest = longest_of(self.routes, address)
        return longest is not None and bool(self.routes[longest] & (2 if vlan else 1))

    def _router(self, place: Place, alone: bool = False) -> bytes:
        """The MAC of the guest that routes for an address, b"" for none. alone: only if no other
        guest may use it."""
        address, vlan = place
        longest = longest_of(self.behind, address)
        if longest is None or vlan or address in self.hosts or self._is_elsewhere(place):
            return b""
        short = longest.prefixlen < (8 if longest.version == 4 else 16)
        return b"" if alone and short else self.behind[longest]

    def set_guest(self, ifindex: int, mac: bytes | None) -> None:
        self.guests.setdefault(ifindex, Guest(mac)).mac = mac
        if mac is None:
            self._drop_all(ifindex)

    def remove_guest(self, ifindex: int) -> None:
        self.guests.pop(ifindex, None)
        self._drop_all(ifindex)

    def are_one_guests(self, one: int, other: int) -> bool:
        return one in self.owners and self.owners[one] == self.owners.get(other)

    def age(self) -> None:
        for holder in self.held.values():
            holder.old = True

    def _drop_all(self, ifindex: int) -> None:
        for place in [p for p, h in self.held.items() if h.ifindex == ifindex]:
            del self.held[place]

    # from_guest

    def from_guest(self, ifindex: int, frame: bytes, tag: int | None) -> bool:
        """Whether it passes; never is it changed."""
        guest = self.guests.get(ifindex)
        if guest is None:
            return False
        if guest.mac is None and self.kind == "ipvtap" and self._can_be_a_guests(frame[6:12]):
            guest.mac = frame[6:12]
        refusal = self._refusal(ifindex, guest, frame, tag)
        if refusal:
            guest.counts[refusal] += 1
        else:
            self._note_probe(guest, frame, tag)
        return not refusal

    def _note_probe(self, guest: Guest, frame: bytes, tag: int | None) -> None:
        """Keep the address that a guest asks about, if it may come to have it."""
        view = View.of(frame, tag)
        target = probed(view, frame[view.at :])
        if target is None or guest.mac is None or is_unassignable(target) or target in self.hosts:
            return
        place = (target, view.vlan)
        if self._is_elsewhere(place) or (target in self.broadcasts and not view.vlan):
            return
        if place not in self.held or self.guests.get(self.held[place].ifindex) is not guest:
            guest.probes = [*guest.probes, place][-PROBES:]

    def _can_be_a_guests(self, mac: bytes) -> bool:
        return mac != bytes(6) and not mac[0] & 1 and mac != self.parent

    def _refusal(self, ifindex: int, guest: Guest, frame: bytes, tag: int | None) -> str:
        view = View.of(frame, tag)
        wrong = frame[6:12] == self.parent if guest.mac is None else frame[6:12] != guest.mac
        if wrong:
            return "wrong_mac"
        if view.stacked:
            return "malformed"
        if view.ethertype not in (IPV4, IPV6) and is_link_control(view, frame[:6]):
            return "link_control"
        if view.ethertype and view.ethertype < b"\6\0" and frame[view.at :][:3] == b"\xaa\xaa\3":
            return "malformed"
        own = self._is_own(view, frame[view.at :])
        for claim in self._claims(view, frame[view.at :]):
            if claim is None:
                return "malformed"
            if refusal := self._claim_address(ifindex, guest, (claim, view.vlan), own):
                return refusal
        if view.ethertype == IPV4 and len(frame) >= view.at + 20 and frame[view.at] >> 4 == 4:
            return self._dhcp_refusal(ifindex, frame[6:12], view, frame[view.at :])
        return ""

    def _is_own(self, view: View, data: bytes) -> bool:
        """Whether nobody forwards this: what it claims is not from others behind the guest."""
        is_ipv6 = view.ethertype == IPV6 and len(data) >= 40 and data[0] >> 4 == 6
        return view.ethertype == ARP or (is_ipv6 and bool(nd_message(data)))

    def _dhcp_refusal(self, ifindex: int, source: bytes, view: View, data: bytes) -> str:
        """Of what a guest says by DHCP."""
        said = dhcp_message(data)
        if not said:
            return "malformed" if said is None else ""
        op, client, address = said
        if client == self.parent != source:
            return "wrong_mac"
        if op == 2:
            return ""
        if address in self.hosts:
            return "host_address"
        holder = self.held.get((address, view.vlan))
        if not holder or holder.ifindex == ifindex or self.are_one_guests(ifindex, holder.ifindex):
            return ""
        return "guest_address"

    def _claims(self, view: View, data: bytes) -> list[Address | None]:
        """The addresses that the sender says are its own; None where that cannot be told."""
        if view.ethertype == ARP:
            if len(data) < 28:
                return [None]
            return [IPv4Address(data[14:18])] if is_ipv4_arp(data) else []
        if view.ethertype == IPV4 and len(data) >= 20 and data[0] >> 4 == 4:
            return [IPv4Address(data[12:16])]
        if view.ethertype == IPV6 and len(data) >= 40 and data[0] >> 4 == 6:
            return [IPv6Address(data[8:24]), *self._nd_claims(data)]
        return []

    def _nd_claims(self, data: bytes) -> list[Address | None]:
        message = nd_message(data)
        if message is None:
            return []
        if len(message) < 8:
            return [None]
        if message[0] != 136:
            return []
        return [IPv6Address(message[8:24]) if len(message) >= 24 else None]

    def _claim_address(self, ifindex: int, guest: Guest, place: Place, own: bool) -> str:
        address = place[0]
        if is_unassignable(address):
            return ""
        holder = self.held.get(place)
        if holder is not None and holder.ifindex == ifindex:
            holder.slot.own |= own
            if holder.old:
                holder.old = False
                self._used(guest, address.version, holder.slot)
            return ""
        if address in self.hosts or (address in self.broadcasts and place[1] == 0):
            return "host_address"
        if self._is_elsewhere(place):
            return "host_address"
        if self._router(place, alone=True) not in (b"", guest.mac):
            return "guest_address"
        if holder is not None and self.are_one_guests(ifindex, holder.ifindex):
            return ""
        if holder is not None and not holder.old:
            return "guest_address"
        if guest.mac is not None:
            self._learn_address(ifindex, guest, Slot(place, own), moved=holder is not None)
        return ""

    def _learn_address(self, ifindex: int, guest: Guest, slot: Slot, moved: bool) -> None:
        place = slot.place
        slots = guest.slots[place[0].version]
        if len(slots) == QUOTA[place[0].version]:
            gone = min(slots, key=lambda each: each.own)  # the first, unless that is its own
            holder = self.held.get(gone.place)
            is_held = holder is not None and holder.slot is gone
            if gone.own and not slot.own:
                gone.own = is_held
                return
            slots.remove(gone)
            if is_held:
                del self.held[gone.place]
                guest.counts["evicted"] += 1
        slots.append(slot)
        self.held[place] = Holder(ifindex, slot)
        guest.counts["learned"] += 1
        guest.counts["moved"] += moved

    def _used(self, guest: Guest, family: int, slot: Slot) -> None:
        slots = guest.slots[family]
        slots.remove(slot)
        slots.append(slot)

    # to_uplink

    def to_uplink(self, frame: bytes, tag: int | None) -> Fate:
        if frame[6:12] == self.parent and self.kind == "macvtap":
            return Fate(True, frame)
        view = View.of(frame, tag)
        head, data = frame[:6] + self.parent + frame[12 : view.at], frame[view.at :]
        translated: bytes | None = data
        if view.ethertype == ARP:
            translated = self._egress_arp(data)
        elif view.ethertype == IPV4:
            translated = egress_dhcp(data, self.parent)
        elif view.ethertype == IPV6 and len(data) >= 40 and data[0] >> 4 == 6:
            translated = self._egress_nd(data)
        return Fate(translated is not None, head + (translated or b""))

    def _egress_arp(self, data: bytes) -> bytes | None:
        if len(data) < 28:
            return None
        return data[:8] + self.parent + data[14:] if is_ipv4_arp(data) else data

    def _egress_nd(self, data: bytes) -> bytes | None:
        message = nd_message(data)
        if message is None:
            return data
        start = len(data) - len(message)
        end = 40 + int.from_bytes(data[4:6], "big")
        at = start + {133: 8, 134: 16, 137: 40}.get(message[0] if message else 0, 24)
        options = 0
        while at != end and message:
            length = data[at + 1] * 8 if at + 8 <= len(data) else 0
            if not length or at + length > end or end > len(data) or options == 64:
                return None
            if data[at] in (1, 2):
                data = data[: at + 2] + self.parent + data[at + 8 :]
            at += length
            options += 1
        return data if message and end <= len(data) else None

    # from_uplink

    def from_uplink(self, frame: bytes, tag: int | None) -> Fate:
        view = View.of(frame, tag)
        data = frame[view.at :]
        hears = view.ethertype in (IPV4, IPV6, ARP) and not configures(view, data)
        reflected = frame[6:12] == self.parent and not hears
        if reflected or self._is_echo(view, frame, data):
            return Fate(False, frame)
        if frame[:6] != self.parent:
            return Fate(True, frame)
        if view.ethertype == ARP and len(data) >= 28 and is_ipv4_arp(data):
            return self._ingress_arp(view, frame, data)
        if view.ethertype == IPV4 and len(data) >= 20 and data[0] >> 4 == 4:
            return self._ingress(view, frame, IPv4Address(data[16:20]), dhcp_client(data))
        if view.ethertype == IPV6 and len(data) >= 40 and data[0] >> 4 == 6:
            target = IPv6Address(data[24:40])
            if self._is_unanswered_question(data, (target, view.vlan)):
                return Fate(True, b"\x33\x33\xff" + data[37:40] + frame[6:], MULTICAST)
            return self._ingress(view, frame, target, None)
        return Fate(True, frame)

    def shows_source(self, frame: bytes, tag: int | None) -> bool:
        """Whether it is noted that the LAN uses a MAC: it says something to all, or to the uplink
        what may be a neighbour's answer."""
        view = View.of(frame, tag)
        data = frame[view.at :]
        if frame[0] & 1:
            return True
        icmp = view.ethertype == IPV6 and len(data) >= 40 and data[0] >> 4 == 6 and data[6] == 58
        return frame[:6] == self.parent and (view.ethertype == ARP or icmp)

    def _is_unanswered_question(self, data: bytes, place: Place) -> bool:
        """A solicitation for a unicast address that nobody here is known to have."""
        if data[6] != 58 or data[40:41] != b"\x87" or place[0].is_multicast:
            return False
        return place not in self.held and place[0] not in self.hosts

    def _is_echo(self, view: View, frame: bytes, data: bytes) -> bool:
        ours = frame[6:12] == self.parent
        if view.ethertype == ARP:
            return len(data) >= 28 and is_ipv4_arp(data) and (ours or data[8:14] == self.parent)
        if view.ethertype != IPV6 or len(data) < 41 or data[0] >> 4 != 6 or data[6] != 58:
            return False
        option = data[{136: 64, 137: 80}.get(data[40], len(data)) :][:8]
        repeated = option[:1] == b"\2" and option[2:] == self.parent
        return data[40] in (135, 136, 137) and (ours or repeated)

    def _ingress_arp(self, view: View, frame: bytes, data: bytes) -> Fate:
        target = IPv4Address(data[24:28])
        if target in self.hosts and (target, view.vlan) not in self.held:
            return Fate(True, frame)
        holder = self.held.get((target, view.vlan))
        if holder is None:
            return Fate(True, EVERYBODY + frame[6:], BROADCAST)
        if data[18:24] == self.parent:
            data = data[:18] + self._mac(holder) + data[24:]
        return self._to_guest(holder, frame[: view.at] + data)

    def _ingress(self, view: View, frame: bytes, target: Address, client: bytes | None) -> Fate:
        """client: the MAC of whom a DHCP server answers; None if that is not what this is."""
        if target == IPv4Address("255.255.255.255"):
            return Fate(True, EVERYBODY + frame[6:], BROADCAST)
        if target.is_multicast:
            return Fate(True, group_mac(target) + frame[6:], MULTICAST)
        if client == self.parent:
            return Fate(True, frame)
        if target in self.broadcasts and view.vlan == 0:
            return Fate(True, EVERYBODY + frame[6:], BROADCAST)
        holder = self.held.get((target, view.vlan))
        if holder is None and target in self.hosts:
            return Fate(True, frame)
        if client not in (None, holder and self._mac(holder)):
            return Fate(True, EVERYBODY + frame[6:], BROADCAST)
        if holder is None:
            return self._to_router(frame, (target, view.vlan))
        return self._to_guest(holder, frame)

    def _to_router(self, frame: bytes, place: Place) -> Fate:
        """What is for an address that nobody here is known to have."""
        mac = self._router(place)
        if not mac:
            return Fate(True, frame)
        if mac not in self.bearers:
            return Fate(False, frame)
        to = self.bearers[mac] if self.kind == "ipvtap" else 0
        return Fate(True, mac + frame[6:], OTHERHOST, to)

    def _to_guest(self, holder: Holder, frame: bytes) -> Fate:
        to = holder.ifindex if self.kind == "ipvtap" else 0
        return Fate(True, self._mac(holder) + frame[6:], OTHERHOST, to)

    # to_sibling

    def to_sibling(self, ifindex: int, frame: bytes, tag: int | None) -> Fate:
        """ifindex: the device of the guest that sends it. What is not the host's ends here."""
        view = View.of(frame, tag)
        data = frame[view.at :]
        target = destination(view, data)
        if frame[:6] != self.parent:
            return Fate(True, frame)
        if target is None:
            return Fate(self.mode == "vepa", frame)
        holder = self.held.get((target, view.vlan))
        broadcast = target in self.broadcasts and view.vlan == 0
        if view.ethertype == ARP and not (holder or broadcast or target in self.hosts):
            return Fate(True, EVERYBODY + frame[6:])
        if self.mode == "vepa":
            return Fate(True, frame)
        router = b"" if holder or broadcast else self._router((target, view.vlan))
        to = holder.ifindex if holder else self.bearers.get(router, ifindex)
        if to == ifindex or self.mode == "private":
            return Fate(False, frame)
        if holder is None:
            return Fate(True, router + frame[6:], to=to)
        if view.ethertype == ARP:
            data = data[:18] + self._mac(holder) + data[24:]
        return Fate(True, self._mac(holder) + frame[6 : view.at] + data, to=holder.ifindex)

    def _mac(self, holder: Holder) -> bytes:
        mac = self.guests[holder.ifindex].mac
        assert mac is not None
        return mac

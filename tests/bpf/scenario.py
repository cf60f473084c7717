"""Sequences of frames through programs and model together, compared after each."""

from collections import Counter
from dataclasses import asdict
from functools import cache
from ipaddress import IPv4Address, ip_address, ip_network
from itertools import product

from hypothesis import strategies as st
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether

from airtap.bpf.attach import Role
from airtap.bpf.records import UNKNOWN_MAC
from airtap.macnat.routers import prefix_of
from tests.bpf.frames import (
    BROADCAST4,
    GATEWAY4,
    GATEWAY6,
    GUEST_MACS,
    HOST4,
    HOST6,
    PARENT,
    ROUTER,
    VLAN,
    frames,
    guest4,
    guest6,
    packed,
    senders,
    tags,
)
from tests.bpf.model import Model
from tests.bpf.pointed import (
    dhcp_to_client,
    dhcp_to_server,
    guest_ip,
    guest_nd,
    guest_other,
    lan_arp,
    lan_ip,
    lan_nd,
    to_sibling,
)
from tests.bpf.rig import BROADCAST, HOST, MULTICAST, OTHERHOST, Rig
from tests.bpf.sums import transport_sum
from tests.bpf.view import Address, View, source

NOBODYS = "02:00:00:00:01:03"
HOSTS: set[Address] = {ip_address(text) for text in (HOST4, GATEWAY4, HOST6, GATEWAY6)}
Step = tuple[object, ...]
# (kind of the guests' devices, mode): what a scenario is to be played with.
SETTINGS = [("macvtap", "bridge"), *(("ipvtap", mode) for mode in ("bridge", "private", "vepa"))]
OWNERS = ("one", "other")
COUNTED = ("wrong_mac", "host_address", "guest_address", "malformed", "link_control")

said = st.one_of(*(st.tuples(st.just(n), frames(st.just(GUEST_MACS[n]))) for n in (0, 1)))
crossing = st.one_of(*(st.tuples(st.just(n), to_sibling(GUEST_MACS[n])) for n in (0, 1)))
heard = frames(st.sampled_from([ROUTER, ROUTER, PARENT]))
guests = st.integers(0, 1)
families = st.sampled_from([4, 6])
numbers = st.integers(0, 3)
vlans = st.sampled_from([None, None, VLAN])
# Around the guests' addresses, one within the other.
prefixes = st.sampled_from(
    [
        *("192.0.2.100/32", "192.0.2.100/31", "192.0.2.96/28", "192.0.2.0/24", "10.0.0.0/8"),
        *("2001:db8::1:1/128", "2001:db8::1:0/126", "2001:db8::/64", "fd00::/8"),
    ]
)
networks = st.one_of(prefixes, st.sampled_from(["0.0.0.0/0", "::/0"]))
# Of the router's device, of a guest, of nobody here; and behind none.
routers = st.sampled_from([ROUTER, ROUTER, GUEST_MACS[0], NOBODYS, UNKNOWN_MAC])
# What changes who holds which address, and needs no frame to be drawn.
changes = st.one_of(
    *[st.tuples(st.just("flood"), guests, families, st.integers(0, 36), st.integers(1, 36))] * 3,
    *[st.tuples(st.just("forward"), guests, families, st.integers(0, 36), st.integers(1, 36))] * 2,
    *[st.tuples(st.just("use"), guests, families, numbers, tags)] * 4,
    *[st.tuples(st.just("take"), guests, families, numbers)] * 2,
    *[st.tuples(st.just("age"))] * 2,
    st.tuples(st.just("keep"), guests, families, st.integers(4, 40)),
    st.tuples(st.just("host"), st.one_of(guest4, guest6)),
    st.tuples(st.just("route"), st.dictionaries(prefixes, st.integers(0, 3), max_size=4)),
    st.tuples(st.just("behind"), st.dictionaries(networks, routers, max_size=4)),
    st.tuples(st.just("guest"), guests, st.sampled_from([*GUEST_MACS, None])),
    *[st.tuples(st.just("begin"), guests, senders, numbers)] * 2,
    st.tuples(st.just("go"), guests),
)
# What only details decide upon.
POINTED: list[st.SearchStrategy[Step]] = [
    st.tuples(st.just("say"), st.tuples(guests, packed(dhcp_to_server())), tags),
    st.tuples(st.just("say"), st.tuples(guests, packed(guest_nd())), tags),
    st.tuples(st.just("say"), st.tuples(guests, packed(guest_other())), tags),
    st.tuples(st.just("say"), st.tuples(guests, packed(guest_ip())), tags),
    st.tuples(st.just("say"), st.tuples(guests, frames(st.just(PARENT))), vlans),
    st.tuples(st.just("reach"), crossing, vlans),
    st.tuples(st.just("hear"), dhcp_to_client(), vlans),
    st.tuples(st.just("renew"), dhcp_to_client(), vlans),
    st.tuples(st.just("hear"), packed(lan_arp()), vlans),
    st.tuples(st.just("hear"), packed(lan_ip()), vlans),
    st.tuples(st.just("hear"), packed(lan_nd()), tags),
]
traffic = st.one_of(
    *[st.tuples(st.just("say"), said, tags)] * 4,
    st.tuples(st.just("say"), st.tuples(st.integers(0, 2), frames(senders)), tags),
    *[st.tuples(st.just("hear"), heard, tags)] * 2,
    *[st.one_of(POINTED)] * 2,
    changes,
)
# Two devices may be cards of one guest, or of two that have several.
cards = st.one_of(
    st.tuples(st.just("own"), guests, st.sampled_from(["", *OWNERS])),
    *[st.tuples(st.just("use"), guests, families, numbers, vlans)] * 4,
    st.tuples(st.just("borrow"), guests, numbers, st.sampled_from(OWNERS)),
    st.tuples(st.just("age")),
)
scenarios = st.one_of(
    st.lists(cards, min_size=10, max_size=60),
    st.lists(traffic, min_size=4, max_size=40),
    st.lists(changes, min_size=4, max_size=60),
)


class Scenario:
    """Two guests that are announced, a third device that is not, and the LAN."""

    def __init__(self, rig: Rig, kind: str, mode: str) -> None:
        rig.reset()
        self.rig = rig
        self.macnat = rig.macnat
        self.model = Model(_octets(PARENT), kind, mode)
        self.model.bearers = {_octets(ROUTER): rig.devices[2]}
        self.macnat.config.set_role(Role(kind), mode)
        self.macnat.config.set_parent(1, PARENT)
        self.set_hosts(set(HOSTS))
        self._forget_seen()
        for number, owner in enumerate(OWNERS):  # each has another card
            self.macnat.owners.note(1_000_000 + number, owner)
        for number, mac in enumerate(GUEST_MACS):
            self.guest(number, None if kind == "ipvtap" else mac)

    def play(self, scenario: list[Step]) -> None:
        for name, *arguments in scenario:
            getattr(self, str(name))(*arguments)
        self.compare_state()

    def say(self, who: tuple[int, bytes], tag: int | None) -> None:
        """A guest sends a frame, which goes on to the uplink or a sibling unless it is dropped."""
        number, frame = who
        ifindex = self.rig.devices[number]
        heard = self.rig.run("from_guest", frame, ifindex, tag)
        assert heard.passed == self.model.from_guest(ifindex, frame, tag)
        assert (heard.frame, heard.tag) == (frame, tag)
        # Also what from_guest drops: the guards are not what to_uplink and to_sibling rely on.
        sent = self.leave(ifindex, frame, tag)
        if sent is not None and self.model.kind == "ipvtap":
            self.cross(ifindex, sent, tag)

    def leave(self, ifindex: int, frame: bytes, tag: int | None) -> bytes | None:
        """The uplink's MAC is put into a frame. Gives the frame, or None if it is dropped."""
        sent = self.rig.run("to_uplink", frame, ifindex, tag)
        fate = self.model.to_uplink(frame, tag)
        assert (sent.passed, sent.to) == (fate.passed, 0)
        if not fate.passed:
            return None
        assert sent.frame[6:12] == self.model.parent
        assert sent.tag == tag
        if sent.frame == fate.frame and fate.frame[12:] == frame[12:]:
            return sent.frame  # no checksum had to change
        before, after = transport_sum(frame, tag), transport_sum(sent.frame, tag)
        if before is None or after is None:
            assert sent.frame == fate.frame
            return sent.frame
        assert _without(sent.frame, after.at) == _without(fate.frame, before.at)
        if not _is_nd(fate.frame) and 0 in (before.field, after.field):
            assert before.field == after.field  # UDP without a checksum (RFC 768) gets none
        else:
            assert after.rest == before.rest
        return sent.frame

    def cross(self, ifindex: int, frame: bytes, tag: int | None) -> None:
        """A translated frame goes to a sibling, if it is for one."""
        got = self.rig.run("to_sibling", frame, ifindex, tag)
        fate = self.model.to_sibling(ifindex, frame, tag)
        assert (got.passed, got.to) == (fate.passed, fate.to)
        if fate.passed:
            assert (got.frame, got.tag, got.pkt_type) == (fate.frame, tag, HOST)

    def hear(self, frame: bytes, tag: int | None) -> None:
        """A frame comes in from the LAN."""
        pkt_type = self._pkt_type(frame)
        got = self.rig.run("from_uplink", frame, self.rig.devices[2], tag, pkt_type)
        fate = self.model.from_uplink(frame, tag)
        assert (got.passed, got.to) == (fate.passed, fate.to)
        if fate.passed:
            assert (got.frame, got.tag) == (fate.frame, tag)
            assert got.pkt_type == (pkt_type if fate.pkt_type is None else fate.pkt_type)
        self._compare_seen(frame, tag)

    def _compare_seen(self, frame: bytes, tag: int | None) -> None:
        """Whether the router's MAC, which a device here bears, was seen on the LAN, and where."""
        bearers = self.macnat.bearers
        shown = frame[6:12] == _octets(ROUTER) and self.model.shows_source(frame, tag)
        assert bool(bearers.last_seen(ROUTER)) == shown
        if shown:
            assert bearers.address(ROUTER) == source(View.of(frame, tag), frame)
            self._forget_seen()

    def _forget_seen(self) -> None:
        bearers, index = self.macnat.bearers, self.rig.devices[2]
        bearers.remove(index)
        bearers.forget(before=float("inf"))
        bearers.add(index, ROUTER)

    def flood(self, number: int, family: int, first: int, count: int) -> None:
        """One guest uses one address after the other."""
        for n in range(first, first + count):
            self.use(number, family, n, None)
        self.compare_state()

    def forward(self, number: int, family: int, first: int, count: int) -> None:
        """One guest sends from one address after the other, and says of none that it has it."""
        for n in range(first, first + count):
            self.use(number, family, 2 * n, None)
        self.compare_state()

    def use(self, number: int, family: int, n: int, tag: int | None) -> None:
        self.say((number, _spoken(GUEST_MACS[number], family, n)), tag)

    def reach(self, who: tuple[int, bytes], tag: int | None) -> None:
        """A guest sends a frame after its sibling has used the addresses that it may be for."""
        for family, n in product((4, 6), range(4)):
            self.use(1 - who[0], family, n, tag)
        self.say(who, tag)

    def renew(self, frame: bytes, tag: int | None) -> None:
        """A DHCP server's answer comes in after each guest has used two of the addresses."""
        for n in range(4):
            self.use(n // 2, 4, n, tag)
        self.hear(frame, tag)

    def begin(self, number: int, mac: str, n: int) -> None:
        """A guest whose MAC is not known uses an address."""
        self.guest(number, None)
        self.say((number, _spoken(mac, 4, n)), None)

    def take(self, number: int, family: int, n: int) -> None:
        """A guest takes over an address that the other one had, and perhaps itself before."""
        self.age()
        self.use(1 - number, family, n, None)
        self.age()
        self.use(number, family, n, None)

    def keep(self, number: int, family: int, n: int) -> None:
        """A guest goes on using one address while it goes through others."""
        self.use(number, family, n, None)
        self.flood(number, family, n + 1, 14 if family == 4 else 30)
        self.age()
        self.use(number, family, n, None)
        self.flood(number, family, n + 60, 3)

    def age(self) -> None:
        self.rig.age()
        self.model.age()

    def host(self, text: str) -> None:
        """The host has one more address, and another broadcast address."""
        self.set_hosts(HOSTS | {ip_address(text)})

    def set_hosts(self, hosts: set[Address]) -> None:
        broadcasts = {IPv4Address(BROADCAST4)}
        self.macnat.hosts.set_addresses(hosts, broadcasts)
        self.model.set_hosts(set(hosts), set(broadcasts))

    def route(self, routes: dict[str, int]) -> None:
        """The host's routes are others; what they say holds for untagged frames (1), tagged (2)."""
        networks = {ip_network(text): bits for text, bits in routes.items()}
        self.macnat.hosts.set_routes({prefix_of(net): bits for net, bits in networks.items()})
        self.model.set_routes(networks)

    def behind(self, routers: dict[str, str]) -> None:
        """Other prefixes are behind guests."""
        networks = {ip_network(text): mac for text, mac in routers.items()}
        self.macnat.behind.set({prefix_of(net): mac for net, mac in networks.items()})
        self.model.behind = {
            net: b"" if mac == UNKNOWN_MAC else _octets(mac) for net, mac in networks.items()
        }

    def guest(self, number: int, mac: str | None) -> None:
        """A guest's device is announced, or its MAC changes."""
        self.macnat.guests.add(self.rig.devices[number], mac)
        self.macnat.probed.add_guest(self.rig.devices[number])
        self.model.set_guest(self.rig.devices[number], _octets(mac) if mac else None)

    def own(self, number: int, owner: str) -> None:
        """It turns out whose card a device is."""
        index = self.rig.devices[number]
        self.macnat.owners.note(index, owner)
        self.model.owners.pop(index, None)
        if owner:
            self.model.owners[index] = owner

    def borrow(self, number: int, n: int, owner: str) -> None:
        """A device asks a DHCP server about an address of what may be another card of its guest."""
        self.own(0, OWNERS[0])
        self.own(1, owner)
        self.use(1 - number, 4, n, None)
        mac = GUEST_MACS[number]
        request = BOOTP(op=1, ciaddr=f"192.0.2.{100 + n}", chaddr=_octets(mac))
        packet = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / request
        self.say((number, raw(Ether(src=mac) / packet)), None)

    def go(self, number: int) -> None:
        self.macnat.guests.remove(self.rig.devices[number])
        self.macnat.probed.remove_guest(self.rig.devices[number])
        self.model.remove_guest(self.rig.devices[number])

    def compare_state(self) -> None:
        held = {
            (e.address, e.vlan): (e.ifindex, _octets(e.mac)) for e in self.macnat.addresses.all()
        }
        assert held == {
            place: (holder.ifindex, self.model.guests[holder.ifindex].mac)
            for place, holder in self.model.held.items()
        }
        assert {ifindex: _octets(mac) for ifindex, mac in self.macnat.guests.macs().items()} == {
            ifindex: guest.mac or bytes(6) for ifindex, guest in self.model.guests.items()
        }
        counters = self.macnat.guests.counters()
        assert set(counters) == set(self.model.guests)
        for ifindex, guest in self.model.guests.items():
            assert Counter(self.macnat.probed.of(ifindex)) == Counter(guest.probes)
            counted = Counter(asdict(counters[ifindex]))
            for name in (*COUNTED, "learned", "moved", "evicted"):
                assert counted[name] == guest.counts[name], name

    def _pkt_type(self, frame: bytes) -> int:
        if frame[:6] == b"\xff" * 6:
            return BROADCAST
        if frame[0] & 1:
            return MULTICAST
        return HOST if frame[:6] == self.model.parent else OTHERHOST


@cache
def _spoken(mac: str, family: int, n: int) -> bytes:
    """A frame from the nth address of a family: of odd ones that is ARP or ND."""
    ether = Ether(src=mac, dst=ROUTER)
    if family == 6:
        ip = IPv6(src=f"2001:db8::1:{n:x}", dst=GATEWAY6)
        return raw(ether / ip / (ICMPv6ND_NS(tgt=GATEWAY6) if n % 2 else UDP()))
    if n % 2:
        return raw(ether / ARP(hwsrc=mac, psrc=f"192.0.2.{100 + n}"))
    return raw(ether / IP(src=f"192.0.2.{100 + n}") / UDP())


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _without(frame: bytes, at: int) -> bytes:
    return frame[:at] + frame[at + 2 :]


def _is_nd(frame: bytes) -> bool:
    return b"\x86\xdd" in (frame[12:14], frame[16:18])

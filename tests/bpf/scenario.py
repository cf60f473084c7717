"""Sequences of frames through programs and model together, compared after each."""

from collections import Counter
from dataclasses import asdict
from ipaddress import IPv4Address, ip_address

from hypothesis import strategies as st
from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from tests.bpf.frames import (
    BROADCAST4,
    GATEWAY4,
    GATEWAY6,
    GUEST_MACS,
    HOST4,
    HOST6,
    PARENT,
    ROUTER,
    SHIM,
    frames,
    guest4,
    guest6,
    stations,
    tags,
)
from tests.bpf.model import Model
from tests.bpf.rig import BROADCAST, HOST, MULTICAST, OTHERHOST, Rig
from tests.bpf.sums import transport_sum

HOSTS = {ip_address(text) for text in (HOST4, GATEWAY4, HOST6, GATEWAY6)}
COUNTED = ("wrong_mac", "host_address", "guest_address", "malformed", "link_control")

said = st.one_of(*(st.tuples(st.just(n), frames(st.just(GUEST_MACS[n]))) for n in (0, 1)))
steps = st.one_of(
    st.tuples(st.just("say"), said, tags),
    st.tuples(st.just("say"), said, tags),
    st.tuples(st.just("say"), said, tags),
    st.tuples(st.just("say"), st.tuples(st.integers(0, 2), frames(stations)), tags),
    st.tuples(st.just("hear"), frames(st.sampled_from([ROUTER, ROUTER, PARENT])), tags),
    st.tuples(st.just("hear"), frames(st.sampled_from([ROUTER, ROUTER, PARENT])), tags),
    st.tuples(st.just("flood"), st.integers(0, 1), st.sampled_from([4, 6]), st.integers(1, 36)),
    st.tuples(st.just("age")),
    st.tuples(st.just("host"), st.one_of(guest4, guest6)),
    st.tuples(st.just("guest"), st.integers(0, 1), st.sampled_from([*GUEST_MACS, None])),
    st.tuples(st.just("leave"), st.integers(0, 1)),
)
scenarios = st.lists(steps, min_size=4, max_size=40)


class Scenario:
    """Two guests that are announced, a third device that is not, and the LAN."""

    def __init__(self, rig: Rig) -> None:
        rig.reset()
        self.rig = rig
        self.macnat = rig.macnat
        self.model = Model(_octets(PARENT), _octets(SHIM))
        self.macnat.set_parent_mac(PARENT)
        self.macnat.set_shim_mac(SHIM)
        self.set_hosts(set(HOSTS))
        for number, mac in enumerate(GUEST_MACS):
            self.guest(number, mac)

    def play(self, scenario: list[tuple[object, ...]]) -> None:
        for name, *arguments in scenario:
            getattr(self, str(name))(*arguments)
        self.compare_state()

    def say(self, who: tuple[int, bytes], tag: int | None) -> None:
        """A guest sends a frame, which goes on to the uplink unless it is dropped."""
        number, frame = who
        ifindex = self.rig.devices[number]
        heard = self.rig.run("learn", frame, ifindex, tag)
        assert heard.passed == self.model.learn(ifindex, frame, tag)
        assert (heard.frame, heard.tag) == (frame, tag)
        # Also what learn drops: the guards are not what up relies on.
        self.leave_by_uplink(frame, tag)

    def leave_by_uplink(self, frame: bytes, tag: int | None) -> None:
        sent = self.rig.run("up", frame, self.rig.devices[2], tag)
        passes, expected = self.model.up(frame, tag)
        assert sent.passed == passes
        if not passes:
            return
        assert sent.frame[6:12] == self.model.parent
        assert sent.tag == tag
        before, after = transport_sum(frame, tag), transport_sum(sent.frame, tag)
        if before is None or after is None or expected == frame:
            assert sent.frame == expected
            return
        assert _without(sent.frame, after.at) == _without(expected, before.at)
        if before.field == 0 and expected[12:14] != b"\x86\xdd" and after.field == 0:
            return  # UDP without a checksum, as before
        assert after.field != 0 or before.field == 0 or _is_nd(expected, after.at)
        assert after.rest == before.rest

    def hear(self, frame: bytes, tag: int | None) -> None:
        """A frame comes in from the LAN."""
        pkt_type = self._pkt_type(frame)
        got = self.rig.run("down", frame, self.rig.devices[2], tag, pkt_type)
        passes, expected, changed = self.model.down(frame, tag)
        assert got.passed == passes
        if passes:
            assert got.frame == expected
            assert got.tag == tag
            assert got.pkt_type == (pkt_type if changed is None else changed)

    def flood(self, number: int, family: int, count: int) -> None:
        """One guest uses one address after the other."""
        for n in range(count):
            mac, router = GUEST_MACS[number], ROUTER
            if family == 4 and n % 2:
                packet = Ether(src=mac, dst=router) / ARP(hwsrc=mac, psrc=f"192.0.2.{100 + n}")
            elif family == 4:
                packet = Ether(src=mac, dst=router) / IP(src=f"192.0.2.{100 + n}") / UDP()
            else:
                packet = Ether(src=mac, dst=router) / IPv6(src=f"2001:db8::1:{n:x}") / UDP()
            self.say((number, raw(packet)), None)

    def age(self) -> None:
        self.rig.age()
        self.model.age()

    def host(self, text: str) -> None:
        """The host has one more address, and another broadcast address."""
        self.set_hosts(HOSTS | {ip_address(text)})

    def set_hosts(self, hosts: set[object]) -> None:
        broadcasts = {IPv4Address(BROADCAST4)}
        self.macnat.set_host_addresses(hosts, broadcasts)
        self.model.set_hosts(set(hosts), set(broadcasts))

    def guest(self, number: int, mac: str | None) -> None:
        """A guest's device is announced, or its MAC changes."""
        self.macnat.add_guest(self.rig.devices[number], mac)
        self.model.set_guest(self.rig.devices[number], _octets(mac) if mac else None)

    def leave(self, number: int) -> None:
        self.macnat.remove_guest(self.rig.devices[number])
        self.model.remove_guest(self.rig.devices[number])

    def compare_state(self) -> None:
        held = {(e.address, e.vlan): (e.ifindex, _octets(e.mac)) for e in self.macnat.addresses()}
        assert held == {
            place: (holder.ifindex, self.model.guests[holder.ifindex].mac)
            for place, holder in self.model.held.items()
        }
        counters = self.macnat.counters()
        assert set(counters) == set(self.model.guests)
        for ifindex, guest in self.model.guests.items():
            counted = Counter(asdict(counters[ifindex]))
            for name in (*COUNTED, "learned", "moved", "evicted"):
                assert counted[name] == guest.counts[name], name

    def _pkt_type(self, frame: bytes) -> int:
        if frame[:6] == b"\xff" * 6:
            return BROADCAST
        if frame[0] & 1:
            return MULTICAST
        return HOST if frame[:6] == self.model.parent else OTHERHOST


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _without(frame: bytes, at: int) -> bytes:
    return frame[:at] + frame[at + 2 :]


def _is_nd(frame: bytes, at: int) -> bool:
    return b"\x86\xdd" in (frame[12:14], frame[16:18])

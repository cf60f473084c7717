"""Maps, pins, events and attachment: what the service above relies on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether

from airtap.bpf.attach import Role
from airtap.bpf.libbpf import BpfError
from airtap.bpf.macnat import Macnat
from airtap.bpf.object import Object
from airtap.bpf.records import ROUTES, TAGGED, UNKNOWN_MAC, UNTAGGED, Entry, Event, pack_key
from airtap.kernel.addresses import Address, Prefix
from tests.bpf.rig import Rig

MAC_A, MAC_B, UPLINK = "02:00:00:00:0a:01", "02:00:00:00:0b:01", "02:00:00:00:00:01"
HOST = IPv4Address("192.0.2.10")


def packet(mac: str, source: str) -> bytes:
    return raw(Ether(src=mac, dst=UPLINK) / IP(src=source, dst="192.0.2.1") / UDP())


@pytest.fixture
def two(rig: Rig) -> Rig:
    """A rig with two guests."""
    rig.macnat.config.set_parent(1, UPLINK)
    for ifindex, mac in zip(rig.devices, (MAC_A, MAC_B), strict=False):
        rig.macnat.guests.add(ifindex, mac)
    return rig


@contextmanager
def watching(watched: Macnat) -> Iterator[list[Event]]:
    """Events from now on; those that earlier tests left unread are passed over."""
    seen: list[Event] = []
    watched.events.open(seen.append)
    watched.events.consume()
    seen.clear()
    yield seen
    watched.events.close()


def test_what_is_learned_is_reported_and_listed(two: Rig) -> None:
    with watching(two.macnat) as seen:
        two.run("from_guest", packet(MAC_A, "192.0.2.100"), two.devices[0], tag=0x6005)
        two.macnat.events.consume()
    [entry] = two.macnat.addresses.all()
    assert (str(entry.address), entry.vlan, entry.ifindex, entry.mac) == (
        *("192.0.2.100", 5, two.devices[0], MAC_A),
    )
    assert abs(time.monotonic() - entry.last_seen) < 5
    [event] = seen
    assert (event.what, event.address, event.vlan) == ("learned", entry.address, 5)
    assert (event.ifindex, event.mac, event.reason) == (two.devices[0], MAC_A, "")
    assert abs(time.monotonic() - event.time) < 5


def test_a_flood_costs_only_the_guests_own_places_and_events(two: Rig) -> None:
    a, b = two.devices[:2]
    two.run("from_guest", packet(MAC_B, "192.0.2.200"), b)
    with watching(two.macnat) as seen:
        for n in range(10_000):
            two.run("from_guest", packet(MAC_A, str(IPv4Address("10.0.0.0") + n + 1)), a)
        two.run("from_guest", packet(MAC_B, "192.0.2.201"), b)
        two.macnat.events.consume()
    held = two.macnat.addresses.all()
    assert sum(entry.ifindex == a for entry in held) == 16
    assert {str(e.address) for e in held if e.ifindex == b} == {"192.0.2.200", "192.0.2.201"}
    assert [event.what for event in seen if event.ifindex == b] == ["learned"]
    mine = [event.what for event in seen if event.ifindex == a]
    assert "suppressed" in mine
    counters = two.macnat.guests.counters()[a]
    assert (counters.learned, counters.evicted) == (10_000, 9_984)
    assert len(mine) - mine.count("suppressed") + counters.unreported == 19_984


def test_refusals_are_reported_a_few_times_and_always_counted(two: Rig) -> None:
    a, b = two.devices[:2]
    two.run("from_guest", packet(MAC_B, "192.0.2.200"), b)
    two.macnat.hosts.set_addresses({HOST}, set())
    with watching(two.macnat) as seen:
        for n in range(1000):
            stranger = f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}"
            assert not two.run("from_guest", packet(stranger, "192.0.2.7"), a).passed
        assert not two.run("from_guest", packet(MAC_A, "192.0.2.200"), a).passed
        two.macnat.events.consume()
    counters = two.macnat.guests.counters()[a]
    assert (counters.wrong_mac, counters.guest_address) == (1000, 1)
    assert 8 <= len(seen) < 100
    assert {(event.what, event.reason) for event in seen} >= {("refused", "wrong-mac")}


def test_a_contested_address_is_the_newcomers_once_it_is_forgotten(two: Rig) -> None:
    a, b = two.devices[:2]
    frame = packet(MAC_B, "192.0.2.100")
    two.run("from_guest", packet(MAC_A, "192.0.2.100"), a)
    with watching(two.macnat) as seen:
        assert not two.run("from_guest", frame, b).passed
        two.macnat.events.consume()
        [event] = seen
        assert (event.reason, event.ifindex, event.other) == ("guest-address", b, a)
        assert event.address is not None
        two.macnat.addresses.forget(event.address, event.vlan)
        assert two.run("from_guest", frame, b).passed
    assert [entry.ifindex for entry in two.macnat.addresses.all()] == [b]


def test_a_silent_guest_loses_its_address_to_who_uses_it(two: Rig) -> None:
    a, b = two.devices[:2]
    two.run("from_guest", packet(MAC_A, "192.0.2.100"), a)
    two.age()
    with watching(two.macnat) as seen:
        assert two.run("from_guest", packet(MAC_B, "192.0.2.100"), b).passed
        two.macnat.events.consume()
    assert [(e.what, e.ifindex, e.other) for e in seen] == [("moved", b, a)]


def test_an_address_that_becomes_the_hosts_is_no_guests_any_more(two: Rig) -> None:
    two.run("from_guest", packet(MAC_A, str(HOST)), two.devices[0], tag=5)
    hosts: set[Address] = {HOST, IPv6Address("fe80::1")}
    taken = two.macnat.hosts.set_addresses(hosts, {IPv4Address("192.0.2.255")})
    assert [(entry.address, entry.vlan) for entry in taken] == [(HOST, 5)]
    assert two.macnat.addresses.all() == []
    assert two.macnat.hosts.addresses() == {HOST, IPv6Address("fe80::1")}
    assert not two.run("from_guest", packet(MAC_A, str(HOST)), two.devices[0]).passed
    two.macnat.hosts.set_addresses(set(), set())
    assert two.run("from_guest", packet(MAC_A, str(HOST)), two.devices[0]).passed


def arp_probe(mac: str, target: str, sender: str = "0.0.0.0") -> bytes:
    return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, psrc=sender, pdst=target))


def solicitation(mac: str, target: str, source: str = "::") -> bytes:
    return bytes(
        Ether(src=mac, dst="33:33:ff:00:00:01")
        / IPv6(src=source, dst="ff02::1:ff00:1")
        / ICMPv6ND_NS(tgt=target)
    )


def test_probes_are_reported_and_claim_nothing(two: Rig) -> None:
    a, b = two.devices[:2]
    two.macnat.hosts.set_addresses({HOST}, set())
    two.run("from_guest", packet(MAC_B, "192.0.2.101"), b)
    with watching(two.macnat) as seen:
        for silent in (
            arp_probe(MAC_A, str(HOST)),
            arp_probe(MAC_A, "0.0.0.0"),
            solicitation(MAC_A, "2001:db8::99", source="fe80::a"),  # a question, no probe
            solicitation(MAC_A, "2001:db8::77")[:70],
        ):
            assert two.run("from_guest", silent, a).passed
        two.macnat.events.consume()
        assert [event.what for event in seen] == ["learned"]  # fe80::a
        assert two.run("from_guest", arp_probe(MAC_A, "192.0.2.102"), a, tag=5).passed
        assert two.run("from_guest", solicitation(MAC_A, "2001:db8::10"), a).passed
        assert two.run("from_guest", arp_probe(MAC_A, "192.0.2.101"), a).passed  # the sibling's
        assert two.run("from_guest", arp_probe(MAC_B, "192.0.2.101"), b).passed  # its own
        two.macnat.events.consume()
    assert [(e.what, e.ifindex, str(e.address), e.vlan, e.mac) for e in seen[1:]] == [
        ("probed", a, "192.0.2.102", 5, MAC_A),
        ("probed", a, "2001:db8::10", 0, MAC_A),
        ("probed", a, "192.0.2.101", 0, MAC_A),
    ]
    assert {str(entry.address) for entry in two.macnat.addresses.all()} == {
        "192.0.2.101",
        "fe80::a",
    }


def test_who_has_come_here_is_reported(two: Rig) -> None:
    rarp = bytes(Ether(src=MAC_A, dst="ff:ff:ff:ff:ff:ff", type=0x8035)).ljust(60, b"\0")
    with watching(two.macnat) as seen:
        assert two.run("from_guest", rarp, two.devices[0]).passed
        two.macnat.events.consume()
    [event] = seen
    assert (event.what, event.ifindex, event.mac) == ("arrived", two.devices[0], MAC_A)
    assert event.address is None and two.macnat.addresses.all() == []


def test_an_ipvtaps_guest_is_known_by_its_first_word(two: Rig) -> None:
    two.macnat.config.set_role(Role("ipvtap"), "bridge")
    index = two.devices[0]
    two.macnat.guests.add(index, None)
    with watching(two.macnat) as seen:
        for nobodys in ("00:00:00:00:00:00", "03:00:00:00:0a:01"):
            assert two.run("from_guest", packet(nobodys, "192.0.2.100"), index).passed
        two.macnat.events.consume()
        assert seen == []
        assert not two.run("from_guest", packet(UPLINK, "192.0.2.100"), index).passed
        two.macnat.events.consume()
        assert (seen[0].reason, seen[0].mac) == ("wrong-mac", UPLINK)
        seen.clear()
        assert two.run("from_guest", packet(MAC_A, "192.0.2.100"), index, tag=5).passed
        assert not two.run("from_guest", packet(MAC_B, "192.0.2.100"), index, tag=5).passed
        two.macnat.events.consume()
    spoke, learned, refused = seen
    assert (spoke.what, spoke.ifindex, spoke.mac) == ("mac-learned", index, MAC_A)
    assert (spoke.address, spoke.other, spoke.reason) == (None, 0, "")
    assert abs(time.monotonic() - spoke.time) < 5
    assert (learned.what, str(learned.address), learned.mac) == ("learned", "192.0.2.100", MAC_A)
    assert (refused.reason, refused.mac) == ("wrong-mac", MAC_B)
    assert two.macnat.guests.macs()[index] == MAC_A
    assert [entry.mac for entry in two.macnat.addresses.all()] == [MAC_A]


def test_a_macvtaps_guest_is_not_known_by_what_it_says(two: Rig) -> None:
    index = two.devices[0]
    two.macnat.guests.add(index, None)
    with watching(two.macnat) as seen:
        assert two.run("from_guest", packet(MAC_A, "192.0.2.100"), index).passed
        two.macnat.events.consume()
    assert seen == []
    assert two.macnat.guests.macs()[index] == UNKNOWN_MAC
    assert two.macnat.addresses.all() == []


def test_512_guests_hold_all_their_addresses_at_once(rig: Rig) -> None:
    """By hand: so many devices would take a minute to make."""
    addresses = rig._object.map("addresses")
    for guest in range(512):
        rig.macnat.guests.add(100_000 + guest, f"02:00:00:00:{guest >> 8:02x}:{guest & 255:02x}")
        for n in range(48):
            key = pack_key(IPv6Address(guest * 48 + n))
            addresses.update(key, Entry(0, 0, 100_000 + guest, n, bytes(6)).pack())
    assert len(rig.macnat.addresses.all()) == 512 * 48
    assert len(rig.macnat.guests.remove(100_000)) == 48
    assert len(rig.macnat.guests.macs()) == 511


def test_counters_go_with_the_guest(two: Rig) -> None:
    two.run("from_guest", packet(MAC_B, "192.0.2.7"), two.devices[0])
    assert two.macnat.guests.counters()[two.devices[0]].wrong_mac == 1
    two.macnat.guests.remove(two.devices[0])
    two.macnat.guests.remove(two.devices[0])
    two.macnat.guests.add(two.devices[0], MAC_A)
    assert two.macnat.guests.counters()[two.devices[0]].wrong_mac == 0


def test_the_verifiers_words_are_kept() -> None:
    with pytest.raises(BpfError) as caught:
        Object(b"no object file at all", "nonsense")
    assert caught.value.text


def test_ip_addresses_of_both_families_survive_the_maps(rig: Rig) -> None:
    addresses: set[Address] = {
        IPv4Address("192.0.2.1"),
        IPv4Address(0),
        IPv6Address(0),
        IPv6Address("fe80::1"),
    }
    rig.macnat.hosts.set_addresses(addresses, set())
    assert rig.macnat.hosts.addresses() == addresses


def test_arp_that_an_access_point_would_unwrap_is_dropped(two: Rig) -> None:
    """In an IEEE 802.3 frame, which a Wi-Fi driver sends as it is, SNAP is Wi-Fi's own header."""
    index = two.devices[0]
    arp = raw(ARP(op=2, hwsrc=MAC_A, psrc="192.0.2.1"))
    for head, passes in (
        (b"\xaa\xaa\3\0\0\0", False),
        (b"\xaa\xaa\3\0\0\xf8", False),
        (b"BB\3", True),
    ):
        body = head + b"\x08\6" + arp
        frame = raw(Ether(src=MAC_A, dst=UPLINK, type=len(body)) / body)
        assert two.run("from_guest", frame, index).passed == passes
    assert two.macnat.guests.counters()[index].malformed == 2


def test_arp_of_the_gateway_is_dropped(two: Rig) -> None:
    two.macnat.hosts.set_addresses({IPv4Address("192.0.2.1")}, set())
    claim = raw(Ether(src=MAC_A, dst=MAC_B) / ARP(op=2, hwsrc=MAC_A, psrc="192.0.2.1"))
    probe = raw(Ether(src=MAC_A) / ARP(op=1, hwsrc=MAC_A, psrc="0.0.0.0", pdst="192.0.2.1"))
    assert not two.run("from_guest", claim, two.devices[0]).passed
    assert two.run("from_guest", probe, two.devices[0]).passed


def test_routes_that_lead_elsewhere(two: Rig) -> None:
    """What was learned is withdrawn, and not restored; of too many routes the shortest count."""
    hosts, a = two.macnat.hosts, two.devices[0]
    two.run("from_guest", packet(MAC_A, "10.9.0.2"), a)
    two.run("from_guest", packet(MAC_A, "10.9.0.3"), a, tag=5)
    ten = Prefix(4, 8, 10 << 24)
    [taken] = hosts.set_routes({ten: UNTAGGED})
    assert (str(taken.address), taken.vlan) == ("10.9.0.2", 0)
    two.macnat.addresses.restore_bindings(a, MAC_A, [taken])
    assert [str(entry.address) for entry in two.macnat.addresses.all()] == ["10.9.0.3"]
    assert not two.run("from_guest", packet(MAC_A, "10.9.0.2"), a).passed
    many = {Prefix(4, 32, (20 << 24) + n): UNTAGGED for n in range(ROUTES + 10)}
    assert hosts.set_routes(many | {ten: 0, Prefix(4, 24, (10 << 24) + (9 << 16)): TAGGED})
    assert two.run("from_guest", packet(MAC_A, "10.9.0.2"), a).passed
    assert not two.run("from_guest", packet(MAC_A, "10.9.0.3"), a, tag=5).passed
    assert len(dict(hosts._routes.items())) == ROUTES
    assert hosts.set_routes({}) == []
    assert dict(hosts._routes.items()) == {}
    assert two.run("from_guest", packet(MAC_A, "20.0.0.1"), a).passed

"""Maps, pins, events and attachment: what the service above relies on."""

import asyncio
import errno
import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import AsyncIPRoute
from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether

from airtap.bpf.attach import detach
from airtap.bpf.libbpf import BpfError
from airtap.bpf.macnat import Macnat, open_macnat
from airtap.bpf.object import Object
from airtap.bpf.pins import remove_pins
from airtap.bpf.records import UNKNOWN_MAC, Entry, Event, pack_key
from airtap.bpf.role import CHILD, PARENT, Role
from airtap.errors import Problem
from airtap.kernel import clsact
from airtap.kernel.addresses import Address
from airtap.kernel.links import LinkError, LinkNotFound
from hatch_build import compile_object
from lab.probe import DROP, REDIRECT
from lab.sandbox import command
from tests.bpf.rig import Rig, devices

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
        two.run("learn", packet(MAC_A, "192.0.2.100"), two.devices[0], tag=0x6005)
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
    two.run("learn", packet(MAC_B, "192.0.2.200"), b)
    with watching(two.macnat) as seen:
        for n in range(10_000):
            two.run("learn", packet(MAC_A, str(IPv4Address("10.0.0.0") + n + 1)), a)
        two.run("learn", packet(MAC_B, "192.0.2.201"), b)
        two.macnat.events.consume()
    held = two.macnat.addresses.all()
    assert sum(entry.ifindex == a for entry in held) == 16
    assert {str(e.address) for e in held if e.ifindex == b} == {"192.0.2.200", "192.0.2.201"}
    assert [event.what for event in seen if event.ifindex == b] == ["learned"]
    mine = [event.what for event in seen if event.ifindex == a]
    assert "withheld" in mine
    counters = two.macnat.guests.counters()[a]
    assert (counters.learned, counters.evicted) == (10_000, 9_984)
    assert len(mine) - mine.count("withheld") + counters.unreported == 19_984


def test_refusals_are_reported_a_few_times_and_always_counted(two: Rig) -> None:
    a, b = two.devices[:2]
    two.run("learn", packet(MAC_B, "192.0.2.200"), b)
    two.macnat.hosts.set_addresses({HOST}, set())
    with watching(two.macnat) as seen:
        for n in range(1000):
            stranger = f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}"
            assert not two.run("learn", packet(stranger, "192.0.2.7"), a).passed
        assert not two.run("learn", packet(MAC_A, "192.0.2.200"), a).passed
        two.macnat.events.consume()
    counters = two.macnat.guests.counters()[a]
    assert (counters.wrong_mac, counters.guest_address) == (1000, 1)
    assert 8 <= len(seen) < 100
    assert {(event.what, event.reason) for event in seen} >= {("refused", "wrong-mac")}


def test_a_contested_address_is_the_newcomers_once_it_is_forgotten(two: Rig) -> None:
    a, b = two.devices[:2]
    frame = packet(MAC_B, "192.0.2.100")
    two.run("learn", packet(MAC_A, "192.0.2.100"), a)
    with watching(two.macnat) as seen:
        assert not two.run("learn", frame, b).passed
        two.macnat.events.consume()
        [event] = seen
        assert (event.reason, event.ifindex, event.other) == ("guest-address", b, a)
        assert event.address is not None
        two.macnat.addresses.forget(event.address, event.vlan)
        assert two.run("learn", frame, b).passed
    assert [entry.ifindex for entry in two.macnat.addresses.all()] == [b]


def test_a_silent_guest_loses_its_address_to_who_uses_it(two: Rig) -> None:
    a, b = two.devices[:2]
    two.run("learn", packet(MAC_A, "192.0.2.100"), a)
    two.age()
    with watching(two.macnat) as seen:
        assert two.run("learn", packet(MAC_B, "192.0.2.100"), b).passed
        two.macnat.events.consume()
    assert [(e.what, e.ifindex, e.other) for e in seen] == [("moved", b, a)]


def test_an_address_that_becomes_the_hosts_is_no_guests_any_more(two: Rig) -> None:
    two.run("learn", packet(MAC_A, str(HOST)), two.devices[0], tag=5)
    hosts: set[Address] = {HOST, IPv6Address("fe80::1")}
    taken = two.macnat.hosts.set_addresses(hosts, {IPv4Address("192.0.2.255")})
    assert [(entry.address, entry.vlan) for entry in taken] == [(HOST, 5)]
    assert two.macnat.addresses.all() == []
    assert two.macnat.hosts.addresses() == {HOST, IPv6Address("fe80::1")}
    assert not two.run("learn", packet(MAC_A, str(HOST)), two.devices[0]).passed
    two.macnat.hosts.set_addresses(set(), set())
    assert two.run("learn", packet(MAC_A, str(HOST)), two.devices[0]).passed


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
    two.run("learn", packet(MAC_B, "192.0.2.101"), b)
    with watching(two.macnat) as seen:
        for silent in (
            arp_probe(MAC_A, "192.0.2.101"),  # the sibling's: it will answer by itself
            arp_probe(MAC_A, str(HOST)),
            arp_probe(MAC_A, "0.0.0.0"),
            solicitation(MAC_A, "2001:db8::99", source="fe80::a"),  # a question, no probe
            solicitation(MAC_A, "2001:db8::77")[:70],
        ):
            assert two.run("learn", silent, a).passed
        two.macnat.events.consume()
        assert [event.what for event in seen] == ["learned"]  # fe80::a
        assert two.run("learn", arp_probe(MAC_A, "192.0.2.102"), a, tag=5).passed
        assert two.run("learn", solicitation(MAC_A, "2001:db8::10"), a).passed
        two.macnat.events.consume()
    assert [(e.what, e.ifindex, str(e.address), e.vlan, e.mac) for e in seen[1:]] == [
        ("probed", a, "192.0.2.102", 5, MAC_A),
        ("probed", a, "2001:db8::10", 0, MAC_A),
    ]
    assert {str(entry.address) for entry in two.macnat.addresses.all()} == {
        "192.0.2.101",
        "fe80::a",
    }


def test_an_ipvtaps_guest_is_known_by_its_first_word(two: Rig) -> None:
    two.macnat.config.set_role(Role("ipvtap"), "bridge")
    index = two.devices[0]
    two.macnat.guests.add(index, None)
    with watching(two.macnat) as seen:
        for nobodys in ("00:00:00:00:00:00", "03:00:00:00:0a:01"):
            assert two.run("learn", packet(nobodys, "192.0.2.100"), index).passed
        two.macnat.events.consume()
        assert seen == []
        assert not two.run("learn", packet(UPLINK, "192.0.2.100"), index).passed
        two.macnat.events.consume()
        assert (seen[0].reason, seen[0].mac) == ("wrong-mac", UPLINK)
        seen.clear()
        assert two.run("learn", packet(MAC_A, "192.0.2.100"), index, tag=5).passed
        assert not two.run("learn", packet(MAC_B, "192.0.2.100"), index, tag=5).passed
        two.macnat.events.consume()
    spoke, learned, refused = seen
    assert (spoke.what, spoke.ifindex, spoke.mac) == ("spoke", index, MAC_A)
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
        assert two.run("learn", packet(MAC_A, "192.0.2.100"), index).passed
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
    two.run("learn", packet(MAC_B, "192.0.2.7"), two.devices[0])
    assert two.macnat.guests.counters()[two.devices[0]].wrong_mac == 1
    two.macnat.guests.remove(two.devices[0])
    two.macnat.guests.remove(two.devices[0])
    two.macnat.guests.add(two.devices[0], MAC_A)
    assert two.macnat.guests.counters()[two.devices[0]].wrong_mac == 0


# Pins and attachment

DIRECTORY = Path("/sys/fs/bpf/airtap/test-1")


@contextmanager
def opened() -> Iterator[Macnat]:
    found = open_macnat(DIRECTORY)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def pins() -> Iterator[Path]:
    yield DIRECTORY
    remove_pins(DIRECTORY)


def filters(name: str) -> list[dict[str, Any]]:
    found = []
    for direction in ("ingress", "egress"):
        listed = json.loads(command("tc", "-j", "filter", "show", "dev", name, direction))
        found += [f["options"] | {"where": direction} for f in listed if "options" in f]
    return found


def qdiscs(name: str) -> str:
    return command("tc", "qdisc", "show", "dev", name)


def test_state_and_programs_outlive_the_daemon(pins: Path) -> None:
    with devices("mn0") as [ifindex]:

        async def first() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as one:
                    one.config.set_parent(1, UPLINK)
                    one.hosts.set_addresses({HOST}, set())
                    one.guests.add(7, MAC_A)
                    assert not await one.programs.is_attached(ipr, ifindex, PARENT["macvtap"])
                    await one.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    await one.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    assert await one.programs.is_attached(ipr, ifindex, PARENT["macvtap"])

        async def second() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as two:
                    assert two.config.parent_mac() == UPLINK
                    assert two.hosts.addresses() == {HOST}
                    assert two.guests.macs() == {7: MAC_A}
                    assert await two.programs.is_attached(ipr, ifindex, PARENT["macvtap"])
                    assert not await two.programs.is_attached(ipr, ifindex, CHILD["macvtap"])
                    before = filters("mn0")
                    await two.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    assert filters("mn0") == before
                    await detach(ipr, ifindex)
                    await detach(ipr, ifindex)
                    assert "clsact" not in qdiscs("mn0")

        asyncio.run(first())
        assert {f["bpf_name"] for f in filters("mn0")} == {"airtap_up", "airtap_down"}
        asyncio.run(second())


def test_programs_on_other_maps_are_replaced(pins: Path) -> None:
    with devices("mn0") as [ifindex]:

        async def scenario() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as one:
                    await one.programs.attach(ipr, ifindex, PARENT["macvtap"])
                remove_pins(DIRECTORY)
                with opened() as two:
                    assert not await two.programs.is_attached(ipr, ifindex, PARENT["macvtap"])
                    await two.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    assert await two.programs.is_attached(ipr, ifindex, PARENT["macvtap"])
                assert len(filters("mn0")) == 2

        asyncio.run(scenario())


@pytest.mark.parametrize(
    "kind, on_child, on_parent",
    [
        ("macvtap", ["egress airtap_learn"], ["ingress airtap_down", "egress airtap_up"]),
        (
            "ipvtap",
            ["egress airtap_learn", "egress airtap_up", "egress airtap_across"],
            ["ingress airtap_down"],
        ),
    ],
)
def test_what_a_device_carries(
    pins: Path, kind: str, on_child: list[str], on_parent: list[str]
) -> None:
    """In the order in which the kernel lists them, and runs them: by priority."""
    with devices("mn0", "mn1") as [parent, child]:

        async def scenario() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as found:
                    found.config.set_role(Role(kind), "bridge")
                    await found.programs.attach(ipr, parent, PARENT[kind])
                    await found.programs.attach(ipr, child, CHILD[kind])
                    assert await found.programs.is_attached(ipr, parent, PARENT[kind])
                    assert await found.programs.is_attached(ipr, child, CHILD[kind])
                    assert not await found.programs.is_attached(ipr, child, ("down",))
                listed = [f"{f['where']} {f['bpf_name']}" for f in filters("mn0")]
                assert listed == on_parent
                assert [f"{f['where']} {f['bpf_name']}" for f in filters("mn1")] == on_child
                await detach(ipr, child)
                assert filters("mn1") == []
                assert "clsact" not in qdiscs("mn1")

        asyncio.run(scenario())


def test_kind_and_mode_outlive_the_daemon(pins: Path) -> None:
    skb = struct.Struct("=40xI148x")  # with its ifindex
    with devices("mn0", "mn1") as [a, b]:
        with opened() as one:
            assert one.config.kind() == "macvtap"
            one.config.set_role(Role("ipvtap"), "private")
            one.config.set_parent(1, UPLINK)
            one.guests.add(b, None)
            one.programs["learn"].test_run(packet(MAC_B, "192.0.2.1"), skb.pack(b))
        with opened() as two:
            assert two.config.kind() == "ipvtap"
            assert two.guests.macs() == {b: MAC_B}
            to_b = packet(UPLINK, "192.0.2.100")
            assert two.programs["across"].test_run(to_b, skb.pack(a)).verdict == DROP
            two.config.set_timing()
            two.config.set_role(Role("ipvtap"), "bridge")
            assert two.programs["across"].test_run(to_b, skb.pack(a)).verdict == REDIRECT
            two.config.set_role(Role("macvtap"), "vepa")
            assert (two.config.kind(), two.config.parent_mac()) == ("macvtap", UPLINK)


def test_foreign_filters_and_their_clsact_stay(pins: Path) -> None:
    with devices("mn0") as [ifindex]:
        command("tc", "qdisc", "add", "dev", "mn0", "clsact")
        foreign = clsact.Hook(clsact.EGRESS, 7, "somebody_else")
        in_the_way = clsact.Hook(clsact.EGRESS, 0xA3, "somebody_else")

        async def scenario() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as found:
                    program = found.programs["learn"].fd
                    await clsact.attach(ipr, ifindex, foreign, program)
                    await found.programs.attach(ipr, ifindex, CHILD["macvtap"])
                    assert len(filters("mn0")) == 2
                    await detach(ipr, ifindex)
                    assert [f["bpf_name"] for f in filters("mn0")] == ["somebody_else"]
                    await clsact.attach(ipr, ifindex, in_the_way, program)
                    with pytest.raises(LinkError):
                        await found.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    await detach(ipr, ifindex)

        asyncio.run(scenario())
        assert len(filters("mn0")) == 2
        assert "clsact" in qdiscs("mn0")


def test_an_ingress_qdisc_is_no_clsact(pins: Path) -> None:
    with devices("mn0") as [ifindex]:
        command("tc", "qdisc", "add", "dev", "mn0", "ingress")

        async def scenario() -> None:
            async with AsyncIPRoute() as ipr:
                with opened() as found:
                    with pytest.raises(LinkError) as caught:
                        await found.programs.attach(ipr, ifindex, PARENT["macvtap"])
                    assert caught.value.errno == errno.EEXIST
                    with pytest.raises(LinkNotFound):
                        await found.programs.attach(ipr, 99_999, PARENT["macvtap"])
                    await detach(ipr, 99_999)

        asyncio.run(scenario())
        assert filters("mn0") == []


def test_pins_of_another_version_are_replaced(pins: Path) -> None:
    with opened() as one:
        one.guests.add(7, MAC_A)
    (DIRECTORY / "addresses").unlink()
    (DIRECTORY / "guests").rename(DIRECTORY / "addresses")
    with opened() as two:
        assert two.guests.macs() == {}


# struct config as it was before it had a kind.
FORMER_CONFIG = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 32);
} config SEC(".maps");
"""


def test_a_config_of_the_former_layout_is_replaced(pins: Path, tmp_path: Path) -> None:
    with opened() as one:
        one.guests.add(7, MAC_A)
        one.config.set_role(Role("ipvtap"), "private")
    (DIRECTORY / "config").unlink()
    source, target = tmp_path / "former.bpf.c", tmp_path / "former.bpf.o"
    source.write_text(FORMER_CONFIG)
    compile_object(source, target)
    with Object(target.read_bytes(), "former") as former:
        former.pin_maps(DIRECTORY)
        former.load()
    with opened() as two:
        assert (two.config.kind(), two.config.parent_mac()) == ("macvtap", UNKNOWN_MAC)
        assert two.guests.macs() == {}


def test_a_missing_bpffs_is_named() -> None:
    with pytest.raises(Problem) as caught:
        open_macnat(Path("/run/airtap-no-bpffs/1"))
    assert caught.value.code == "no-macnat"
    assert "mount -t bpf" in caught.value.hint


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
        assert two.run("learn", frame, index).passed == passes
    assert two.macnat.guests.counters()[index].malformed == 2


def test_arp_of_the_gateway_is_dropped(two: Rig) -> None:
    two.macnat.hosts.set_addresses({IPv4Address("192.0.2.1")}, set())
    claim = raw(Ether(src=MAC_A, dst=MAC_B) / ARP(op=2, hwsrc=MAC_A, psrc="192.0.2.1"))
    probe = raw(Ether(src=MAC_A) / ARP(op=1, hwsrc=MAC_A, psrc="0.0.0.0", pdst="192.0.2.1"))
    assert not two.run("learn", claim, two.devices[0]).passed
    assert two.run("learn", probe, two.devices[0]).passed

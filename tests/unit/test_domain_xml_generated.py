"""Every rewrite of every kind of network card that libvirt's schema allows (domain_samples.py)."""

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from airtap.errors import Problem
from airtap.libvirt.domain_xml import Attachment, connect, disconnect
from airtap.libvirt.incoming import devices_named, for_this_host
from airtap.libvirt.reader import Domain, Interface, scan_domain
from tests.unit.domain_samples import DOCUMENTED, DOMAIN, Grammar, load_schema, samples, valid

pytestmark = pytest.mark.skipif(not DOMAIN.exists(), reason="libvirt's schemas are not installed")

COUNT = 400
WANTED = {
    "network": Attachment("network", "lan & 'more'"),
    "direct": Attachment("macvtap", "wlan0", "private"),
    "ethernet": Attachment("ipvtap", "wlan0"),
}
# The children that a card keeps, as they are, with its new type. All others go, but for <source>,
# <target>, and what refuses a card.
KEPT = {"mac", "model", "boot", "driver", "link", "rom", "tune", "alias", "acpi", "address"}
KEPT |= {"bandwidth", "teaming", "guest"}
STAYING = {
    "network": KEPT | {"mtu", "coalesce", "port", "filterref"},
    "direct": KEPT,
    "ethernet": KEPT | {"mtu", "filterref"},
}


@dataclass(frozen=True)
class Sample:
    number: int
    xml: bytes
    domain: Domain


@cache
def schema() -> Any:
    return load_schema()


@cache
def all_samples() -> list[Sample]:
    return [Sample(n, xml, scan_domain(xml)) for n, xml in enumerate(samples(COUNT))]


def inner(xml: bytes, nic: Interface, names: set[str]) -> list[bytes]:
    """The text of a card's children that have one of these names."""
    return [xml[e.start : e.end] for e in nic.element.children if e.name in names]


def common(one: bytes, other: bytes) -> int:
    """How many bytes are the same at the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def insertion(old: bytes, new: bytes) -> bytes:
    """What was put into old, at one place, to make it new. <metadata/> may have been opened."""
    start = common(old, new)
    end = common(old[start:][::-1], new[start:][::-1])
    gone = old[start : len(old) - end]
    assert gone == b"" or re.fullmatch(rb"/|\s*/>|\s*/>\s*", gone), gone
    return new[start : len(new) - end]


def test_samples() -> None:
    """The samples are what they are meant to be: valid, many, and of everything there is."""
    found = all_samples()
    assert len(found) == COUNT + len(DOCUMENTED)
    assert [(s.number, why) for s in found if (why := valid(s.xml, schema()))] == []
    assert valid(found[0].xml.replace(b"<devices>", b"<devices><nonsense/>"), schema())
    cards = [nic for s in found for nic in s.domain.interfaces]
    types = Counter(nic.type for nic in cards)
    common = ["bridge", "direct", "ethernet", "network", "user"]
    rare = ["client", "hostdev", "internal", "mcast", "null", "server", "udp", "vdpa", "vhostuser"]
    assert types.keys() >= {*common, *rare}
    assert all(types[name] > 100 for name in common)
    children = {child.name for nic in cards for child in nic.element.children}
    assert children >= Grammar().children("interface", "interface")


def test_connect_and_disconnect() -> None:
    """Each card in each way: some 2,250 times it is done, some 900 times it is refused."""
    done = 0
    refused: Counter[str] = Counter()
    for sample in all_samples():
        xml = sample.xml.decode()
        for nic in sample.domain.interfaces:
            for new, wanted in WANTED.items():
                try:
                    connected = connect(xml, nic, wanted)
                except Problem as problem:
                    assert problem.code == "not-supported", sample.number
                    assert problem.hint
                    assert nic.mac in problem.message
                    refused[problem.message.removeprefix(f"network card {nic.mac} ")] += 1
                    continue
                done += 1
                expect_connected(sample, nic, new, connected.encode())
                assert connect(connected, nic, wanted) == connected, sample.number
                assert disconnect(connected, nic.mac) == xml, sample.number
    print(f"{done} connected, {refused.total()} refused: {refused}")
    assert done > 2000
    assert refused.total() < done / 2
    assert len(refused) > 10


def expect_connected(sample: Sample, nic: Interface, new: str, xml: bytes) -> None:
    assert not valid(xml, schema()), (sample.number, valid(xml, schema()))
    domain = scan_domain(xml)
    index = sample.domain.interfaces.index(nic)
    card = domain.interfaces[index]
    (mark,) = domain.nic_metadata
    assert (card.type, card.mac, mark.mac) == (new, nic.mac, nic.mac)
    assert mark.original.encode() == sample.xml[nic.start : nic.end]
    assert inner(xml, card, STAYING[new]) == inner(sample.xml, nic, STAYING[new])
    assert {child.name for child in card.element.children} <= STAYING[new] | {"source", "target"}
    if new == "network":
        assert card.source == {"network": WANTED[new].name}
        assert mark.device == mark.parent == mark.kind == ""
    elif new == "direct":
        assert card.source == {"dev": "wlan0", "mode": "private"}
        assert mark.device == mark.parent == mark.kind == ""
    else:
        assert (card.source, card.managed) == ({}, False)
        assert (mark.device, mark.parent, mark.kind) == (card.target, "wlan0", "ipvtap")
    assert card.managed or new == "ethernet"
    before = insertion(sample.xml[: nic.start], xml[: card.start])
    after = insertion(sample.xml[nic.end :], xml[card.end :])
    assert bool(before) != bool(after)
    assert b"airtap:nic" in before + after


def test_all_cards_of_a_domain() -> None:
    """Connected one after the other, and disconnected in another order."""
    for sample in all_samples():
        xml = sample.xml.decode()
        macs = []
        for number, nic in enumerate(sample.domain.interfaces):
            try:
                xml = connect(xml, nic, list(WANTED.values())[number % 3])
                macs.append(nic.mac)
            except Problem:
                pass
        if len(macs) < 2:
            continue
        assert not valid(xml.encode(), schema()), sample.number
        assert [mark.mac for mark in scan_domain(xml.encode()).nic_metadata] == macs
        for mac in macs[1:] + macs[:1]:
            xml = disconnect(xml, mac)
        assert xml.encode() == sample.xml, sample.number


def test_for_this_host() -> None:
    """Samples as they are, and with every card on an ipvtap that can be."""
    changed = 0
    for sample in all_samples():
        xml = sample.xml.decode()
        for nic in sample.domain.interfaces[::2]:
            with suppress(Problem):
                xml = connect(xml, nic, WANTED["ethernet"])
        for stored in {sample.xml, xml.encode()}:
            assert for_this_host(stored, {}) == stored
            assert for_this_host(stored, {"none": "eth7"}) == stored
            names = devices_named(scan_domain(stored))
            here = for_this_host(stored, dict.fromkeys(names, "wlan7"))
            assert not valid(here, schema()), (sample.number, valid(here, schema()))
            changed += expect_here(stored, here, names)
            assert for_this_host(here, {"wlan7": "wlan7"}) == here
    print(f"{changed} cards changed")
    assert changed > 200


def expect_here(stored: bytes, here: bytes, names: set[str]) -> int:
    """Every changed card stands on wlan7 now, all else is as it was. Returns how many changed."""
    old, new = scan_domain(stored), scan_domain(here)
    assert len(old.interfaces) == len(new.interfaces)
    assert devices_named(new) == ({"wlan7"} if names else set())
    changed = 0
    stored_rest, here_rest = stored, here
    for nic, card in list(zip(old.interfaces, new.interfaces, strict=True))[::-1]:
        text = stored[nic.start : nic.end]
        stored_rest = stored_rest[: nic.start] + stored_rest[nic.end :]
        here_rest = here_rest[: card.start] + here_rest[card.end :]
        if here[card.start : card.end] == text:
            continue
        changed += 1
        assert (card.type, card.source["dev"]) == ("direct", "wlan7")
        assert nic.type in ("bridge", "direct", "ethernet")
        assert not inner(stored, nic, {"vlan"})
        assert inner(here, card, KEPT) == inner(stored, nic, KEPT)
        mode = nic.source.get("mode") if nic.type == "direct" else "bridge"
        assert card.source.get("mode") == mode
    assert stored_rest == here_rest
    return changed

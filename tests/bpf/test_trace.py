"""What trace.h tells of frames, and that a bent line of it is noticed."""

from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv4Network

import pytest
from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from airtap.bpf.attach import Role
from airtap.bpf.trace_record import (
    DROP,
    EVERYONE,
    NOBODY,
    PASS,
    REDIRECT,
    SNAP,
    Record,
    concerns,
    record,
)
from airtap.trace.correlate import ARRIVED, EVICTED, LEARNED, REFUSED
from tests.bpf.rig import Rig

UPLINK, ROUTER = "02:00:00:00:00:01", "02:00:00:00:00:03"
MAC_A, MAC_B = "02:00:00:00:0a:01", "02:00:00:00:0b:01"
A, B, HOST, LAN = "192.0.2.100", "192.0.2.200", "192.0.2.10", "192.0.2.1"


def packet(mac: str, to: str, source: str, target: str, size: int = 40) -> bytes:
    return raw(Ether(src=mac, dst=to) / IP(src=source, dst=target) / UDP() / (b"!" * size))


def told(rig: Rig) -> list[Record]:
    """What was told since it was last asked."""
    packed = rig.macnat.tracer.read(10_000)
    records = [record(one) for one in packed]
    names = [(one.whose, one.name) for one in records]
    assert names == [concerns(one) for one in packed]
    return records


def facts(rig: Rig) -> list[tuple[str, int, int]]:
    return [(one.name, one.whose, one.verdict) for one in told(rig)]


def begin(rig: Rig, kind: str = "macvtap") -> tuple[int, int]:
    """Two guests that have spoken, of which the first is traced. Returns their ifindexes."""
    rig.reset()
    a, b = rig.devices[:2]
    rig.macnat.config.set_role(Role(kind), "bridge")
    rig.macnat.config.set_parent(1, UPLINK)
    rig.macnat.hosts.set_addresses({IPv4Address(HOST)}, set())
    for index, mac, address in ((a, MAC_A, A), (b, MAC_B, B)):
        rig.macnat.guests.add(index, mac)
        rig.run("from_guest", packet(mac, ROUTER, address, LAN), index)
    assert told(rig) == []
    rig.macnat.tracer.add(a, MAC_A)
    return a, b


def way_up(rig: Rig) -> None:
    """A guest's frames: as found and as left; another guest's are not told of."""
    a, b = begin(rig)
    rig.macnat.tracer.add(NOBODY, None)
    frame = packet(MAC_A, ROUTER, A, LAN)
    rig.run("from_guest", frame, a)
    sent = rig.run("to_uplink", frame, 1).frame
    for program, index in (("from_guest", b), ("to_uplink", 1)):
        rig.run(program, packet(MAC_B, ROUTER, B, LAN), index)
    rig.run("to_uplink", packet(UPLINK, ROUTER, HOST, LAN), 1)
    first, second = told(rig)
    assert (first.name, first.whose, first.verdict, first.said) == ("from_guest", a, PASS, 0)
    assert (first.before, first.after) == (frame, frame)
    assert (second.name, second.whose, second.verdict) == ("to_uplink", a, PASS)
    assert (second.before, second.after, second.before_length) == (frame, sent, len(frame))
    assert first.time < second.time
    assert (first.key, first.key_family) == (bytes(16), 0)  # and not what another guest learned


def guards(rig: Rig) -> None:
    """Why from_guest refuses, what it learns, and what it forgets for that."""
    a, _ = begin(rig)
    rig.run("from_guest", packet(MAC_B, ROUTER, "192.0.2.7", LAN), a)
    rig.run("from_guest", packet(MAC_A, ROUTER, HOST, LAN), a)
    rig.run("from_guest", packet(MAC_A, ROUTER, B, LAN), a)
    found = [(one.verdict, one.said, one.reason) for one in told(rig)]
    assert found == [(DROP, 1 << 3, reason) for reason in range(3)]
    assert REFUSED == 1 << 3
    for number in range(16):
        rig.run("from_guest", packet(MAC_A, ROUTER, f"10.0.0.{number + 1}", LAN), a)
    rig.run("from_guest", packet(MAC_A, ROUTER, "10.0.0.16", LAN), a)
    rig.run("from_guest", packet(MAC_A, ROUTER, HOST, LAN), a)
    rig.run("from_guest", packet(MAC_A, ROUTER, "10.0.0.16", LAN), a)
    *_, last, again, refused, plain = told(rig)
    assert (last.said, last.key[:4], last.key_family) == (LEARNED | EVICTED, IP10_16, 4)
    assert (last.evicted[:4], last.evicted_family) == (IPv4Address(A).packed, 4)
    assert (again.said, again.key_family, again.evicted_family) == (0, 0, 0)
    assert (refused.reason, refused.evicted) == (1, bytes(16))
    assert (plain.reason, plain.key, plain.evicted) == (0, bytes(16), bytes(16))


def arrivals(rig: Rig) -> None:
    """A guest says by RARP that it is here, in nobody else's name, and claims nothing."""
    a, _ = begin(rig)
    for mac, kind in ((MAC_A, 0x8035), (MAC_B, 0x8035), (MAC_A, 0x88CC)):
        rig.run("from_guest", raw(Ether(src=mac, dst=ROUTER, type=kind)).ljust(60, b"\0"), a)
    rig.macnat.guests.add(a, None)
    rig.run("from_guest", raw(Ether(src=MAC_A, dst=ROUTER, type=0x8035)).ljust(60, b"\0"), a)
    found = [(one.verdict, one.said) for one in told(rig)]
    assert found == [(PASS, ARRIVED), (DROP, REFUSED), (PASS, 0), (PASS, 0)]


def way_down(rig: Rig) -> None:
    """What is for the guest, for all, for nobody; and not what is another's or the host's."""
    a, _ = begin(rig)
    rig.macnat.tracer.add(NOBODY, None)
    rig.run(
        "from_uplink", packet(ROUTER, "02:00:00:00:00:99", LAN, A), 1
    )  # flooded, for another host
    for address in (A, B, HOST, "192.0.2.99"):
        rig.run("from_uplink", packet(ROUTER, UPLINK, LAN, address), 1)
    rig.run("from_uplink", packet(ROUTER, "02:00:00:00:00:99", LAN, "192.0.2.99"), 1)
    question = ARP(hwsrc=ROUTER, psrc=LAN, pdst="192.0.2.98")
    rig.run("from_uplink", raw(Ether(src=ROUTER, dst="ff:ff:ff:ff:ff:ff") / question), 1)
    rig.run("from_uplink", raw(Ether(src=ROUTER, dst=UPLINK) / question), 1)
    rig.run("from_uplink", raw(Ether(src=ROUTER, dst=UPLINK) / ARP(hwsrc=UPLINK, psrc=A)), 1)
    assert facts(rig) == [
        ("from_uplink", a, PASS),
        ("from_uplink", NOBODY, PASS),
        *[("from_uplink", EVERYONE, PASS)] * 2,
        ("from_uplink", NOBODY, DROP),
    ]


def from_host(rig: Rig) -> None:
    """What uplink_egress gives the guest, and what is for all; what passes it by is nobody's."""
    a, b = begin(rig)
    rig.macnat.hosts.set_on_link({IPv4Network("192.0.2.0/24")})
    for mac, index in ((MAC_A, a), (MAC_B, b)):
        rig.macnat.host_access.add(mac, index)
    rig.macnat.tracer.add(NOBODY, None)
    for mac, address in ((MAC_A, A), (MAC_A, "198.51.100.1"), (MAC_A, B), (MAC_A, LAN)):
        rig.run("uplink_egress", packet(UPLINK, mac, HOST, address), 1)
    for mac, address in ((MAC_B, B), (MAC_B, "198.51.100.1"), (ROUTER, LAN)):
        rig.run("uplink_egress", packet(UPLINK, mac, HOST, address), 1)
    rig.run("uplink_egress", packet(UPLINK, "ff:ff:ff:ff:ff:ff", HOST, "255.255.255.255"), 1)
    assert facts(rig) == [
        ("uplink_egress", a, REDIRECT),
        *[("uplink_egress", NOBODY, PASS)] * 3,
        ("uplink_egress", EVERYONE, PASS),
    ]


def not_even_copied(rig: Rig) -> None:
    """What the host sends to the LAN does not pay for a trace."""
    a, _ = begin(rig)
    rig.macnat.host_access.add(MAC_A, a)
    rig.run("uplink_egress", packet(UPLINK, MAC_A, HOST, "203.0.113.1"), 1)
    assert IPv4Address("203.0.113.1").packed in rig.records()
    for program, mac in (("uplink_egress", ROUTER), ("to_uplink", ROUTER), ("to_uplink", MAC_A)):
        rig.run(program, packet(UPLINK, mac, HOST, "203.0.113.2"), 1)
    assert IPv4Address("203.0.113.2").packed not in rig.records()


def nobodys(rig: Rig) -> None:
    """What is nobody's takes no room while nobody hears it."""
    a, _ = begin(rig)
    stray = packet(ROUTER, UPLINK, LAN, "192.0.2.99")
    rig.run("from_uplink", stray, 1)
    assert facts(rig) == []
    rig.macnat.tracer.add(NOBODY, None)
    rig.run("from_uplink", stray, 1)
    assert facts(rig) == [("from_uplink", NOBODY, PASS)]
    rig.macnat.tracer.remove(NOBODY)
    rig.run("from_uplink", stray, 1)
    rig.run("from_guest", packet(MAC_A, ROUTER, A, LAN), a)
    assert facts(rig) == [("from_guest", a, PASS)]


def siblings(rig: Rig) -> None:
    """On ipvtaps: what the guest says to a sibling, and the other way round."""
    a, b = begin(rig, "ipvtap")
    rig.run("to_uplink", packet(MAC_A, UPLINK, A, B), a)
    rig.run("to_sibling", packet(UPLINK, UPLINK, A, B), a)
    rig.run("to_sibling", packet(UPLINK, UPLINK, B, A), b)
    rig.run("to_sibling", packet(UPLINK, ROUTER, B, LAN), b)
    rig.run("from_uplink", packet(ROUTER, UPLINK, LAN, A), 1)
    assert facts(rig) == [
        ("to_uplink", a, PASS),
        ("to_sibling", a, REDIRECT),
        ("to_sibling", a, REDIRECT),
        ("from_uplink", a, REDIRECT),
    ]


def room(rig: Rig) -> None:
    """Heads are cut, what finds no room is counted, and nothing of a former frame remains."""
    a, _ = begin(rig)
    frame = packet(MAC_A, ROUTER, A, LAN, 1000)
    rig.run("from_guest", frame, a)
    rig.run("from_guest", packet(MAC_A, ROUTER, A, LAN), a)
    long, short = told(rig)
    assert (long.before, long.after) == (frame[:SNAP], frame[:SNAP])
    assert (long.before_length, long.after_length) == (1042, 1042)
    assert (len(short.before), short.before_length) == (82, 82)
    assert rig.macnat.tracer.lost() == 0
    for _ in range(1000):
        rig.run("from_guest", packet(MAC_A, ROUTER, A, LAN), a)
    lost = rig.macnat.tracer.lost()
    assert 600 < lost < 800
    assert len(rig.macnat.tracer.read(100)) == 100
    assert len(told(rig)) == 900 - lost
    rig.macnat.tracer.stop()
    rig.run("from_guest", packet(MAC_A, ROUTER, A, LAN), a)
    rig.macnat.tracer.add(rig.devices[1], MAC_B)
    rig.run("from_guest", packet(MAC_A, ROUTER, A, LAN), a)
    assert (told(rig), rig.macnat.tracer.lost()) == ([], 0)


IP10_16 = IPv4Address("10.0.0.16").packed
CHECKS = (
    way_up,
    guards,
    arrivals,
    way_down,
    from_host,
    not_even_copied,
    nobodys,
    siblings,
    room,
)
MUTANTS = {
    "before is after": ("copy_head(skb, r->after, &", "copy_head(skb, r->before, &"),
    "notes of former frames": ("\tr->said = 0;\n", ""),
    "addresses of former frames": ("\tr->key = (struct key){};\n", ""),
    "evicted in former frames": ("\tr->evicted = (struct key){};\n", ""),
    "reasons of former frames": ("\tr->reason = 0;\n", ""),
    "what the host sends to the router": ("if (r->verdict != TC_ACT_REDIRECT)", "if (0)"),
    "the host's to other guests": (
        "\tif (r->whose == NOBODY)\n\t\treturn false;\n\tif (r->verdict",
        "\tif (r->verdict",
    ),
    "the host's broadcasts": ("return r->said;", "return false;"),
    "no reasons": ("r->reason = what >> 8;", ""),
    "evicted as learned": ("if ((what & 0xff) == EVICTED)", "if (0)"),
    "other guests' on the way up": (
        "return r->whose != NOBODY &&\n\t\t       (r->program == TO_UPLINK",
        "return (1",
    ),
    "other guests' on the way down": (
        "false;\n\tr->whose = tracee(entry->ifindex);\n\treturn r->whose != NOBODY;",
        "false;\n\treturn true;",
    ),
    "the host's is nobody's": ("same(to.w, cfg->parent.w) && !is_host(&key)", "true"),
    "at a foreign MAC": ("if (!same(to.w, entry->mac.w))", "if (0)"),
    "nobody's for nobody": ("(r->whose == NOBODY && !is_all_seen())", "0"),
    "nobody's for none": ("(r->whose == NOBODY && !is_all_seen())", "r->whose == NOBODY"),
    "the host's are copied": ("if (is_hosts_own(skb, program))", "if (0)"),
    "the host's on the way up are copied": ("return program == TO_UPLINK || !(", "return !("),
    "the host's to guests are not": (" || bpf_map_lookup_elem(&macs, &to));", ");"),
    "groups unheard": (
        "if (is_group(to.w)) {\n\t\tr->whose = EVERYONE;\n\t\treturn true",
        "if (0) {",
    ),
    "siblings unheard": ("entry ? tracee(entry->ifindex) : NOBODY;", "NOBODY;"),
    "lost uncounted": ("__sync_fetch_and_add(&tracing.lost, 1)", ""),
    "no arrivals": ("report(&c, table, &c.key, ARRIVED, 0);", ";"),
    "everything arrives": ("f->proto == bpf_htons(ETH_P_RARP) && c.learn", "c.learn"),
    "whoever arrives": ("f->proto == bpf_htons(ETH_P_RARP) && c.learn", "f->proto == 0x3580"),
    "a short snap": ("length = SNAP;", "length = 100;"),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_is_told(loaded: Rig, check: Callable[[Rig], None]) -> None:
    try:
        check(loaded)
    finally:
        loaded.macnat.tracer.stop()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_changed_line_is_noticed(name: str, noticed: dict[str, Future[bool]]) -> None:
    assert noticed[name].result()


def check_all(rig: Rig) -> None:
    for check in CHECKS:
        try:
            check(rig)
        except ValueError as exc:  # another number of records than there are names for
            raise AssertionError from exc
        rig.macnat.tracer.stop()

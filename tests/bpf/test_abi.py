"""abi.h, and what Python has of it, are the same; and pinned maps keep their layout."""

import re
import struct

import pytest

from airtap.bpf import records, trace_record, tracer
from airtap.bpf.attach import HOOKS, KINDS
from airtap.kernel.ifinfo import IPVLAN_MODES
from airtap.trace import correlate
from hatch_build import SOURCES, compile_object
from tests.bpf.btf import Btf
from tests.bpf.rig import Rig

CONSTANTS = {
    "PASS": trace_record.PASS,
    "DROP": trace_record.DROP,
    "TC_ACT_REDIRECT": trace_record.REDIRECT,
    "GUESTS": records.GUESTS,
    "PREFIXES": records.PREFIXES,
    "PROBES": records.PROBES,
    "ROUTES": records.ROUTES,
    "BEHIND": records.BEHIND,
    "UNTAGGED": records.UNTAGGED,
    "TAGGED": records.TAGGED,
    "IPV4_SLOTS": records.IPV4_QUOTA,
    "IPV6_SLOTS": records.IPV6_QUOTA,
    "SNAP": trace_record.SNAP,
    "EVERYONE": trace_record.EVERYONE,
    "NOBODY": trace_record.NOBODY,
    "IN_USE": records.IN_USE,
    "TENTATIVE": records.TENTATIVE,
    "GATEWAY": records.GATEWAY,
    "SAID_WITHHELD": correlate.WITHHELD,
    "SAID_COPIED": correlate.COPIED,
    "SAID_CONFIGURES": correlate.CONFIGURES,
}
ENUMS = {
    "kind": KINDS,
    "mode": IPVLAN_MODES,
    "reason": (*records._REASONS, "reasons"),
    "what": records._CHANGES,
    "program": trace_record.PROGRAMS,
}
# What a struct.Struct has: a structure, whether all of it, and its members in order.
_KEY = "key.address key.vlan key.family"
_EVICTED = "evicted.address evicted.vlan evicted.family"
MIRRORS = [
    (records._MAC, "mac", "w"),
    (records._CONFIG, "config", "parent.w ifindex observe alive refresh kind mode behind"),
    (records._KEY, "key", "address vlan family"),
    (records._ENTRY, "entry", "fresh_until last_seen ifindex slot mac.w"),
    (records._BEARER, "bearer", "last_seen address.address address.vlan address.family ifindex"),
    (records._PREFIX, "prefix", "address mask family"),
    (records._ROUTE, "route", "bits family address"),
    (records._DHCP, "dhcp", "since unanswered in_uplinks_name settled choice tried hosts_address"),
    (records._BEHIND, "behind", "mac.w alone"),
    (records._EVENT, "event", f"time {_KEY} ifindex other mac.w what reason"),
    (tracer._STATE, "tracing", "generation lost"),
    (tracer._WHO, "who", "ifindex mac.w"),
]
HEADS = [
    (records._TABLE, "table", "last_seen refused learned moved evicted unreported"),
    (
        trace_record._HEAD,
        "record",
        "time whose before_length after_length verdict tag tag_proto said program reason"
        f" {_KEY} {_EVICTED} generation pad",
    ),
]
# (size of keys, size of values) of what is pinned. A map of another layout is made anew at an
# upgrade, with the loss of what it held, as are all beside it: not to be changed without need.
PINNED = {
    "config": (4, 40),
    "dhcp_state": (4, 32),
    "transactions": (4, 20),
    "hosts": (20, 4),
    "on_links": (4, 1152),
    "routes": (24, 4),
    "behind": (24, 12),
    "guests": (4, 8),
    "owners": (4, 4),
    "macs": (8, 4),
    "gateway": (4, 4),
    "listeners": (4, 4100),
    "bearers": (8, 32),
    "held": (4, 4),
    "probed": (4, 164),
    "tables": (4, 1664),
    "addresses": (20, 32),
    "statistics": (4, 16),
    "note": (4, 2048),
    "events": (0, 0),
    "tracees": (12, 4),
    "records": (4, 848),
    "traces": (0, 0),
    "payloads": (4, 2048),
    ".bss": (4, 8),
}


@pytest.fixture(scope="module")
def abi(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    """Of an object that has every type of abi.h, which the programs' own need not have."""
    directory = tmp_path_factory.mktemp("abi")
    types = re.findall(r"^(?:struct|enum) \w+(?= \{)", (SOURCES / "abi.h").read_text(), re.M)
    variables = [f"{one} variable{number};" for number, one in enumerate(types)]
    values = ", ".join(f"VALUE_{name} = (int)({name})" for name in CONSTANTS)
    lines = ['#include "abi.h"', *variables, f"enum constants {{ {values} }} constants;"]
    (directory / "abi.bpf.c").write_text("\n".join(lines) + "\n")
    compile_object(directory / "abi.bpf.c", directory / "abi.bpf.o", "-I", str(SOURCES))
    return Btf(directory / "abi.bpf.o")


def places(mirror: struct.Struct) -> list[tuple[int, int]]:
    """(offset, size) of what a struct.Struct reads, without what it passes over."""
    found, at = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", mirror.format):
        size = struct.calcsize(f"={count}{code}")
        if code != "x":
            found.append((at, size))
        at += size
    return found


@pytest.mark.parametrize(
    "mirror, name, paths", [*MIRRORS, *HEADS], ids=lambda value: str(value)[:9]
)
def test_structures_are_the_same(abi: Btf, mirror: struct.Struct, name: str, paths: str) -> None:
    assert places(mirror) == [abi.place(name, path) for path in paths.split()]


@pytest.mark.parametrize("mirror, name, _", MIRRORS, ids=lambda value: str(value)[:9])
def test_structures_are_of_the_same_size(
    abi: Btf, mirror: struct.Struct, name: str, _: str
) -> None:
    assert mirror.size == abi.size(name)


def test_heads_end_where_the_rest_begins(abi: Btf) -> None:
    assert trace_record._HEAD.size == abi.place("record", "before")[0]
    snap = trace_record.SNAP
    assert [abi.place("record", name)[1] for name in ("before", "after")] == [snap, snap]
    assert abi.size("record") == trace_record._HEAD.size + 2 * snap
    assert abi.place("listeners", "count") == (0, 4)
    assert abi.place("listeners", "ifindex") == (4, 4 * records.GUESTS)
    assert abi.place("on_link", "prefixes") == (0, records._PREFIX.size * records.PREFIXES)


def test_fields_have_the_names_of_members(abi: Btf) -> None:
    assert records.Configuration._fields == abi.members("config")
    assert records.Entry._fields == abi.members("entry")


@pytest.mark.parametrize("name", ENUMS)
def test_enums_are_the_same(abi: Btf, name: str) -> None:
    words = [word.replace("-", "_").upper() for word in ENUMS[name]]
    assert abi.enum(name) == {word: number for number, word in enumerate(words)}


def test_constants_are_the_same(abi: Btf) -> None:
    values = {name.removeprefix("VALUE_"): n for name, n in abi.enum("constants").items()}
    assert values == {name: number & 0xFFFFFFFF for name, number in CONSTANTS.items()}


def test_every_bit_of_what_is_noted_has_its_name(abi: Btf) -> None:
    for name, number in abi.enum("what").items():
        assert getattr(correlate, name) == 1 << number


def test_every_program_has_its_hook(abi: Btf) -> None:
    assert {name.lower() for name in abi.enum("program")} == set(HOOKS)
    assert all(hook.name == f"airtap_{name}" for name, hook in HOOKS.items())


def test_pinned_maps_keep_their_layout(loaded: Rig) -> None:
    maps = {name: loaded._object.map(name) for name in PINNED}
    assert {name: (one.key_size, one.value_size) for name, one in maps.items()} == PINNED
    text = (SOURCES / "maps.h").read_text()
    declared = re.findall(r"^(?:SINGLE\(|TABLE\(|\} )(\w+)", text, re.M)
    assert {*declared, ".bss"} == set(PINNED)

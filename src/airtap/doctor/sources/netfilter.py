"""Chains of nftables that frames of guests can meet, through nfnetlink.

include/uapi/linux/netfilter/nf_tables.h. pyroute2 has no dump of chains and rules with their
devices and verdicts, so what is needed of them is read here. It takes CAP_NET_ADMIN.
"""

import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...kernel.genetlink import messages

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEWCHAIN, _GETCHAIN, _NEWRULE, _GETRULE = 3, 4, 6, 7
_ERROR, _DONE = 2, 3
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_HEADER = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_RECEIVE_BYTES = 1 << 17
_MOST_MESSAGES = 20_000
_ANSWER_S = 5.0
# Verdicts: include/uapi/linux/netfilter.h, nf_tables.h (enum nft_verdicts)
_NF_DROP = 0
_VERDICTS = {_NF_DROP: "drop", 1: "accept", -3: "jump", -4: "goto"}
# enum nft_meta_keys: IIFNAME, OIFNAME, BRI_IIFNAME, BRI_OIFNAME
_DEVICE_NAMES = {6, 7, 17, 18}
_VERDICT_REGISTER = bytes(4)
_LEGACY = "/proc/net/ip_tables_names"
# enum nf_inet_hooks, nf_dev_hooks; family numbers of include/uapi/linux/netfilter.h
_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 7: "bridge", 10: "ip6"}
_INET_INGRESS = 5
_FORWARD = 2


@dataclass(frozen=True)
class Rule:
    """verdict: "drop" (or reject), "accept", "jump", "goto", "map" (of verdicts), or "" for none.

    target: the chain to go on with. devices: the names by which alone it selects, none at all for
    a rule that selects nothing; None if it asks for more.
    """

    verdict: str
    target: str = ""
    devices: frozenset[str] | None = None


@dataclass(frozen=True)
class Chain:
    """A base chain. hook: "ingress", "egress" (of devices) or "forward".

    rules: of all chains of its table, by chain and in their order.
    """

    family: str
    table: str
    name: str
    hook: str
    devices: tuple[str, ...]
    policy_drop: bool
    rules: Mapping[str, Collection[Rule]] = field(default_factory=dict)


Attributes = list[tuple[int, bytes]]


def read() -> list[Chain]:
    """Base chains on hooks of devices, and of forwarding. Raises OSError (EPERM: not root)."""
    chains = [chain for chain in map(_chain, _dump(_GETCHAIN, _NEWCHAIN)) if chain]
    if not chains:
        return []
    tables: dict[tuple[str, str], dict[str, list[Rule]]] = {}
    for family, attributes in _dump(_GETRULE, _NEWRULE):
        table = _FAMILIES.get(family, ""), _text(_first(attributes, 1))
        rules = tables.setdefault(table, {}).setdefault(_text(_first(attributes, 2)), [])
        rules.append(_rule(attributes))
    return [replace(each, rules=tables.get((each.family, each.table), {})) for each in chains]


def has_legacy_rules() -> bool:
    """Whether iptables-legacy has a filter table, whose rules are not among these."""
    try:
        return "filter" in Path(_LEGACY).read_text().split()
    except OSError:
        return False


def _dump(command: int, answer: int) -> Iterator[tuple[int, Attributes]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.settimeout(_ANSWER_S)
        body = _NFGENMSG.pack(0, 0, 0)
        head = _HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM | command, _DUMP, 1, 0)
        netlink.send(head + body)
        for _ in range(_MOST_MESSAGES):
            for kind, payload in messages(netlink.recv(_RECEIVE_BYTES)):
                if kind in (_ERROR, _DONE):
                    _expect_success(payload)
                    return
                if kind == _SUBSYSTEM | answer:
                    yield payload[0], _attributes(payload[_NFGENMSG.size :])


def _expect_success(payload: bytes) -> None:
    [code] = struct.unpack_from("=i", payload)
    if code < 0:
        raise OSError(-code, os.strerror(-code))


def _chain(message: tuple[int, Attributes]) -> Chain | None:
    number, attributes = message
    family = _FAMILIES.get(number, "")
    hook = _attributes(_first(attributes, 4))
    place = _place(family, _big(_first(hook, 1))) if hook else ""
    if not place:
        return None
    names = [_first(hook, 3), *(name for _, name in _attributes(_first(hook, 4)))]
    return Chain(
        family=family,
        table=_text(_first(attributes, 1)),
        name=_text(_first(attributes, 3)),
        hook=place,
        devices=tuple(dict.fromkeys(_text(name) for name in names if name)),
        policy_drop=_first(attributes, 5) == _NF_DROP.to_bytes(4, "big"),
    )


def _place(family: str, number: int) -> str:
    if family == "netdev":
        return {0: "ingress", 1: "egress"}.get(number, "")
    if family == "inet" and number == _INET_INGRESS:
        return "ingress"
    return "forward" if number == _FORWARD else ""


def _rule(attributes: Attributes) -> Rule:
    verdict, target, plain = "", "", True
    devices: set[str] = set()
    for _, element in _attributes(_first(attributes, 4)):
        expression = _attributes(element)
        name, data = _text(_first(expression, 1)), _attributes(_first(expression, 2))
        if name == "reject":
            verdict = "drop"
        elif name == "immediate":
            verdict, target = _verdict(data)
        elif name == "lookup" and _first(data, 3) == _VERDICT_REGISTER:
            verdict, plain = "map", False
        elif name == "cmp" and not _big(_first(data, 2)):  # NFT_CMP_EQ
            devices.add(_text(_first(_attributes(_first(data, 3)), 1)))
        elif name != "counter" and not (name == "meta" and _big(_first(data, 2)) in _DEVICE_NAMES):
            plain = False
    return Rule(verdict, target, frozenset(devices) if plain else None)


def _verdict(data: Attributes) -> tuple[str, str]:
    """Of an immediate expression, and the chain that it names."""
    verdict = _attributes(_first(_attributes(_first(data, 2)), 2))
    code = int.from_bytes(_first(verdict, 1), "big", signed=True)
    return (_VERDICTS.get(code, "") if verdict else ""), _text(_first(verdict, 2))


def _attributes(octets: bytes) -> Attributes:
    """All attributes in their order: lists have several of one type."""
    found = []
    while len(octets) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(octets)
        if length < _ATTRIBUTE.size:
            break
        found.append((kind & _TYPE_MASK, octets[_ATTRIBUTE.size : length]))
        octets = octets[(length + 3) & ~3 :]
    return found


def _first(attributes: Attributes, kind: int) -> bytes:
    return next((value for number, value in attributes if number == kind), b"")


def _text(octets: bytes) -> str:
    return octets.rstrip(b"\0").decode(errors="replace")


def _big(octets: bytes) -> int:
    return int.from_bytes(octets, "big")

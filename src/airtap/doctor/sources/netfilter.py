"""Chains of nftables that frames of guests can meet, through nfnetlink.

include/uapi/linux/netfilter/nf_tables.h. pyroute2 has no dump of chains and rules with their
devices and verdicts, so what is needed of them is read here. It takes CAP_NET_ADMIN.
"""

import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...kernel.netlink import DUMP, Pairs, ask, pairs, text

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEWCHAIN, _GETCHAIN, _NEWRULE, _GETRULE = 3, 4, 6, 7
_NFGENMSG = struct.Struct("=BBH")
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


def read() -> list[Chain]:
    """Base chains on hooks of devices, and of forwarding. Raises OSError (EPERM: not root)."""
    chains = [chain for chain in map(_chain, _dump(_GETCHAIN, _NEWCHAIN)) if chain]
    if not chains:
        return []
    tables: dict[tuple[str, str], dict[str, list[Rule]]] = {}
    for family, attributes in _dump(_GETRULE, _NEWRULE):
        table = _FAMILIES.get(family, ""), text(_first(attributes, 1))
        rules = tables.setdefault(table, {}).setdefault(text(_first(attributes, 2)), [])
        rules.append(_rule(attributes))
    return [replace(each, rules=tables.get((each.family, each.table), {})) for each in chains]


def has_legacy_rules() -> bool:
    """Whether iptables-legacy has a filter table, whose rules are not among these."""
    try:
        return "filter" in Path(_LEGACY).read_text().split()
    except OSError:
        return False


def _dump(command: int, answer: int) -> Iterator[tuple[int, Pairs]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.settimeout(_ANSWER_S)
        body = _NFGENMSG.pack(0, 0, 0)
        for kind, payload in ask(netlink, _SUBSYSTEM | command, body, DUMP):
            if kind == _SUBSYSTEM | answer:
                yield payload[0], pairs(payload[_NFGENMSG.size :])


def _chain(message: tuple[int, Pairs]) -> Chain | None:
    number, attributes = message
    family = _FAMILIES.get(number, "")
    hook = pairs(_first(attributes, 4))
    place = _place(family, _big(_first(hook, 1))) if hook else ""
    if not place:
        return None
    names = [_first(hook, 3), *(name for _, name in pairs(_first(hook, 4)))]
    return Chain(
        family=family,
        table=text(_first(attributes, 1)),
        name=text(_first(attributes, 3)),
        hook=place,
        devices=tuple(dict.fromkeys(text(name) for name in names if name)),
        policy_drop=_first(attributes, 5) == _NF_DROP.to_bytes(4, "big"),
    )


def _place(family: str, number: int) -> str:
    if family == "netdev":
        return {0: "ingress", 1: "egress"}.get(number, "")
    if family == "inet" and number == _INET_INGRESS:
        return "ingress"
    return "forward" if number == _FORWARD else ""


def _rule(attributes: Pairs) -> Rule:
    verdict, target, plain = "", "", True
    devices: set[str] = set()
    for _, element in pairs(_first(attributes, 4)):
        expression = pairs(element)
        name, data = text(_first(expression, 1)), pairs(_first(expression, 2))
        if name == "reject":
            verdict = "drop"
        elif name == "immediate":
            verdict, target = _verdict(data)
        elif name == "lookup" and _first(data, 3) == _VERDICT_REGISTER:
            verdict, plain = "map", False
        elif name == "cmp" and not _big(_first(data, 2)):  # NFT_CMP_EQ
            devices.add(text(_first(pairs(_first(data, 3)), 1)))
        elif name != "counter" and not (name == "meta" and _big(_first(data, 2)) in _DEVICE_NAMES):
            plain = False
    return Rule(verdict, target, frozenset(devices) if plain else None)


def _verdict(data: Pairs) -> tuple[str, str]:
    """Of an immediate expression, and the chain that it names."""
    verdict = pairs(_first(pairs(_first(data, 2)), 2))
    code = int.from_bytes(_first(verdict, 1), "big", signed=True)
    return (_VERDICTS.get(code, "") if verdict else ""), text(_first(verdict, 2))


def _first(attributes: Pairs, kind: int) -> bytes:
    return next((value for number, value in attributes if number == kind), b"")


def _big(octets: bytes) -> int:
    return int.from_bytes(octets, "big")

"""Reads chains of nftables that frames of guests can meet, for which it takes CAP_NET_ADMIN."""

import asyncio
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import AsyncNFTables

_ANSWER_S = 5.0
_NF_DROP = 0  # include/uapi/linux/netfilter.h
_VERDICTS = {"NF_DROP": "drop", "NF_ACCEPT": "accept", "NFT_JUMP": "jump", "NFT_GOTO": "goto"}
_DEVICE_NAMES = {f"NFT_META_{key}" for key in ("IIFNAME", "OIFNAME", "BRI_IIFNAME", "BRI_OIFNAME")}
_LEGACY = "/proc/net/ip_tables_names"
# Family numbers of include/uapi/linux/netfilter.h, and hooks by family and number there (enum
# nf_inet_hooks, nf_dev_hooks).
_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 7: "bridge", 10: "ip6"}
_HOOKS = {
    "inet": {2: "forward", 5: "ingress"},
    "ip": {2: "forward"},
    "netdev": {0: "ingress", 1: "egress"},
    "bridge": {2: "forward"},
    "ip6": {2: "forward"},
}


@dataclass(frozen=True)
class Rule:
    """A rule, as far as it tells which frames pass.

    verdict: "drop" (or reject), "accept", "jump", "goto", "map" (of verdicts), or "" for none.
    target: the chain to go on with.
    devices: the names by which alone it selects, none at all for a rule that selects nothing; None
    if it asks for more.
    """

    verdict: str
    target: str = ""
    devices: frozenset[str] | None = None


@dataclass(frozen=True)
class Chain:
    """A base chain.

    hook: "ingress" or "egress" (of devices), or "forward".
    rules: those of all chains of its table, by chain and in their order.
    """

    family: str
    table: str
    name: str
    hook: str
    devices: tuple[str, ...]
    policy_drop: bool
    rules: Mapping[str, Collection[Rule]] = field(default_factory=dict)


async def read() -> list[Chain]:
    """Read the base chains on hooks of devices, and of forwarding.

    Raises OSError: what the kernel refuses with (EPERM: not root), or TimeoutError.
    """
    try:
        async with asyncio.timeout(_ANSWER_S), AsyncNFTables(nfgen_family=0) as nftables:
            chains = [
                chain async for each in await nftables.get_chains() if (chain := _chain(each))
            ]
            rules = [rule async for rule in await nftables.get_rules()] if chains else []
    except NetlinkError as exc:
        raise OSError(exc.code, os.strerror(exc.code)) from exc
    tables: dict[tuple[str, str], dict[str, list[Rule]]] = {}
    for each in rules:
        table = tables.setdefault((_family(each), _text(each.get_attr("NFTA_RULE_TABLE"))), {})
        table.setdefault(_text(each.get_attr("NFTA_RULE_CHAIN")), []).append(_rule(each))
    return [replace(each, rules=tables.get((each.family, each.table), {})) for each in chains]


def has_legacy_rules() -> bool:
    """Return whether iptables-legacy has a filter table, whose rules are not among these."""
    try:
        return "filter" in Path(_LEGACY).read_text().split()
    except OSError:
        return False


def _family(message: Any) -> str:
    return _FAMILIES.get(message["nfgen_family"], "")


def _chain(message: Any) -> Chain | None:
    """Return a base chain as a message tells of it; None for one that guests do not meet."""
    hook, family = message.get_attr("NFTA_CHAIN_HOOK"), _family(message)
    place = hook and _HOOKS.get(family, {}).get(hook.get_attr("NFTA_HOOK_HOOKNUM"))
    if not place:
        return None
    names = [hook.get_attr("NFTA_HOOK_DEV")]
    if several := hook.get_attr("NFTA_HOOK_DEVS"):
        names += several.get_attrs("NFTA_DEVICE_NAME")
    return Chain(
        family=family,
        table=_text(message.get_attr("NFTA_CHAIN_TABLE")),
        name=_text(message.get_attr("NFTA_CHAIN_NAME")),
        hook=place,
        devices=tuple(dict.fromkeys(_text(name) for name in names if name)),
        policy_drop=message.get_attr("NFTA_CHAIN_POLICY") == _NF_DROP,
    )


def _rule(message: Any) -> Rule:
    verdict, target, plain = "", "", True
    devices: set[str] = set()
    for expression in message.get_attr("NFTA_RULE_EXPRESSIONS") or ():
        name, data = expression.get_attr("NFTA_EXPR_NAME"), expression.get_attr("NFTA_EXPR_DATA")
        if name == "reject":
            verdict = "drop"
        elif name == "immediate":
            verdict, target = _verdict(data)
        elif name == "lookup" and data.get_attr("NFTA_LOOKUP_DREG") == "NFT_REG_VERDICT":
            verdict, plain = "map", False
        elif name == "cmp" and data.get_attr("NFTA_CMP_OP") == "NFT_CMP_EQ":
            devices.add(_text(data.get_nested("NFTA_CMP_DATA", "NFTA_DATA_VALUE")))
        elif name == "meta" and data.get_attr("NFTA_META_KEY") in _DEVICE_NAMES:
            continue
        elif name != "counter":
            plain = False
    return Rule(verdict, target, frozenset(devices) if plain else None)


def _verdict(data: Any) -> tuple[str, str]:
    """Return the verdict of an immediate expression, and the chain that it names."""
    verdict = data.get_nested("NFTA_IMMEDIATE_DATA", "NFTA_DATA_VERDICT")
    if verdict is None:
        return "", ""
    code, chain = verdict.get_attr("NFTA_VERDICT_CODE"), verdict.get_attr("NFTA_VERDICT_CHAIN")
    return _VERDICTS.get(code, ""), _text(chain)


def _text(value: str | bytes | None) -> str:
    """Return a name as text; pyroute2 leaves one that is not UTF-8 as it is."""
    name = value.decode(errors="replace") if isinstance(value, bytes) else value or ""
    return name.rstrip("\0")

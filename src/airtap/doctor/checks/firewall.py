"""Whether rules of nftables are in the way of guests' frames."""

from collections.abc import Iterator

from ..finding import Finding, ok, problem, warning, word
from ..sources.netfilter import Chain
from ..sources.uplinks import Uplink
from .uplink import Scene

_BRIDGE_NF = {
    "ip": ("bridge-nf-call-iptables",),
    "ip6": ("bridge-nf-call-ip6tables",),
    "inet": ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"),
}


def devices(uplink: Uplink, scene: Scene) -> Iterator[Finding]:
    """problem nft-netdev-drops (by policy), warning nft-netdev-drops (some frames)."""
    names = {uplink.name, *(device.link.name for device in uplink.devices)}
    for chain in scene.chains or ():
        if chain.hook == "forward" or not names & set(chain.devices):
            continue
        on = ", ".join(sorted(names & set(chain.devices)))
        if chain.policy_drop:
            yield problem(
                "nft-netdev-drops",
                on,
                f"nftables drops what its {chain.hook} chain does not accept",
                f"{_named(chain)}: policy drop",
                _accept(chain),
            )
        elif chain.drops:
            yield warning(
                "nft-netdev-drops",
                on,
                f"nftables drops some frames on {chain.hook}, guests' too if they match",
                f"{_named(chain)}: {len(chain.drops)} rules that drop",
                _delete_rule(chain),
            )
        else:
            yield ok("nft-netdev", on, f"nftables has a chain on {chain.hook}", _named(chain))


def bridges(uplink: Uplink, scene: Scene) -> Iterator[Finding]:
    """problem bridge-forward-drop, bridge-nf-call; warnings where only some rules drop."""
    if uplink.inspected.type != "bridge":
        return
    for chain in scene.chains or ():
        if chain.hook != "forward" or not (chain.policy_drop or chain.drops):
            continue
        level = problem if chain.policy_drop else warning
        why = "policy drop" if chain.policy_drop else f"{len(chain.drops)} rules that drop"
        if chain.family == "bridge":
            yield level(
                "bridge-forward-drop",
                uplink.name,
                "nftables drops frames that the bridge forwards",
                f"{_named(chain)}: {why}",
                _accept(chain) if chain.policy_drop else _delete_rule(chain),
            )
            continue
        on = [key for key in _BRIDGE_NF.get(chain.family, ()) if uplink.sysctls.get(key)]
        if on:
            yield level(
                "bridge-nf-call",
                uplink.name,
                "what the bridge forwards passes the host's firewall, which drops it",
                f"net.bridge.{on[0]}: 1; {_named(chain)}: {why}",
                "sysctl -w " + " ".join(f"net.bridge.{key}=0" for key in on),
            )


def _named(chain: Chain) -> str:
    return f"nft list chain {chain.family} {chain.table} {chain.name}"


def _accept(chain: Chain) -> str:
    place = " ".join(map(word, (chain.family, chain.table, chain.name)))
    return f"nft add chain {place} '{{ policy accept; }}'"


def _delete_rule(chain: Chain) -> str:
    name, handle = chain.drops[0]
    place = " ".join(map(word, (chain.family, chain.table, name)))
    return f"nft delete rule {place} handle {handle}"

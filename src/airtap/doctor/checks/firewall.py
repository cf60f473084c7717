"""Whether rules of nftables are in the way of guests' frames."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..finding import PROBLEM, WARNING, Finding, ok, warning, word
from ..sources.netfilter import Chain, Rule
from ..sources.uplinks import UplinkSnapshot
from .uplink import Context

_BRIDGE_NF = {
    "ip": ("bridge-nf-call-iptables",),
    "ip6": ("bridge-nf-call-ip6tables",),
    "inet": ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"),
}
_PASSES_SOME = ("accept", "jump", "goto", "map")


@dataclass(frozen=True)
class Way:
    """What frames of a device meet in a chain, and in those that it goes on with.

    rules: what they meet, in this order, each with its chain.
    through: whether the last of the rules accepts all.
    """

    chain: Chain
    rules: tuple[tuple[str, Rule], ...]
    through: bool

    @property
    def drops(self) -> list[str]:
        """The chains of the rules that drop something."""
        return [place for place, rule in self.rules if rule.verdict == "drop"]

    @property
    def closed(self) -> bool:
        """Whether all that no rule accepts is dropped."""
        return self.chain.policy_drop and not self.through

    @property
    def shut(self) -> bool:
        """Whether nothing at all can pass."""
        return self.closed and not any(rule.verdict in _PASSES_SOME for _, rule in self.rules)

    @property
    def why(self) -> str:
        shown = _place(self.chain, self.chain.name)
        number = len(self.drops)
        dropping = "1 rule that drops" if number == 1 else f"{number} rules that drop"
        return f"nft list chain {shown}: {'policy drop' if self.closed else dropping}"


def way(chain: Chain, device: str) -> Way:
    """Follow the rules of a base chain, through each of the others once."""
    met: list[tuple[str, Rule]] = []
    known: dict[str, bool] = {}

    def through(place: str) -> bool:
        if place in known:
            return known[place]
        known[place] = False
        for rule in chain.rules.get(place, ()):
            met.append((place, rule))
            for_all = rule.devices is not None and rule.devices <= {device}
            accepts = rule.verdict == "accept" or (bool(rule.target) and through(rule.target))
            if for_all and accepts:
                known[place] = True
                break
        return known[place]

    passes = through(chain.name)
    return Way(chain, tuple(met), passes)


def devices(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell which chains of nftables on guests' devices or the uplink drop frames.

    Yields ok; problem nft-netdev-drops, where all frames are dropped; warning nft-netdev-drops,
    where some may be.
    """
    names = [uplink.name, *(device.name for device in uplink.devices)]
    chains = [chain for chain in context.chains or () if chain.hook != "forward"]
    for name, chain in [(n, c) for n in names for c in chains if n in c.devices]:
        found = way(chain, name)
        if found.closed:
            key = "oifname" if chain.hook == "egress" else "iifname"
            yield Finding(
                level=PROBLEM if found.shut else WARNING,
                id="nft-netdev-drops",
                subject=name,
                what=f"nftables drops what its {chain.hook} chain does not accept",
                evidence=found.why,
                remedy=_accept(chain, key, name),
            )
        elif found.drops:
            yield warning(
                "nft-netdev-drops",
                name,
                what=f"nftables drops some frames on {chain.hook}, guests' too if they match",
                evidence=found.why,
                remedy=_look(found),
            )
        else:
            what = f"nftables has a chain on {chain.hook}"
            shown = f"nft list chain {_place(chain, chain.name)}"
            yield ok("nft-netdev", name, what=what, evidence=shown)


def bridges(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell which chains of nftables drop what a bridge forwards.

    Yields problem bridge-forward-drop or bridge-nf-call, where all frames are dropped; warning
    bridge-forward-drop or bridge-nf-call, where some may be.
    """
    if uplink.inspected.type != "bridge":
        return
    for chain in context.chains or ():
        found = way(chain, uplink.name)
        if chain.hook != "forward" or not (found.closed or found.drops):
            continue
        level = PROBLEM if found.shut else WARNING
        if chain.family == "bridge":
            yield Finding(
                level=level,
                id="bridge-forward-drop",
                subject=uplink.name,
                what="nftables drops frames that the bridge forwards",
                evidence=found.why,
                remedy=_accept(chain, "meta ibrname", uplink.name)
                if found.closed
                else _look(found),
            )
            continue
        on = [key for key in _BRIDGE_NF.get(chain.family, ()) if uplink.sysctls.get(key)]
        if on:
            yield Finding(
                level=level,
                id="bridge-nf-call",
                subject=uplink.name,
                what="what the bridge forwards passes the host's firewall, which drops it",
                evidence=f"net.bridge.{on[0]}: 1; {found.why}",
                remedy="sysctl -w " + " ".join(f"net.bridge.{key}=0" for key in on),
            )


def _place(chain: Chain, name: str) -> str:
    return " ".join(map(word, (chain.family, chain.table, name)))


def _accept(chain: Chain, key: str, device: str) -> str:
    quoted = word(f'"{device}"')  # for nft, and then for the shell
    return f"nft insert rule {_place(chain, chain.name)} {key} {quoted} accept"


def _look(found: Way) -> str:
    """Return a remedy that deletes no rule by rote, as it may be there for a reason."""
    place = _place(found.chain, found.drops[0])
    return f"nft -a list chain {place}, and mend the rule that should not drop"

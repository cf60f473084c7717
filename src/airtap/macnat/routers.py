"""Guests that route for others, as the configuration has them: what is behind them.

The LAN sends what is for those to the uplink's MAC. Where nobody has spoken from an address yet, it
would be the host's, which forwards it to where it came from if it forwards at all.
"""

from collections.abc import Collection, Mapping

from ..bpf.macnat import Macnat
from ..bpf.records import BEHIND, UNKNOWN_MAC, Learned
from ..kernel.addresses import Prefix, Subnet, overlap


def tell(nat: Macnat, routes: Mapping[Subnet, str], on_link: Collection[Subnet]) -> list[Learned]:
    """Let the programs know who routes for what, but for what is on the link itself.

    Returns what others had learned of it, now forgotten. Raises BpfError.
    """
    nat.behind.set(behind(routes, on_link))
    taken = [
        entry
        for entry in (nat.addresses.all() if routes else ())
        if not entry.vlan and nat.behind.router(entry.address) not in (UNKNOWN_MAC, entry.mac)
    ]
    for entry in taken:
        nat.addresses.forget(entry.address, entry.vlan)
    return taken


def behind(routes: Mapping[Subnet, str], on_link: Collection[Subnet]) -> dict[Prefix, str]:
    """Return who routes for which prefix, UNKNOWN_MAC for nobody: what is on the link."""
    here = [net for net in on_link if any(overlap(net, route) for route in routes)]
    here.sort(key=lambda net: (net.prefixlen, str(net)))
    found = {prefix_of(net): mac for net, mac in routes.items()}
    return found | dict.fromkeys(map(prefix_of, here[: BEHIND - len(routes)]), UNKNOWN_MAC)


def prefix_of(net: Subnet) -> Prefix:
    return Prefix(net.version, net.prefixlen, int(net.network_address))

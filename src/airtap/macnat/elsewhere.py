"""Which addresses the host routes elsewhere than to an uplink, so that no guest there may use them.

What the LAN sends to one of them by way of the host would be the guest's.
"""

from collections.abc import Mapping

from ..bpf.records import TAGGED, UNTAGGED
from ..kernel.addresses import HostNetwork, Prefix, Route

# What is shorter is a default route in parts, as VPNs have it (0.0.0.0/1), and says nothing.
_LEAST = {4: 8, 6: 16}
_LINK_LOCAL = Prefix(4, 16, 0xA9FE << 16), Prefix(6, 10, 0xFE80 << 112)


def elsewhere(network: HostNetwork, uplink: int) -> dict[Prefix, int]:
    """Return of whose frames prefixes are the host's elsewhere, in bits: UNTAGGED, TAGGED.

    The longest prefix counts, of all tables but other VRFs'. It is here if any of its routes leads
    to the uplink, or to what stands on it: a laptop in its dock has its subnet twice. For tagged
    frames VLANs' devices there are here, too. Where the host has no address of a family on the
    uplink, nobody sends anything by way of it, and no route of that family counts.
    """
    children = {index for index, each in network.devices.items() if each.parent == uplink}
    vlans = {index for index in children if network.devices[index].kind == "vlan"}
    here, here_tagged = {uplink} | children - vlans, {uplink} | children
    versions = {
        each.address.version
        for each in network.addresses
        if each.device in here_tagged and not each.address.is_link_local
    }
    found: dict[Prefix, int] = {}
    for route in _counting(network, uplink):
        prefix = route.prefix
        if prefix.version in versions:
            devices = {hop.device for hop in route.hops}
            bits = UNTAGGED if devices.isdisjoint(here) else 0
            bits |= TAGGED if devices.isdisjoint(here_tagged) else 0
            found[prefix] = found.get(prefix, bits) & bits
    return _compressed(found)


def _counting(network: HostNetwork, uplink: int) -> list[Route]:
    """Return the routes that say where an address is, in the uplink's VRF or outside of all."""
    vrfs = {index: each.vrf_table for index, each in network.devices.items() if each.vrf_table}
    at_uplink = network.devices.get(uplink)
    own = vrfs.get(at_uplink.master) if at_uplink else None
    foreign = set(vrfs.values())
    return [
        route
        for route in network.routes
        if (route.table == own if own else route.table not in foreign)
        and route.hops
        and route.prefix.length >= _LEAST[route.prefix.version]
        and not any(_includes(local, route.prefix) for local in _LINK_LOCAL)
    ]


def _includes(prefix: Prefix, other: Prefix) -> bool:
    return (
        other.version == prefix.version
        and other.length >= prefix.length
        and other.shortened(prefix.length) == prefix
    )


def _compressed(found: Mapping[Prefix, int]) -> dict[Prefix, int]:
    """Leave those out that say what the next shorter one does, or nothing where there is none."""
    kept: dict[Prefix, int] = {}
    lengths: dict[int, list[int]] = {4: [], 6: []}  # of those kept, the longest first
    for prefix in sorted(found, key=lambda each: each.length):
        longer = lengths[prefix.version]
        shorter = (prefix.shortened(length) for length in longer if length < prefix.length)
        inherited = next((kept[each] for each in shorter if each in kept), 0)
        if found[prefix] != inherited:
            kept[prefix] = found[prefix]
            if not longer or longer[0] != prefix.length:
                longer.insert(0, prefix.length)
    return kept

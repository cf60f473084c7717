"""A subnet for a network of the host's own, among those that are in use already."""

import secrets
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from ..errors import Problem

# Away from the ends, where home routers, libvirt (192.168.122.0/24) and containers have theirs.
_CANDIDATES = [
    *(IPv4Network(f"192.168.{n}.0/24") for n in range(140, 240)),
    *(IPv4Network(f"172.30.{n}.0/24") for n in range(140, 240)),
    *(IPv4Network(f"10.{n}.140.0/24") for n in range(140, 240)),
]
# Shorter ones stand for the default route: a VPN's 0.0.0.0/1 and 128.0.0.0/1.
_SHORTEST = 8


def free_ipv4(taken: Iterable[IPv4Network]) -> IPv4Network:
    """A private /24 that overlaps nothing taken, default routes aside. Raises Problem no-subnet."""
    routes = [network for network in taken if network.prefixlen >= _SHORTEST]
    for candidate in _CANDIDATES:
        if not any(candidate.overlaps(route) for route in routes):
            return candidate
    raise Problem(
        "no-subnet",
        "no private IPv4 subnet is free: routes of this host overlap all that airtap would use",
        "take one with --print, put an address that suits you, and virsh net-define it",
    )


def random_ipv6() -> IPv6Network:
    """A /64 that nobody else has, as RFC 4193 (3.2) makes it: 40 random bits behind fd00::/8."""
    return IPv6Network((b"\xfd" + secrets.token_bytes(5) + bytes(10), 64))

"""A subnet for a network of the host's own, among those that are in use already."""

import asyncio
import secrets
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from ..errors import Problem
from ..kernel.links import LinkError, rtnetlink
from ..kernel.routes import ipv4_routes, kernel_autoconfigures

# Away from the ends, where home routers, libvirt (192.168.122.0/24) and containers have theirs.
_CANDIDATES = [
    *(IPv4Network(f"192.168.{n}.0/24") for n in range(140, 240)),
    *(IPv4Network(f"172.30.{n}.0/24") for n in range(140, 240)),
    *(IPv4Network(f"10.{n}.140.0/24") for n in range(140, 240)),
]
# Shorter ones stand for the default route: a VPN's 0.0.0.0/1 and 128.0.0.0/1.
_SHORTEST = 8


def free_ipv4(taken: Iterable[IPv4Network]) -> IPv4Network:
    """Return a private /24 that overlaps nothing taken, default routes aside.

    Raises Problem no-subnet.
    """
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
    """Return a /64 that nobody else has, by RFC 4193 (3.2): 40 random bits behind fd00::/8."""
    return IPv6Network((b"\xfd" + secrets.token_bytes(5) + bytes(10), 64))


def choose_subnets(taken: Iterable[IPv4Network]) -> tuple[IPv4Network, IPv6Network | None]:
    """Return subnets for a network with NAT: IPv4 that no route here leads to, and none taken.

    There is no IPv6 where forwarding it would cost the host its own, since libvirt then does not
    start the network (src/util/virnetdevip.c: virNetDevIPCheckIPv6Forwarding). Blocks. Raises
    Problem no-subnet.
    """
    try:
        routes = asyncio.run(_routes())
    except LinkError as exc:
        raise Problem("no-subnet", f"cannot read the routes of this host: {exc}") from exc
    return free_ipv4([*taken, *routes]), None if kernel_autoconfigures() else random_ipv6()


async def _routes() -> list[IPv4Network]:
    async with rtnetlink() as ipr:
        return list(await ipv4_routes(ipr))

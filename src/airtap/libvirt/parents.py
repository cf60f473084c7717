"""The host's devices as parents of libvirt networks."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from .. import uplink
from ..config import Config, Parent
from ..errors import Problem
from ..kernel.links import LinkError, LinkNotFound, open_links, rtnetlink
from ..kernel.routes import ipv4_routes, kernel_autoconfigures
from .subnets import free_ipv4, random_ipv6


async def inspect(name: str) -> uplink.Uplink:
    """What the device called name is as a parent. Raises Problem no-such-device, no-nl80211."""
    async with open_links() as links:
        try:
            return uplink.inspect(await links.by_name(name))
        except LinkNotFound as exc:
            raise uplink.absent(name) from exc


async def choose(name: str, config: Config) -> str:
    """The device that name, which may be an alias, stands for now. Raises Problem no-device."""
    async with open_links() as links:
        try:
            return await uplink.choose(links, config, name)
        except LinkError as exc:
            raise Problem("no-device", f"cannot tell what {name} stands for: {exc}") from exc


def expect_macvtap(parent: uplink.Uplink) -> None:
    """Raise Problem bad-parent, parent-busy if the device cannot carry macvtaps."""
    if uplink.child_kind(parent, Parent(kind="macvtap"), None) == "tap":
        name = parent.link.name
        raise Problem(
            "bad-parent",
            f"{name} is a bridge, on which a macvtap cannot reach the guests of that bridge",
            f'guests join the bridge itself as "Bridge device..." {name}, no network is needed;'
            " for qemu:///session: --kind session",
        )


def expect_parent(parent: uplink.Uplink, kind: str) -> None:
    """Raise Problem bad-parent, parent-busy if a device cannot carry macvtaps or ipvtaps."""
    if uplink.child_kind(parent, Parent(kind=kind), None) == "tap":
        name = parent.link.name
        raise Problem(
            "bad-parent",
            f"{name} is a bridge, the guests of which no {kind} can reach",
            f"guests join the bridge itself: <interface type='bridge'><source bridge='{name}'/>",
        )


def takes_one_mac(parent: uplink.Uplink, config: Config) -> bool:
    """Whether guests on this parent need airtapd's MAC NAT."""
    wish = config.parent(parent.link.name).macnat
    return wish == "on" or (wish == "auto" and parent.type == "wifi-station")


async def choose_subnets(taken: Iterable[IPv4Network]) -> tuple[IPv4Network, IPv6Network | None]:
    """Subnets for a network with NAT: IPv4 that no route of this host leads to, and none taken.

    No IPv6 where forwarding it would cost the host its own, since libvirt then does not start
    the network (src/util/virnetdevip.c: virNetDevIPCheckIPv6Forwarding). Raises Problem no-subnet.
    """
    try:
        async with rtnetlink() as ipr:
            routes = await ipv4_routes(ipr)
    except LinkError as exc:
        raise Problem("no-subnet", f"cannot read the routes of this host: {exc}") from exc
    return free_ipv4([*taken, *routes]), None if kernel_autoconfigures() else random_ipv6()

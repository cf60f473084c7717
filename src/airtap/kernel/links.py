"""Network devices through rtnetlink: the one place that talks to it.

Devices that airtap made bear the link group GROUP from the moment they exist: the group is
the one mark that RTM_NEWLINK sets at creation (net/core/rtnetlink.c: rtnl_create_link), so
a daemon that is killed at any point leaves nothing that its successor does not recognise.
The owner stands in the device's alias, which only CAP_NET_ADMIN can write.
"""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from ..errors import reason
from .ifinfo import GETLINK, IFNAME, IPVLAN_L2, IPVLAN_MODES, ifinfo, link_fields
from .netlink import ACK, DUMP, ask, attribute

GROUP = int.from_bytes(b"airt")

# include/uapi/linux/if.h, if_arp.h, if_link.h
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_RUNNING = 0x40
IFF_ALLMULTI = 0x200
IFF_LOWER_UP = 0x10000
ARPHRD_ETHER = 1

_LOOPBACK = 1  # include/net/net_namespace.h: LOOPBACK_IFINDEX
# How many devices to read before others in the event loop have a turn.
_BATCH = 16

# Kinds of device that stand on another, each with the kind of tap that can stand beside it: a
# parent has one rx_handler, macvlan's or ipvlan's.
FAMILY = {"macvlan": "macvtap", "macvtap": "macvtap", "ipvlan": "ipvtap", "ipvtap": "ipvtap"}


class _Ipvtap(nla):  # type: ignore[misc]
    """What pyroute2 0.9 does not know of IFLA_INFO_DATA: the kind ipvtap, and ipvlan's flags."""

    prefix = "IFLA_"
    nla_map = (
        ("IFLA_IPVLAN_UNSPEC", "none"),
        ("IFLA_IPVLAN_MODE", "uint16"),
        ("IFLA_IPVLAN_FLAGS", "uint16"),
    )


ifinfmsg.ifinfo.register_link_kind(module={"ipvlan": _Ipvtap, "ipvtap": _Ipvtap})

_HOST_OFF = (
    ("/proc/sys/net/ipv6/conf/{}/disable_ipv6", "1"),
    ("/proc/sys/net/ipv4/conf/{}/arp_ignore", "8"),
    ("/proc/sys/net/ipv4/conf/{}/rp_filter", "1"),
)


class LinkError(OSError):
    """The kernel refused a request about a network device. Its strerror says which, and why."""

    def __str__(self) -> str:
        return self.strerror or ""


class LinkNotFound(LinkError):
    """There is no such network device (any more)."""


class LinkExists(LinkError):
    """A device has this name or index already."""


@dataclass(frozen=True)
class Link:
    """What the kernel says of one network device.

    kind: IFLA_INFO_KIND ("bridge", "macvtap", ...), "" for hardware.
    slave_kind: IFLA_INFO_SLAVE_KIND, the kind of device whose port this is, or "".
    master, parent: ifindex of the device that this is a port of, or stands on (IFLA_LINK); 0
    for none. parent_here: whether the parent is in this network namespace.
    mode: of a macvtap or an ipvlan in L2 mode, as in the configuration; "l3" for other ipvlans.
    rx_bytes, tx_bytes: as the host counts them.
    carrier_ups: how often it has had its carrier back.
    active_port: ifindex of the one port by which a bond sends; 0 for none, or for several.
    """

    name: str
    index: int
    mac: str
    mtu: int
    flags: int
    arptype: int
    kind: str
    slave_kind: str
    master: int
    parent: int
    parent_here: bool
    group: int
    alias: str
    altnames: frozenset[str]
    mode: str
    rx_bytes: int
    tx_bytes: int
    carrier_ups: int
    active_port: int = 0

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


class Links:
    """rtnetlink requests on the daemon's network namespace. Use as returned by open_links().

    What is asked for is read here, and not by pyroute2, which takes ten times as long.
    """

    def __init__(self, ipr: AsyncIPRoute) -> None:
        """Raises OSError."""
        self._ipr = ipr
        self._asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._next_dump: asyncio.Task[list[Link]] | None = None
        self._dumping = asyncio.Lock()

    def close(self) -> None:
        self._asking.close()

    async def by_name(self, name: str) -> Link:
        """The device called name, which may be an alternative name. Raises LinkNotFound."""
        return _get(self._asking, 0, _named(name))

    def index_of(self, name: str) -> int:
        """Raises LinkNotFound."""
        try:
            return socket.if_nametoindex(name)
        except OSError as exc:
            raise LinkNotFound(errno.ENODEV, f"{name}: {exc.strerror}") from exc

    def name_of(self, index: int) -> str:
        """Raises LinkNotFound."""
        try:
            return socket.if_indextoname(index)
        except OSError as exc:
            raise LinkNotFound(errno.ENODEV, f"device {index}: {exc.strerror}") from exc

    async def by_index(self, index: int) -> Link:
        """Raises LinkNotFound."""
        return _get(self._asking, index)

    async def dump(self) -> list[Link]:
        """Every device of the network namespace: about 0.05 ms each, so not on hot paths.

        All who ask while a dump is under way share the next one, so that it shows what was before
        they asked.
        """
        if self._next_dump is None:
            self._next_dump = asyncio.create_task(self._dump(), name="dump")
        return await asyncio.shield(self._next_dump)

    async def _dump(self) -> list[Link]:
        async with self._dumping:
            self._next_dump = None
            found = []
            with (
                link_errors("dump link"),
                socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asking,
            ):
                for _kind, payload in ask(asking, GETLINK, ifinfo(0), DUMP):
                    found.append(Link(**link_fields(payload)))
                    if len(found) % _BATCH == 0:
                        await asyncio.sleep(0)
            return found

    def uppers(self, name: str) -> list[str]:
        """Names of the devices of this network namespace that stand on a device or are its master.

        From sysfs, since rtnetlink would have to dump them all.
        """
        return _adjacent(name, "upper_")

    async def add_child(
        self, kind: str, name: str, parent: int, mode: str, mac: str | None, index: int
    ) -> None:
        """Create a macvtap or ipvtap on the device with index parent, down, in group GROUP.

        mode: bridge, vepa, private; passthru for a macvtap. An ipvtap's is that of all ipvlans
        on the parent, and set for all of them. mac: None for a random one; an ipvtap bears its
        parent's. index: 0 to let the kernel choose. Raises LinkExists, LinkNotFound (parent),
        LinkError.
        """
        # IFF_ALLMULTI: the guest's own multicast joins are not seen by the host.
        request: dict[str, Any] = {
            "ifname": name,
            "kind": kind,
            "link": parent,
            "group": GROUP,
            "flags": IFF_ALLMULTI,
            "change": IFF_ALLMULTI,
        }
        if kind == "ipvtap":
            request["ipvlan_mode"] = IPVLAN_L2
            request["ipvlan_flags"] = IPVLAN_MODES.index(mode)
        else:
            request["macvtap_mode"] = mode
        if mac is not None:
            request["address"] = mac
        if index:
            request["index"] = index
        await self._request("add", **request)

    def keep_host_off(self, name: str) -> None:
        """Keep the host's own IP stack off a guest's device.

        Whenever nobody reads its tap, or its holder has detached the queue, what the LAN and
        siblings send reaches the host's stack (drivers/net/tap.c: tap_handle_frame). No address may
        come of a router advertisement then, no ARP request for a host's address be answered with
        the guest's MAC (Documentation/networking/ip-sysctl.rst), and no packet pass by the rules
        that the host has for the uplink: a device without an address is no way back to anybody
        (net/ipv4/fib_frontend.c: __fib_validate_source), be the check strict or loose. Raises
        OSError.
        """
        for path, value in _HOST_OFF:
            with suppress(FileNotFoundError):  # a host without IPv6
                Path(path.format(name)).write_text(value)

    async def join_bridge(self, index: int, bridge: int, mtu: int, mac: str, alias: str) -> None:
        """Make a device of ours a port of a bridge, and bring it up."""
        await self._request(
            "set",
            index=index,
            master=bridge,
            mtu=mtu,
            address=mac,
            ifalias=alias,
            group=GROUP,
            flags=IFF_UP,
            change=IFF_UP,
        )

    async def set_alias(self, index: int, alias: str) -> None:
        await self._request("set", index=index, ifalias=alias)

    async def set_mac(self, index: int, mac: str) -> None:
        """Raises LinkNotFound, LinkError (EADDRINUSE: the parent or a sibling has it)."""
        await self._request("set", index=index, address=mac)

    async def set_allmulti(self, index: int) -> None:
        """Receive all multicast: a guest's own joins are not seen by the host."""
        await self._request("set", index=index, flags=IFF_ALLMULTI, change=IFF_ALLMULTI)

    async def set_up(self, index: int) -> None:
        """Raises LinkNotFound, LinkError (EBUSY or EADDRINUSE: a sibling has the MAC)."""
        await self._request("set", index=index, flags=IFF_UP, change=IFF_UP)

    async def set_down(self, index: int) -> None:
        """Raises LinkNotFound, LinkError."""
        await self._request("set", index=index, flags=0, change=IFF_UP)

    async def delete(self, index: int) -> None:
        """Delete a device. One that is gone already is success.

        The kernel takes 20 to 40 ms for a macvtap, and the event loop waits: that is RCU grace
        periods (net/core/dev.c: netdev_rx_handler_unregister). One request for many (by group)
        took half the time for all 500 of a benchmark, 9 s in which nothing else was served.
        """
        with suppress(LinkNotFound):
            await self._request("del", index=index)

    async def _request(self, command: str, **attributes: object) -> list[Any]:
        with link_errors(f"{command} link"):
            answer: list[Any] = await self._ipr.link(command, **attributes)
        return answer


def lowers(name: str) -> list[Link]:
    """The devices here that a device stands on or has as ports. Blocks. Raises LinkError."""
    found = []
    with asking(f"see what {name} stands on") as opened:
        for lower in _adjacent(name, "lower_"):
            with suppress(LinkNotFound):  # gone meanwhile
                found.append(_get(opened, 0, _named(lower)))
    return found


def _adjacent(name: str, prefix: str) -> list[str]:
    try:
        entries = os.listdir(f"/sys/class/net/{name}")
    except FileNotFoundError:
        return []
    return [entry.removeprefix(prefix) for entry in entries if entry.startswith(prefix)]


def _named(name: str) -> bytes:
    return attribute(IFNAME, name.encode() + b"\0")


def _get(opened: socket.socket, index: int, name: bytes = b"") -> Link:
    with link_errors("get link"):
        [(_kind, payload)] = ask(opened, GETLINK, ifinfo(index) + name, ACK)
    return Link(**link_fields(payload))


@contextmanager
def asking(what: str) -> Iterator[socket.socket]:
    """A socket of rtnetlink's, for ask(); what it is asked for. Raises LinkError, not OSError."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as opened:
            yield opened
    except OSError as exc:
        raise LinkError(exc.errno, f"{what}: {reason(exc)}") from exc


@asynccontextmanager
async def rtnetlink() -> AsyncIterator[AsyncIPRoute]:
    """A netlink socket that hears no notifications. Raises OSError."""
    async with AsyncIPRoute(groups=0, ext_ack=True) as ipr:
        # pyroute2 opens its socket at the first request: now, while it can still fail early.
        await ipr.link("get", index=_LOOPBACK)
        yield ipr


@asynccontextmanager
async def open_links() -> AsyncIterator[Links]:
    """Open the netlink sockets. Raises OSError."""
    async with rtnetlink() as ipr:
        with closing(Links(ipr)) as links:
            yield links


@contextmanager
def link_errors(what: str = "") -> Iterator[None]:
    """Raise what rtnetlink refuses as a LinkError. what: what was asked for, if it is to say so."""
    try:
        yield
    except (NetlinkError, OSError) as exc:
        code = int(exc.code if isinstance(exc, NetlinkError) else exc.errno or 0)
        gone = dict.fromkeys((errno.ENODEV, errno.ENXIO), LinkNotFound)
        kind = {**gone, errno.EEXIST: LinkExists}.get(code, LinkError)
        said = f"{what}: {exc.args[-1]}" if what else str(exc.args[-1])
        raise kind(code, said) from exc

"""Guests that have come from elsewhere, restored or migrated: the LAN has them at another MAC.

A guest with a virtio card announces itself then. For any other QEMU does, by RARP, which names no
address (net/announce.c: qemu_announce_self). So the guest is asked for all that it may have, and
what it is heard to use from then on is announced.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Address

from ..bpf.macnat import Macnat
from ..bpf.records import Event, Learned
from ..kernel.addresses import Address, Subnet
from ..kernel.links import Link
from ..kernel.packet_socket import send
from ..names import octets
from ..packet import ndp
from ..packet.neighbour import gratuitous, probe
from .address_probe import AddressProbes

log = logging.getLogger(__name__)

# The waits after which to look what a guest has used; it may be busy, or speak only then.
_LOOKS_S = (0.25, 0.75, 1.0, 2.0, 4.0, 8.0, 16.0)
# How many questions a guest's queue has room for at a time (tx_queue_len of a macvtap: 500); and
# the largest network of which each address is asked for.
_BURST, _PAUSE_S = 128, 0.02
_MOST_ADDRESSES = 1024


class Arrivals:
    """The guests that have just come to one uplink. Needs a running event loop.

    announce announces addresses. own are the host's, and subnets the networks of those that it has
    on the uplink.
    """

    def __init__(
        self, nat: Macnat, probes: AddressProbes, announce: Callable[[list[Learned]], None]
    ) -> None:
        self._nat = nat
        self._probes = probes
        self._announce = announce
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.own: Collection[Address] = ()
        self.subnets: Collection[Subnet] = ()

    def close(self) -> None:
        """Ask nobody any more."""
        for task in self._tasks.values():
            task.cancel()

    def note(self, event: Event) -> None:
        """Note that a guest says by RARP that it is here; QEMU does so five times in a second."""
        index = event.ifindex
        if index not in self._tasks:
            task = asyncio.create_task(self._attend(index, event.mac, event.time))
            task.add_done_callback(lambda _task: self._tasks.pop(index))
            self._tasks[index] = task

    async def _attend(self, index: int, mac: str, since: float) -> None:
        """Ask a guest for its addresses, and announce what it has used since it came."""
        announced: set[tuple[Address, int]] = set()
        try:
            for number, question in enumerate(self._questions(mac), start=1):
                self._nat.programs.inject(index, question)
                if number % _BURST == 0:
                    await asyncio.sleep(_PAUSE_S)
            for wait in _LOOKS_S:
                self._probes.ask_guest(index)
                await asyncio.sleep(wait)
                used = [e for e in self._nat.addresses.all() if e.ifindex == index]
                used = [e for e in used if e.last_seen >= since]
                self._announce([e for e in used if (e.address, e.vlan) not in announced])
                announced |= {(e.address, e.vlan) for e in used}
        except OSError as exc:
            log.error("cannot announce the guest with %s: %s", mac, exc)

    def _questions(self, mac: str) -> Iterator[bytes]:
        """Ask for each IPv4 address of the networks here, and whether all IPv6 nodes are there.

        The answer to that is from an address of the same network (RFC 6724, 5).
        """
        source = self._nat.config.parent_mac()
        yield ndp.all_nodes_echo(ndp.link_local(octets(source)), octets(source))
        for subnet in self.subnets:
            if isinstance(subnet, IPv4Network) and subnet.num_addresses <= _MOST_ADDRESSES:
                for address in subnet.hosts():
                    yield probe(address, 0, source, mac)
            own = next((address for address in self.own if address in subnet), None)
            if isinstance(own, IPv6Address):
                yield ndp.all_nodes_echo(own, octets(source))


def announce(uplink: Link, entries: Iterable[Learned], *, translate: bool) -> None:
    """Tell the LAN at which MAC guests' addresses are now.

    With translate that is the uplink's; else it is the guest's own.
    """
    frames = [
        gratuitous(entry.address, entry.vlan, uplink.mac if translate else entry.mac)
        for entry in entries
    ]
    send(uplink.name, frames)

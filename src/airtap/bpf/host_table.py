"""What one uplink's programs know of the host: the maps "hosts" and "on_links"."""

import logging
from collections.abc import Collection
from ipaddress import IPv4Address

from ..kernel.addresses import Address, Subnet
from .address_table import AddressTable
from .map import Map
from .records import PREFIXES, Learned, pack_index, pack_key, pack_prefixes, unpack_key

log = logging.getLogger(__name__)


class HostTable:
    """The host's addresses, and what it reaches without a router. Methods raise BpfError."""

    def __init__(self, hosts: Map, on_links: Map, addresses: AddressTable) -> None:
        self._hosts = hosts
        self._on_links = on_links
        self._addresses = addresses

    def addresses(self) -> set[Address]:
        """Return the addresses that set_addresses() has set."""
        return {address for key, _ in self._hosts.items() if (address := unpack_key(key)[0])}

    def set_addresses(
        self, addresses: Collection[Address], broadcasts: Collection[IPv4Address]
    ) -> list[Learned]:
        """Set the addresses of the host and its gateways, which no guest may use, in any VLAN.

        broadcasts are the directed broadcast addresses of the uplink's IPv4 networks; packets for
        one that come in with the uplink's MAC go to all, and no guest may use it either.
        Returns what guests had learned of the host's, now forgotten. No address that is in the set
        before and after is ever out of it.
        """
        new, old = set(addresses), self.addresses()
        for address in new - old:
            self._hosts.update(pack_key(address), pack_index(1))
        # After that: from_guest looks again behind its back, see learn_address() in addresses.h.
        taken = self._addresses.reserve(new, broadcasts)
        for address in old - new:
            self._hosts.delete(pack_key(address))
        return taken

    def set_on_link(self, prefixes: Collection[Subnet]) -> None:
        """Set what the host reaches on the uplink without a router: the first PREFIXES of these.

        Of the rest the host's packets go to the wire, also those that are for guests.
        """
        chosen = sorted(prefixes, key=lambda net: (not net.is_link_local, net.prefixlen, str(net)))
        if len(chosen) > PREFIXES:
            what = "host access: %d routes are too many, the last: %s"
            log.warning(what, len(chosen), chosen[-1])
        packed = pack_prefixes(chosen[:PREFIXES])
        self._on_links.update(pack_index(0), packed.ljust(self._on_links.value_size, b"\0"))

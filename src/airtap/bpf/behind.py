"""What is behind guests that route for others: the map "behind", by the longest prefix."""

from collections.abc import Mapping

from ..kernel.addresses import Address, Prefix
from .map import Map
from .records import UNKNOWN_MAC, pack_behind, pack_route, unpack_behind
from .settings import UplinkConfig

# What is shorter is for all the rest, and keeps no address from other guests: see elsewhere.py.
_LEAST_ALONE = {4: 8, 6: 16}


class BehindTable:
    """The guests, by their MACs, that route for prefixes. Methods raise BpfError."""

    def __init__(self, table: Map, config: UplinkConfig) -> None:
        self._table = table
        self._config = config

    def set(self, prefixes: Mapping[Prefix, str]) -> None:
        """Set which guest is the router of which prefix, at most BEHIND; UNKNOWN_MAC: none is."""
        new = {
            pack_route(prefix): pack_behind(mac, prefix.length >= _LEAST_ALONE[prefix.version])
            for prefix, mac in prefixes.items()
        }
        for key, _ in self._table.items():
            if key not in new:
                self._table.delete(key)
        for key, value in new.items():
            self._table.update(key, value)
        self._config.set_behind(len(new))

    def router(self, address: Address) -> str:
        """Return the MAC of the guest behind which an address is; UNKNOWN_MAC for none."""
        host = Prefix(address.version, address.max_prefixlen, int(address))
        found = self._table.lookup(pack_route(host))
        return unpack_behind(found) if found else UNKNOWN_MAC

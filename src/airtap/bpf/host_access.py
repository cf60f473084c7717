"""The guests that the host may reach: the maps "macs", "listeners" and "gateway"."""

from .map import Map
from .records import pack_index, pack_listeners, pack_mac, unpack_index, unpack_mac


class HostAccessTable:
    """Which guest the host reaches at which MAC ("macs"), and who hears its broadcasts.

    One of them may be a gateway of the host's ("gateway").
    """

    def __init__(self, macs: Map, listeners: Map, gateway: Map) -> None:
        self._macs = macs
        self._listeners = listeners
        self._gateway = gateway
        self._gateway_mac = ""
        self._gateway_ifindex = -1  # whose an earlier daemon has told of, if any

    def all(self) -> dict[str, int]:
        """Return the guests that the host may reach: MAC to ifindex."""
        return {unpack_mac(k): unpack_index(v) for k, v in self._macs.items()}

    def lookup(self, mac: str) -> int:
        """Return the ifindex of the guest that the host reaches at a MAC; 0 for none."""
        value = self._macs.lookup(pack_mac(mac))
        return unpack_index(value) if value else 0

    def add(self, mac: str, ifindex: int) -> None:
        """Have the host reach the guest of a device at its MAC."""
        self._macs.update(pack_mac(mac), pack_index(ifindex))
        self.update_listeners()
        self._update_gateway()

    def remove(self, mac: str) -> None:
        """Have the host reach nobody at a MAC. It is no error that it reaches nobody."""
        self._macs.delete(pack_mac(mac))
        self.update_listeners()
        self._update_gateway()

    def set_gateway(self, mac: str) -> int:
        """Have whom the host reaches at this MAC be its gateway, if need be; nobody at "".

        Returns the ifindex of that guest now, 0 for none.
        """
        self._gateway_mac = mac
        return self._update_gateway()

    def _update_gateway(self) -> int:
        ifindex = self.lookup(self._gateway_mac) if self._gateway_mac else 0
        if ifindex != self._gateway_ifindex:
            self._gateway.update(pack_index(0), pack_index(ifindex))
            self._gateway_ifindex = ifindex
        return ifindex

    def update_listeners(self) -> None:
        """Make the list of those who hear the host's broadcasts from whom it may reach."""
        packed = pack_listeners([index for _, index in self._macs.items()])
        self._listeners.update(pack_index(0), packed.ljust(self._listeners.value_size, b"\0"))

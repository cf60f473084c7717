"""Which MACs the guests of one uplink bear, and which of their devices are kept down for it."""

import errno

from ..kernel.addresses import Address
from .libbpf import BpfError
from .map import Map
from .records import NS, Bearer, pack_index, pack_mac, unpack_index, unpack_key, unpack_mac


class BearerTable:
    """The guests' MACs, and when the LAN was seen to use one ("bearers"), and who is "held".

    from_uplink notes what it sees of these MACs. Methods raise BpfError.
    """

    def __init__(self, bearers: Map, held: Map) -> None:
        self._bearers = bearers
        self._held = held
        self._macs = {
            bearer.ifindex: unpack_mac(key)
            for key, value in bearers.items()
            if (bearer := Bearer.unpack(value)).ifindex
        }

    def mac(self, index: int) -> str:
        """Return the MAC that a device bears; "" for none."""
        return self._macs.get(index, "")

    def indexes(self) -> set[int]:
        """Return the devices that bear a MAC, or are held."""
        return {*self._macs, *self.held()}

    def add(self, index: int, mac: str) -> None:
        """Note the MAC that a device bears now. That of several with one MAC is the first's."""
        if self._macs.get(index) == mac:
            return
        self._yield(index)
        self._macs[index] = mac
        if self._find(mac).ifindex not in self._macs:
            self._assign(mac, index)

    def remove(self, index: int) -> None:
        """Forget a device. It is no error that it is not known."""
        self._yield(index)
        self._held.delete(pack_index(index))

    def last_seen(self, mac: str) -> float:
        """Return when the LAN was seen to use a MAC, in s of time.monotonic(); 0 for never.

        Of a MAC that nobody bears that is known only if somebody did of late.
        """
        return self._find(mac).last_seen / NS

    def address(self, mac: str) -> tuple[Address | None, int]:
        """Return the address at which the LAN used a MAC, and its VLAN; None if not known."""
        return unpack_key(self._find(mac).key)

    def forget(self, before: float) -> None:
        """Forget MACs that nobody bears, and that the LAN has not used since then, in s."""
        for key, value in self._bearers.items():
            bearer = Bearer.unpack(value)
            if not bearer.ifindex and bearer.last_seen < before * NS:
                self._bearers.delete(key)

    def held(self) -> list[int]:
        """Return the devices that are kept down."""
        return [unpack_index(key) for key, _ in self._held.items()]

    def is_held(self, index: int) -> bool:
        """Tell whether a device is kept down."""
        return self._held.lookup(pack_index(index)) is not None

    def set_held(self, index: int, held: bool) -> None:
        """Note whether a device is kept down."""
        if held:
            self._held.update(pack_index(index), pack_index(1))
        else:
            self._held.delete(pack_index(index))

    def _yield(self, index: int) -> None:
        """Have another device that bears the same MAC be the one, or nobody."""
        mac = self._macs.pop(index, None)
        if mac is not None and self._find(mac).ifindex == index:
            self._assign(mac, next((i for i, known in self._macs.items() if known == mac), 0))

    def _assign(self, mac: str, index: int) -> None:
        bearer = self._find(mac)._replace(ifindex=index)
        if not index and not bearer.last_seen:
            self._bearers.delete(pack_mac(mac))
            return
        try:
            self._bearers.update(pack_mac(mac), bearer.pack())
        except BpfError as exc:
            if exc.errno != errno.E2BIG:
                raise
            self.forget(before=float("inf"))
            self._bearers.update(pack_mac(mac), bearer.pack())

    def _find(self, mac: str) -> Bearer:
        value = self._bearers.lookup(pack_mac(mac))
        return Bearer.unpack(value) if value else Bearer()

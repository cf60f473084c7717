"""Which network an uplink is on, as far as the host can tell, and whether that is another now.

A station knows its network's name (SSID), and a host its own subnets there. Between access points
of one network neither changes; nor when a laptop wakes up where it fell asleep.
"""

import json
from dataclasses import dataclass
from ipaddress import ip_network

from ..kernel.addresses import Address, Subnet, overlap

Subnets = frozenset[Subnet]


@dataclass(frozen=True)
class Attachment:
    """What was last known of an uplink's network.

    ssid: b"" before a station was on any, and without Wi-Fi. subnets: of the host's addresses
    there. left: the subnets of the network before. unsettled: the name is new, and the host may
    not have its new addresses yet.
    """

    ssid: bytes = b""
    subnets: Subnets = frozenset()
    left: Subnets = frozenset()
    unsettled: bool = False

    def after(self, ssid: bytes, subnets: Subnets) -> "tuple[Attachment, bool]":
        """What is known once these were seen, and whether that is another network.

        What is not there (the carrier is away, the name is hidden, the host has no lease of a
        family yet) stays as it was.
        """
        renamed = bool(self.ssid and ssid) and self.ssid != ssid
        resettled = self._is_resettled(subnets)
        kept = subnets if resettled else subnets | _lacking(self.subnets, subnets)
        known = Attachment(
            ssid or self.ssid,
            kept,
            (self.subnets if resettled else self.left) - subnets,
            (self.unsettled or renamed) and not resettled,
        )
        return known, renamed or (resettled and not self.unsettled)

    def _is_resettled(self, subnets: Subnets) -> bool:
        """Whether no subnet of a family that was there and is there is near one of before."""
        common = _families(self.subnets) & _families(subnets)
        pairs = [(old, new) for old in self.subnets for new in subnets]
        return bool(common) and not any(overlap(old, new) for old, new in pairs)

    def to_text(self) -> str:
        return json.dumps(
            {
                "ssid": self.ssid.hex(),
                "subnets": sorted(map(str, self.subnets)),
                "left": sorted(map(str, self.left)),
                "unsettled": self.unsettled,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> "Attachment":
        """What to_text() has written; nothing known if it is something else."""
        try:
            known = json.loads(text)
            subnets, left = (frozenset(map(ip_network, known[key])) for key in ("subnets", "left"))
            return cls(bytes.fromhex(known["ssid"]), subnets, left, bool(known["unsettled"]))
        except (ValueError, KeyError, TypeError):
            return cls()

    def has_left(self, address: Address) -> bool:
        """Whether an address is of the network before this one, and not of this."""
        return _is_in(address, self.left) and not _is_in(address, self.subnets)


def _families(subnets: Subnets) -> set[int]:
    return {subnet.version for subnet in subnets}


def _lacking(before: Subnets, now: Subnets) -> Subnets:
    """Those of the families of which there are none now."""
    return frozenset(subnet for subnet in before if subnet.version not in _families(now))


def _is_in(address: Address, subnets: Subnets) -> bool:
    return any(address in subnet for subnet in subnets)

"""Which network an uplink is on, as far as the host can tell, and whether that is another now.

A station knows its network's name (SSID), and a host its own subnets there. Between access points
of one network neither changes; nor when a laptop wakes up where it fell asleep.
"""

import json
from dataclasses import dataclass
from ipaddress import ip_network

from .kernel.addresses import Address, Subnet


@dataclass(frozen=True)
class Whereabouts:
    """What was last known of an uplink's network.

    ssid: None before a station was on any, and without Wi-Fi. subnets: of the host's addresses
    there. left: the subnets of the network before. unsettled: the name is new, and the host may
    not have its new addresses yet.
    """

    ssid: bytes | None = None
    subnets: frozenset[Subnet] = frozenset()
    left: frozenset[Subnet] = frozenset()
    unsettled: bool = False

    def after(self, ssid: bytes | None, subnets: frozenset[Subnet]) -> "tuple[Whereabouts, bool]":
        """What is known once these were seen, and whether that is another network.

        What is not there (the carrier is away, the host has no lease yet) stays as it was.
        """
        renamed = None not in (self.ssid, ssid) and self.ssid != ssid
        resettled = bool(self.subnets and subnets) and not self.subnets & subnets
        known = Whereabouts(
            ssid or self.ssid,
            subnets or self.subnets,
            (self.subnets if resettled else self.left) - subnets,
            (self.unsettled or renamed) and not resettled,
        )
        return known, renamed or (resettled and not self.unsettled)

    def to_text(self) -> str:
        return json.dumps(
            {
                "ssid": None if self.ssid is None else self.ssid.hex(),
                "subnets": sorted(map(str, self.subnets)),
                "left": sorted(map(str, self.left)),
                "unsettled": self.unsettled,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> "Whereabouts":
        """What to_text() has written; nothing known if it is something else."""
        try:
            known = json.loads(text)
            subnets, left = (frozenset(map(ip_network, known[key])) for key in ("subnets", "left"))
            ssid = None if known["ssid"] is None else bytes.fromhex(known["ssid"])
            return cls(ssid, subnets, left, bool(known["unsettled"]))
        except (ValueError, KeyError, TypeError):
            return cls()

    def has_left(self, address: Address) -> bool:
        """Whether an address is of the network before this one."""
        return any(address in subnet for subnet in self.left)

"""Who is who on the adversary's LAN."""

from __future__ import annotations

from ipaddress import ip_address

from lab.lan import FAR_MAC, HOST4, HOST6, NEAR_MAC, ROUTER4, ROUTER6
from lab.traffic import ROGUE4, ROGUE6, ROGUE_MAC, SIBLING4, SIBLING6, SIBLING_MAC


def link_local(mac: str) -> str:
    """The address that an interface forms of its MAC (RFC 4291, EUI-64)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    octets[3:3] = b"\xff\xfe"
    return str(ip_address(b"\xfe\x80" + bytes(6) + octets))


HOST_LL, ROUTER_LL, SIBLING_LL, ROGUE_LL = map(
    link_local, (NEAR_MAC, FAR_MAC, SIBLING_MAC, ROGUE_MAC)
)
# A second gateway, of another routing table of the host's.
OTHER4, OTHER6 = "192.0.2.2", "2001:db8::2"
# An address that the host is about to have, for all that the test lasts.
TENTATIVE6 = "2001:db8::aaaa"
# What the host routes elsewhere: containers, say.
BEHIND4, BEHIND6 = "10.9.0.2", "2001:db8:9::2"
# A former address of the host's.
FORMER4 = "192.0.2.11"
# What hosts and routers beyond the LAN have.
BEYOND4, BEYOND6 = "203.0.113.9", "2001:db8:f::9"
# A MAC that nobody has.
MADE_UP_MAC = "52:54:00:de:ad:01"

GATEWAYS = (ROUTER4, ROUTER6, ROUTER_LL, OTHER4, OTHER6)
HOSTS = (HOST4, HOST6, HOST_LL, TENTATIVE6)
# What the DHCP server has leased, and to whom.
LEASES = {NEAR_MAC: "192.0.2.150", SIBLING_MAC: "192.0.2.151"}
SIBLINGS = (SIBLING4, SIBLING6, SIBLING_LL, LEASES[SIBLING_MAC])
# What no guest but the sibling may speak from.
NOT_THE_ROGUES = (*GATEWAYS, *HOSTS, *SIBLINGS, BEHIND4, BEHIND6)
OWN = (ROGUE4, ROGUE6, ROGUE_LL)


def of_family(addresses: tuple[str, ...], version: int) -> tuple[str, ...]:
    return tuple(address for address in addresses if (":" in address) == (version == 6))

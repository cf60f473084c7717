"""ARP for IPv4 over Ethernet (RFC 826, RFC 5227). MACs are octets; vlan is 0 for no tag."""

import struct
from ipaddress import IPv4Address

from .ethernet import BROADCAST, ETH_P_ARP, ETH_P_IP, frame

_REQUEST, _REPLY = 1, 2
_HEAD = struct.Struct("!HHBBH")
_NOBODY = IPv4Address(0)


def gratuitous(address: IPv4Address, vlan: int, mac: bytes) -> bytes:
    """Return an ARP announcement (RFC 5227, 2.3): to everybody, address is at mac now."""
    return frame(BROADCAST, mac, vlan, ETH_P_ARP, _request(mac, address, address))


def probe(address: IPv4Address, vlan: int, source: bytes, holder: bytes) -> bytes:
    """Return an ARP probe (RFC 5227, 2.1.1) to holder alone, as a newcomer sends it to all."""
    return frame(holder, source, vlan, ETH_P_ARP, _request(source, _NOBODY, address))


def who_has(address: IPv4Address, mac: bytes) -> bytes:
    """Return a request to everybody from mac, of whom no ARP cache takes notice: a probe."""
    return probe(address, 0, mac, BROADCAST)


def answering_mac(reply: bytes, address: IPv4Address) -> bytes | None:
    """Return the MAC at which an untagged frame says address to be; None if it says nothing."""
    head = struct.pack("!H", ETH_P_ARP) + _HEAD.pack(1, ETH_P_IP, 6, 4, _REPLY)
    return reply[22:28] if reply[12:22] == head and reply[28:32] == address.packed else None


def _request(mac: bytes, sender: IPv4Address, target: IPv4Address) -> bytes:
    head = _HEAD.pack(1, ETH_P_IP, 6, 4, _REQUEST)
    return head + mac + sender.packed + bytes(6) + target.packed

"""What ARP and neighbour discovery have in common: each of these is of either, by the address."""

from ipaddress import IPv4Address, IPv6Address

from ..names import octets
from . import arp, ndp

Address = IPv4Address | IPv6Address


def gratuitous(address: Address, vlan: int, mac: str) -> bytes:
    """Return a frame to everybody by which address is at mac now. vlan: 0 for an untagged frame.

    It is a gratuitous ARP, or an unsolicited neighbour advertisement.
    """
    if isinstance(address, IPv4Address):
        return arp.gratuitous(address, vlan, octets(mac))
    return ndp.unsolicited_advertisement(address, vlan, octets(mac))


def probe(address: Address, vlan: int, source: str, holder: str) -> bytes:
    """Return a frame from source to holder (MACs) alone, who answers if address is its own.

    It is an ARP probe, as of a newcomer who is about to use an address, or a neighbour
    solicitation.
    """
    if isinstance(address, IPv4Address):
        return arp.probe(address, vlan, octets(source), octets(holder))
    return ndp.solicitation(address, vlan, octets(source), octets(holder))


def solicitation(address: Address, mac: str) -> bytes:
    """Return a frame from mac to everybody that asks who has address; mac alone is answered."""
    if isinstance(address, IPv4Address):
        return arp.who_has(address, octets(mac))
    return ndp.solicitation(address, 0, octets(mac))


def is_answer(frame: bytes, address: Address, mac: str) -> bool:
    """Return whether an untagged frame answers solicitation(address, mac)."""
    return bool(answering_mac(frame, address, mac))


def answering_mac(frame: bytes, address: Address, mac: str) -> str:
    """Return the MAC at which an answer to solicitation(address, mac) says address to be; or ""."""
    if frame[:6] != octets(mac):
        return ""
    if isinstance(address, IPv4Address):
        found = arp.answering_mac(frame, address)
    else:
        found = ndp.answering_mac(frame, address)
    return (found or b"").hex(":")

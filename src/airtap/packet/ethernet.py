"""Ethernet frames."""

import struct

BROADCAST = b"\xff" * 6
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
_ETH_P_8021Q = 0x8100


def frame(to: bytes, source: bytes, vlan: int, ethertype: int, payload: bytes) -> bytes:
    """Return a frame of the least length or more. vlan: 0 for an untagged one."""
    tag = struct.pack("!HH", _ETH_P_8021Q, vlan) if vlan else b""
    return (to + source + tag + struct.pack("!H", ethertype) + payload).ljust(60, b"\0")

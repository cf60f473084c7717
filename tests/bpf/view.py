"""What a frame says, in plain Python: for the model of the rules."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

TAGS = (b"\x81\x00", b"\x88\xa8")
ARP, IPV4, IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
LINK_CONTROL = (b"\x88\x8e", b"\x88\xc7", b"\x88\xb4", b"\x89\x0d")


@dataclass
class View:
    """What a frame carries: ethertype behind at most one tag, and the payload's offset."""

    ethertype: bytes
    at: int
    vlan: int
    stacked: bool

    @classmethod
    def of(cls, frame: bytes, tag: int | None) -> "View":
        tags = [] if tag is None else [tag & 0xFFF]
        at = 14
        while (kind := frame[at - 2 : at]) in TAGS and len(frame) >= at + 4:
            tags.append(int.from_bytes(frame[at : at + 2], "big") & 0xFFF)
            at += 4
        cut = kind in TAGS  # one more, which does not end
        stacked = len(tags) + cut > 1
        return cls(b"" if cut or stacked else kind, at, tags[0] if tags else 0, stacked)


def is_unassignable(address: Address) -> bool:
    return (
        address.is_unspecified
        or address.is_multicast
        or address.is_loopback
        or address == IPv4Address("255.255.255.255")
    )


def is_link_control(view: View, to: bytes) -> bool:
    """Ethertypes and group addresses (IEEE 802.1Q 8.6.3) that a switch or station keeps."""
    reserved = to[:5] == b"\x01\x80\xc2\0\0" and to[5] < 16
    return view.ethertype in LINK_CONTROL or reserved


def is_ipv4_arp(data: bytes) -> bool:
    return data[:2] in (b"\0\1", b"\0\6") and data[2:6] == b"\x08\0\x06\x04"


def group_mac(group: Address) -> bytes:
    if group.version == 6:
        return b"\x33\x33" + group.packed[12:]
    return b"\x01\0\x5e" + bytes([group.packed[1] & 0x7F]) + group.packed[2:]


def egress_dhcp(data: bytes, parent: bytes) -> bytes | None:
    """A guest's packet on the way out; None where it answers the DHCP client with parent's MAC."""
    if _answers(data, parent):
        return None
    header = (data[0] & 0xF) * 4 if data else 0
    length = int.from_bytes(data[2:4], "big")
    message = data[header : header + 20]
    if len(message) < 20 or header < 20 or length < header + 20 or data[0] >> 4 != 4:
        return data
    later = int.from_bytes(data[6:8], "big") & 0x1FFF
    if data[9] != 17 or later or int.from_bytes(message[4:6], "big") < 20:
        return data
    if message[2:4] != b"\0\x43" or message[8] != 1:
        return data
    at = header + 18
    return data[:at] + bytes([data[at] | 0x80]) + data[at + 1 :]


def dhcp_message(data: bytes) -> tuple[int, bytes, IPv4Address] | tuple[()] | None:
    """The operation of a message of DHCP, and its client's MAC and address.

    Empty: it is something else. None: cut, or in a fragment, so that it cannot be told.
    """
    header, fragment = (data[0] & 0xF) * 4, int.from_bytes(data[6:8], "big")
    message = data[header : header + 42]
    if data[9] != 17 or fragment & 0x1FFF:
        return ()
    if len(message) < 8:
        return None
    if message[2:4] not in (b"\0\x43", b"\0\x44"):
        return ()
    lengths = (
        len(message),
        int.from_bytes(data[2:4], "big") - header,
        int.from_bytes(message[4:6]),
    )
    if min(lengths) < 42 or fragment & 0x2000:
        return None
    return message[8], message[36:42], IPv4Address(message[20:24])


def _answers(data: bytes, client: bytes) -> bool:
    if len(data) < 20 or data[9] != 17 or int.from_bytes(data[6:8], "big") & 0x1FFF:
        return False
    message = data[(data[0] & 0xF) * 4 :]
    return message[2:4] == (68).to_bytes(2) and message[36:42] == client


def dhcp_client(data: bytes) -> bytes | None:
    """The client's MAC in a DHCP server's answer. None: it is something else, or in a packet with
    IP options, in the later part of a fragmented one, or cut."""
    later = int.from_bytes(data[6:8], "big") & 0x1FFF
    if data[0] & 0xF != 5 or data[9] != 17 or later or len(data) < 62:
        return None
    return data[56:62] if data[22:24] == b"\0\x44" and data[28] == 2 else None


def destination(view: View, data: bytes) -> Address | None:
    """Whom a packet is for."""
    if view.ethertype == ARP and len(data) >= 28 and is_ipv4_arp(data):
        return IPv4Address(data[24:28])
    if view.ethertype == IPV4 and len(data) >= 20 and data[0] >> 4 == 4:
        return IPv4Address(data[16:20])
    if view.ethertype == IPV6 and len(data) >= 40 and data[0] >> 4 == 6:
        return IPv6Address(data[24:40])
    return None


def source(view: View, frame: bytes) -> tuple[Address | None, int]:
    """From which address and VLAN a frame comes; (None, 0) if that is nobody's."""
    data = frame[view.at :]
    at = 14 if view.ethertype == ARP else 12
    found: Address | None = None
    if view.ethertype == IPV6 and len(data) >= 24:
        found = IPv6Address(data[8:24])
    elif view.ethertype in (ARP, IPV4) and len(data) >= at + 4:
        found = IPv4Address(data[at : at + 4])
    return (None, 0) if found is None or is_unassignable(found) else (found, view.vlan)


def nd_message(data: bytes) -> bytes | None:
    """The ND message in an IPv6 packet. None: something else. Empty: cannot be told, or ND in a
    fragment."""
    protocol, message, fragment = upper_layer(data)
    if protocol is None or (protocol == 58 and not message):
        return b""
    if protocol != 58 or not 133 <= message[0] <= 137:
        return None
    return b"" if fragment else message


def upper_layer(data: bytes) -> tuple[int | None, bytes, bool]:
    """What stands behind the headers of an IPv6 packet: its protocol, None where that cannot be
    told; the octets; whether it is the first of several fragments."""
    following, at, fragment = data[6], 40, False
    length = int.from_bytes(data[4:6], "big")
    end = 40 + length if length else len(data)
    for _ in range(8):
        if (fragment or following in (0, 43, 44, 60)) and at + 8 > end:
            break
        if following not in (0, 43, 44, 60):
            return following, data[at:], fragment
        header = data[at : at + 4]
        if len(header) < 4:
            break
        if following == 44:
            if int.from_bytes(header[2:4], "big") >> 3:
                return following, b"", False
            fragment = True
            at += 8
        else:
            at += (header[1] + 1) * 8
        following = header[0]
    return None, b"", False


def configures(view: View, data: bytes) -> bool:
    """Whether a packet may be what makes its receiver change its own configuration."""
    if view.ethertype == IPV4:
        return _configures_ipv4(data)
    if view.ethertype != IPV6:
        return False
    protocol, message, fragment = upper_layer(data) if len(data) > 6 else (None, b"", False)
    if protocol is None:
        return True
    if protocol == 17:
        return len(message) < 4 or message[2:4] == (546).to_bytes(2)
    if protocol != 58:
        return False
    if not message:
        return True
    return message[0] in (134, 137) or (fragment and 133 <= message[0] <= 137)


def _configures_ipv4(data: bytes) -> bool:
    if len(data) < 20:
        return True
    if int.from_bytes(data[6:8], "big") & 0x1FFF:
        return False
    message = data[(data[0] & 0xF) * 4 :]
    if data[9] == 1:
        return not message or message[0] in (5, 9)
    return data[9] == 17 and (len(message) < 4 or message[2:4] == (68).to_bytes(2))


def probed(view: View, data: bytes) -> Address | None:
    """The address about which a guest asks, as nobody, whether it is free."""
    if view.ethertype == ARP and len(data) >= 28 and is_ipv4_arp(data):
        return IPv4Address(data[24:28]) if data[14:18] == bytes(4) else None
    if view.ethertype != IPV6 or len(data) < 40 or data[0] >> 4 != 6:
        return None
    message = nd_message(data) if is_unassignable(IPv6Address(data[8:24])) else None
    solicits = message and message[0] == 135 and len(message) >= 24
    return IPv6Address(message[8:24]) if message and solicits else None

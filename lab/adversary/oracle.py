"""What a frame would do to whoever hears it, read as a receiver reads it, not as the guards do."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address

from lab.adversary import packets as p
from lab.adversary.attacks import TAGS
from lab.lan import NEAR_MAC

_TPIDS = {tag[0] for tags in TAGS for tag in tags}
_TAGS = {tpid.to_bytes(2) for tpid in _TPIDS}
_EXTENSIONS = (0, 43, 60, p.FRAGMENT)
_OF_LINK = {0x888E: "EAPOL", 0x88C7: "preauthentication", 0x88B4: "WAPI", 0x890D: "TDLS"}
_PPPOE = (0x8863, 0x8864)
_LIVING = {133: 8, 134: 16, 135: 24, 136: 24, 137: 40}


def payload(frame: bytes) -> tuple[int, bytes]:
    """Ethertype and what stands behind it and all tags."""
    at = 12
    while len(frame) >= at + 4 and int.from_bytes(frame[at : at + 2]) in _TPIDS:
        at += 4
    return int.from_bytes(frame[at : at + 2]), frame[at + 2 :]


def vlan(frame: bytes) -> int:
    """The VLAN of a frame; 0 without one, or with a priority tag."""
    at, found = 12, 0
    while not found and int.from_bytes(frame[at : at + 2]) in _TPIDS:
        found = int.from_bytes(frame[at + 2 : at + 4]) & 0xFFF
        at += 4
    return found


def transport(kind: int, packet: bytes) -> tuple[int, bytes]:
    """The transport protocol of an IP packet and what it carries; -1 if not its beginning."""
    if kind == p.IPV4 and len(packet) >= 20:
        later = int.from_bytes(packet[6:8]) & 0x1FFF
        end = int.from_bytes(packet[2:4])
        return (-1, b"") if later else (packet[9], packet[4 * (packet[0] & 15) : end])
    if kind != p.IPV6 or len(packet) < 40:
        return -1, b""
    following, rest = packet[6], packet[40 : 40 + int.from_bytes(packet[4:6])]
    while following in _EXTENSIONS and len(rest) >= 8:
        if following == p.FRAGMENT and int.from_bytes(rest[2:4]) & 0xFFF8:
            return -1, b""
        size = 8 if following == p.FRAGMENT else 8 * (rest[1] + 1)
        following, rest = rest[0], rest[size:]
    return following, rest


def configures(frame: bytes) -> str:
    """What would configure, or speak for, whoever hears it as a host; "" for nothing."""
    kind, octets = payload(frame)
    if kind in _OF_LINK:
        return _OF_LINK[kind]
    if kind in _PPPOE:
        return "PPPoE"
    protocol, data = transport(kind, octets)
    port = int.from_bytes(data[2:4]) if protocol == p.UDP else 0
    if kind == p.IPV4 and port == 68:
        return "DHCP"
    if kind == p.IPV6 and port == 546:
        return "DHCPv6"
    message = data[0] if protocol == p.ICMP6 and kind == p.IPV6 and data else 0
    return {134: "router advertisement", 137: "redirect"}.get(message, "")


def claimed(frame: bytes) -> set[str]:
    """The addresses of which a frame says that they are its sender's."""
    kind, octets = payload(frame)
    found = set()
    if kind == p.ARP and octets[:6] in (b"\0\1\x08\0\6\4", b"\0\6\x08\0\6\4") and len(octets) >= 28:
        found.add(octets[14:18])
    elif kind == p.IPV4 and len(octets) >= 20 and octets[0] >> 4 == 4:
        found.add(octets[12:16])
    elif kind == p.IPV6 and len(octets) >= 40 and octets[0] >> 4 == 6:
        found.add(octets[8:24])
        protocol, data = transport(kind, octets)
        if protocol == p.ICMP6 and len(data) >= 24 and data[0] == 136:
            found.add(data[8:24])
    return {str(ip_address(address)) for address in found}


def macs(frame: bytes) -> set[str]:
    """The MACs that a frame gives for its sender's."""
    kind, octets = payload(frame)
    found = {frame[6:12]}
    if kind == p.ARP and octets[:6] in (b"\0\1\x08\0\6\4", b"\0\6\x08\0\6\4"):
        found.add(octets[8:14])
    protocol, data = transport(kind, octets)
    if kind == p.IPV6 and protocol == p.ICMP6 and data and octets[7] == 255:
        options = data[_LIVING.get(data[0], len(data)) :]
        while len(options) >= 8 and options[1]:
            if options[0] in (1, 2):
                found.add(options[2:8])
            options = options[8 * options[1] :]
    return {mac.hex(":") for mac in found}


def clients(frame: bytes) -> set[str]:
    """For whom a frame asks a DHCP server."""
    return _clients(frame, 67, 1)


def offered(frame: bytes) -> set[str]:
    """To whom a frame offers something by DHCP, for who looks behind one tag."""
    stacked = frame[12:14] in _TAGS and frame[16:18] in _TAGS
    return set() if stacked else _clients(frame, 68, 2)


def _clients(frame: bytes, port: int, op: int) -> set[str]:
    kind, octets = payload(frame)
    protocol, data = transport(kind, octets)
    if kind != p.IPV4 or protocol != p.UDP or len(data) < 42:
        return set()
    return {data[36:42].hex(":")} if (int.from_bytes(data[2:4]), data[8]) == (port, op) else set()


def on_the_air(frame: bytes, own_mac: str, not_its_own: Collection[str]) -> list[str]:
    """What is wrong with a frame of the guest's that the uplink sent with MAC NAT."""
    wrong = [f"foreign MAC {mac}" for mac in macs(frame) - {NEAR_MAC}]
    wrong += [f"speaks for {address}" for address in claimed(frame) & set(not_its_own)]
    wrong += [f"asks DHCP for {mac}" for mac in clients(frame) & {NEAR_MAC} - {own_mac}]
    kind, _ = payload(frame)
    if kind in _OF_LINK or frame[:5] == b"\1\x80\xc2\0\0":
        wrong.append("link control")
    if kind < 1536 and frame[14:17] == b"\xaa\xaa\3":
        wrong.append("SNAP")
    return wrong


def at_the_host(frame: bytes, not_its_own: Collection[str]) -> list[str]:
    """What is wrong with a frame of the guest's that the host hears."""
    wrong = [f"hears for {address}" for address in claimed(frame) & set(not_its_own)]
    if what := configures(frame):
        wrong.append(f"hears {what}")
    return wrong


def is_the_rogues(frame: bytes) -> bool:
    return p.MARK in frame and not _is_error(*payload(frame))


def _is_error(kind: int, packet: bytes) -> bool:
    """Whether a packet reports an error of another, which it quotes."""
    protocol, data = transport(kind, packet)
    if protocol == 1:
        return data[:1] in (b"\3", b"\x0b", b"\x0c")
    return protocol == p.ICMP6 and bool(data) and data[0] < 128

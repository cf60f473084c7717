"""DHCPv4 messages as a client that has no address yet sends and reads them (RFC 2131, 2132).

Bytes of IPv4 packets go in and out. What the LAN answers is not trusted: whatever is cut, too long,
of other checksums, for somebody else, or gives an address that no host can have, is no answer.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

from .checksum import internet_checksum

LARGEST = 1500
BROADCAST = IPv4Address("255.255.255.255")
ANYBODY = IPv4Address("0.0.0.0")

OFFER, ACK, NAK = 2, 5, 6
_DISCOVER, _REQUEST, _RELEASE = 1, 3, 7

_CLIENT_PORT, _SERVER_PORT = 68, 67
_UDP = 17
_IP = "!BBHHHBBH4s4s"
# op, htype, hlen, xid, yiaddr, chaddr, sname, file and the magic cookie (RFC 2131, figure 1).
_BOOTP = struct.Struct("!BBBxI8x4s8x16s64s128s4s")
_MAGIC = bytes((99, 130, 83, 99))
_BOOTREQUEST, _BOOTREPLY = 1, 2
_ETHERNET = 1
_BROADCAST_FLAG = 0x8000
_SMALLEST = 300  # of BOOTP; some servers ignore what is shorter
_FRAGMENT = 0x3FFF  # more fragments, and the offset

_FILE, _NAME = 1, 2  # what option 52 says of further options
_MOST_ROUTERS = 8

Options = dict[int, bytes]


class Option(IntEnum):
    """Options of RFC 2132."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTERS = 3
    REQUESTED_ADDRESS = 50
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER = 54
    PARAMETERS = 55
    CLIENT = 61
    END = 255


_WANTED = bytes((Option.SUBNET_MASK, Option.ROUTERS))


@dataclass(frozen=True)
class Answer:
    """What a server says: an OFFER, an ACK or a NAK.

    kind: which of these.
    address: the client's; ANYBODY in a NAK.
    network: what is on the link, by the subnet mask.
    """

    kind: int
    server: IPv4Address
    address: IPv4Address
    network: IPv4Network
    routers: tuple[IPv4Address, ...]


def discover(xid: int, mac: bytes) -> bytes:
    """Return a packet that asks any server for a lease.

    xid: number of the exchange, of 32 bits.
    mac: the client's.
    """
    return _to_all(_message(xid, mac, _DISCOVER, {Option.PARAMETERS: _WANTED}))


def request(xid: int, mac: bytes, offer: Answer) -> bytes:
    """Return a packet that takes an offer."""
    options: Options = {
        Option.REQUESTED_ADDRESS: offer.address.packed,
        Option.SERVER: offer.server.packed,
        Option.PARAMETERS: _WANTED,
    }
    return _to_all(_message(xid, mac, _REQUEST, options))


def release(xid: int, mac: bytes, lease: Answer) -> bytes:
    """Return a packet that gives a lease back to its server."""
    options: Options = {Option.SERVER: lease.server.packed}
    message = _message(xid, mac, _RELEASE, options, lease.address)
    return _packet(lease.address, lease.server, message)


def read(packet: bytes, xid: int, mac: bytes) -> Answer | None:
    """Return a server's answer to this exchange of this client's; None if a packet is none."""
    message = _of_server(packet)
    if message is None or len(message) < _BOOTP.size:
        return None
    op, hardware, length, number, yours, client, name, file, magic = _BOOTP.unpack_from(message)
    if (op, hardware, length, number) != (_BOOTREPLY, _ETHERNET, 6, xid):
        return None
    if client[:6] != mac or magic != _MAGIC:
        return None
    options = _all_options(message[_BOOTP.size :], name, file)
    return None if options is None else _answer(options, IPv4Address(yours))


def _answer(options: Options, yours: IPv4Address) -> Answer | None:
    kind, server = options.get(Option.MESSAGE_TYPE, b""), _address(options.get(Option.SERVER, b""))
    if server is None or not _is_hosts(server) or kind not in (b"\x02", b"\x05", b"\x06"):
        return None
    if kind[0] == NAK:
        return Answer(NAK, server, ANYBODY, IPv4Network("0.0.0.0/32"), ())
    network = _network(yours, options.get(Option.SUBNET_MASK))
    if network is None or not _is_hosts(yours):
        return None
    return Answer(kind[0], server, yours, network, _routers(options.get(Option.ROUTERS, b"")))


def _network(address: IPv4Address, mask: bytes | None) -> IPv4Network | None:
    """Return what is on the link of an address: without a mask, nothing but itself."""
    if mask is None:
        return IPv4Network(address)
    if len(mask) != 4:
        return None
    ones = int.from_bytes(mask)
    length = ones.bit_count()
    if length == 0 or ones != (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF:
        return None
    network = IPv4Network((address, length), strict=False)
    at_an_end = length < 31 and address in (network.network_address, network.broadcast_address)
    return None if at_an_end else network


def _routers(value: bytes) -> tuple[IPv4Address, ...]:
    starts = range(0, min(len(value), 4 * _MOST_ROUTERS) - 3, 4)
    found = (IPv4Address(value[start : start + 4]) for start in starts)
    return tuple(router for router in found if _is_hosts(router))


def _address(value: bytes) -> IPv4Address | None:
    return IPv4Address(value) if len(value) == 4 else None


def _is_hosts(address: IPv4Address) -> bool:
    """Return whether a single host can have an address (RFC 1122, 3.2.1.3)."""
    return 0 < address.packed[0] < 224 and not address.is_loopback


def _all_options(field: bytes, name: bytes, file: bytes) -> Options | None:
    options = _options(field)
    if options is None:
        return None
    overload = (options.get(Option.OVERLOAD) or b"\0")[0]
    for bit, more in ((_FILE, file), (_NAME, name)):
        if overload & bit:
            further = _options(more)
            if further is None:
                return None
            options = {**further, **options}
    return options


def _options(field: bytes) -> Options | None:
    """Return the options in a field, the first of each; None if one is cut."""
    found: Options = {}
    at = 0
    while at < len(field) and field[at] != Option.END:
        if field[at] == Option.PAD:
            at += 1
            continue
        end = at + 2 + field[at + 1] if at + 1 < len(field) else len(field) + 1
        if end > len(field):
            return None
        found.setdefault(field[at], field[at + 2 : end])
        at = end
    return found


def _of_server(packet: bytes) -> bytes | None:
    """Return what stands in a whole, sound UDP packet from a server's port to a client's."""
    if not 20 <= len(packet) <= LARGEST or packet[0] >> 4 != 4:
        return None
    head = (packet[0] & 0x0F) * 4
    _, _, length, _, fragment, _, protocol, _, source, target = struct.unpack_from(_IP, packet)
    if not 20 <= head <= length - 8 or length > len(packet):
        return None
    if fragment & _FRAGMENT or protocol != _UDP or internet_checksum(packet[:head]) != 0:
        return None
    datagram = packet[head:length]
    ports_and_size = struct.unpack_from("!HHH", datagram)
    if ports_and_size != (_SERVER_PORT, _CLIENT_PORT, len(datagram)):
        return None
    has_checksum = datagram[6:8] != b"\0\0"
    if has_checksum and internet_checksum(_pseudo(source, target, len(datagram)) + datagram) != 0:
        return None
    return datagram[8:]


def _message(
    xid: int, mac: bytes, kind: int, options: Options, address: IPv4Address = ANYBODY
) -> bytes:
    """Return a message of a client's.

    address: the client's own; answers are to come to all as long as it has none.
    """
    flags = _BROADCAST_FLAG if address == ANYBODY else 0
    head = struct.pack("!BBBBIHH", _BOOTREQUEST, _ETHERNET, 6, 0, xid, 0, flags)
    head += address.packed + 3 * ANYBODY.packed + mac.ljust(16, b"\0") + bytes(64 + 128) + _MAGIC
    told = {
        Option.MESSAGE_TYPE: bytes((kind,)),
        Option.CLIENT: bytes((_ETHERNET,)) + mac,
        **options,
    }
    coded = b"".join(bytes((code, len(value))) + value for code, value in told.items())
    return (head + coded + bytes((Option.END,))).ljust(_SMALLEST, b"\0")


def _to_all(message: bytes) -> bytes:
    return _packet(ANYBODY, BROADCAST, message)


def _packet(source: IPv4Address, target: IPv4Address, message: bytes) -> bytes:
    ends = source.packed, target.packed
    size = 8 + len(message)
    udp = struct.pack("!HHHH", _CLIENT_PORT, _SERVER_PORT, size, 0) + message
    checksum = internet_checksum(_pseudo(*ends, size) + udp) or 0xFFFF
    udp = udp[:6] + struct.pack("!H", checksum) + udp[8:]
    head = struct.pack(_IP, 0x45, 0, 20 + size, 0, 0, 64, _UDP, 0, *ends)
    return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:] + udp


def _pseudo(source: bytes, target: bytes, size: int) -> bytes:
    return source + target + struct.pack("!BBH", 0, _UDP, size)

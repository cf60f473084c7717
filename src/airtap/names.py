"""Names and addresses that come from outside, validated here and nowhere else."""

import os
import re

from .errors import Problem

IFNAMSIZ = 16  # include/uapi/linux/if.h, the terminating NUL included

# What the kernel's isspace() takes for space, byte by byte: 0xa0 too (lib/ctype.c), which some
# letters have in their UTF-8.
_NOT_IN_A_NAME = frozenset(b"/:\0 \t\n\v\f\r\xa0")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def device_name(text: str) -> str:
    """Return text if the kernel could have a network device of that name.

    The rule is dev_valid_name() of net/core/dev.c, on bytes and not on characters, plus
    UTF-8: a name that is not text cannot be written in the ACL, the config or a log.
    Raises Problem bad-name.
    """
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise Problem("bad-name", f"device name {text[:64]!a} is not UTF-8") from None
    if not raw:
        raise Problem("bad-name", "the device name is empty", "name one, as in --br=eth0")
    if len(raw) >= IFNAMSIZ:
        raise Problem(
            "bad-name",
            f"device name {text[:64]!r} is too long: {len(raw)} bytes, the kernel allows 15",
        )
    if text in (".", "..") or not _NOT_IN_A_NAME.isdisjoint(raw):
        raise Problem("bad-name", f"{text!r} cannot be the name of a network device")
    return text


def mac_address(text: str) -> str:
    """Return a guest's MAC address in the kernel's spelling, 52:54:00:ab:cd:ef.

    Only unicast addresses other than all zeroes can be a station's own (IEEE 802, 8.2).
    Raises Problem bad-mac.
    """
    mac = text.lower()
    if not _MAC.fullmatch(mac):
        raise Problem(
            "bad-mac",
            f"{text[:64]!r} is not a MAC address",
            "write six hexadecimal pairs, as in 52:54:00:12:34:56",
        )
    if int(mac[:2], 16) & 1:
        raise Problem("bad-mac", f"{mac} is a multicast address, no guest can have it")
    if mac == "00:00:00:00:00:00":
        raise Problem("bad-mac", f"{mac} is no address, no guest can have it")
    return mac


def octets(mac: str) -> bytes:
    """Return a MAC address as it stands in a frame. Raises ValueError if that is not six octets."""
    found = bytes.fromhex(mac.replace(":", ""))
    if len(found) != 6:
        raise ValueError(f"not a MAC address: {mac}")
    return found


def random_mac() -> str:
    """Return a MAC address that is nobody's: a locally administered one (IEEE 802, 8.2)."""
    octets = bytearray(os.urandom(6))
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


def domain_uuid(text: str) -> str:
    """Return text if it is a UUID as libvirt spells a domain's. Raises Problem bad-uuid."""
    if not _UUID.fullmatch(text):
        raise Problem("bad-uuid", f"{text[:64]!r} is not the UUID of a libvirt domain")
    return text

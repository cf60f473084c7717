"""What rtnetlink tells of a network device: include/uapi/linux/if_link.h, rtnetlink.h.

Read by hand: pyroute2 reads all that the kernel says, and takes ten times as long.
"""

import struct
from typing import Any

from .netlink import Attributes, attribute_parts, attributes, number

# Of a message: struct ifinfomsg, and of struct rtnl_link_stats64 the third and the fourth.
_IFINFO = struct.Struct("=BxHiII")
_BYTE_COUNTS = struct.Struct("=16xQQ")
GETLINK = 18
_ADDRESS, IFNAME, _MTU, _LINK, _MASTER, _LINKINFO = 1, 3, 4, 5, 10, 18
_IFALIAS, _STATS64, _GROUP, _LINK_NETNSID, _CARRIER_UPS, _PROP_LIST = 20, 23, 27, 37, 47, 52
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND = 1, 2, 4
_MACVLAN_MODE, _IPVLAN_MODE, _IPVLAN_FLAGS = 1, 1, 2
_BOND_MODE, _BOND_ACTIVE_SLAVE = 1, 2
_ACTIVE_BACKUP = 1  # include/uapi/linux/if_bonding.h: BOND_MODE_ACTIVEBACKUP
_MACVLAN_MODES = {1: "private", 2: "vepa", 4: "bridge", 8: "passthru", 16: "source"}

# An ipvlan's ways to treat siblings, by its flags, in L2 mode (IPVLAN_F_*, IPVLAN_MODE_L2).
IPVLAN_MODES = ("bridge", "private", "vepa")
IPVLAN_L2 = 0


def ifinfo(index: int) -> bytes:
    """What a request about a device begins with; 0 for any."""
    return _IFINFO.pack(0, 0, index, 0, 0)


def link_fields(payload: bytes) -> dict[str, Any]:
    """The fields of a Link, from what the kernel tells of it: struct ifinfomsg and attributes."""
    _family, arptype, index, flags, _change = _IFINFO.unpack_from(payload)
    found = attributes(payload[_IFINFO.size :])
    info = attributes(found.get(_LINKINFO, b""))
    kind = _text(info.get(_INFO_KIND, b""))
    data = attributes(info.get(_INFO_DATA, b""))
    stats = found.get(_STATS64)
    rx_bytes, tx_bytes = _BYTE_COUNTS.unpack_from(stats) if stats else (0, 0)
    return dict(
        name=_text(found[IFNAME]),
        index=index,
        mac=found.get(_ADDRESS, b"").hex(":"),
        mtu=number(found.get(_MTU, b"")),
        flags=flags,
        arptype=arptype,
        kind=kind,
        slave_kind=_text(info.get(_INFO_SLAVE_KIND, b"")),
        master=number(found.get(_MASTER, b"")),
        parent=number(found.get(_LINK, b"")),
        parent_here=_LINK_NETNSID not in found,
        group=number(found.get(_GROUP, b"")),
        alias=_text(found.get(_IFALIAS, b"")),
        altnames=frozenset(_text(name) for _, name in attribute_parts(found.get(_PROP_LIST, b""))),
        mode=_mode(kind, data),
        rx_bytes=rx_bytes,
        tx_bytes=tx_bytes,
        carrier_ups=number(found.get(_CARRIER_UPS, b"")),
        active_port=_active_port(kind, data),
    )


def _text(octets: bytes) -> str:
    return octets.rstrip(b"\0").decode(errors="surrogateescape")


def _active_port(kind: str, data: Attributes) -> int:
    """Of a bond that sends by one port; others that have an active port send by all of them
    (drivers/net/bonding/bond_main.c: bond_mode_uses_primary)."""
    single = kind == "bond" and number(data.get(_BOND_MODE, b"")) == _ACTIVE_BACKUP
    return number(data.get(_BOND_ACTIVE_SLAVE, b"")) if single else 0


def _mode(kind: str, data: Attributes) -> str:
    if kind == "macvtap":
        return _MACVLAN_MODES.get(number(data.get(_MACVLAN_MODE, b"")), "")
    if kind not in ("ipvlan", "ipvtap"):
        return ""
    if number(data.get(_IPVLAN_MODE, b"")) != IPVLAN_L2:
        return "l3"
    flags = number(data.get(_IPVLAN_FLAGS, b""))
    return IPVLAN_MODES[flags] if flags < len(IPVLAN_MODES) else ""

"""What a network device is in 802.11 terms, asked of nl80211, and its 4-address mode.

Whatever asks the kernel here blocks until it has answered, for 5 s at most.
"""

import sys
from pathlib import Path

from ..errors import Problem, reason
from .genetlink import Family
from .netlink import DUMP, Attributes, attribute, attributes, number

# include/uapi/linux/nl80211.h: commands, attributes, and those inside NL80211_ATTR_BSS
_GET_INTERFACE, _SET_INTERFACE, _GET_STATION, _GET_SCAN, _FRAME = 5, 6, 17, 32, 59
_IFINDEX, _IFTYPE, _MAC, _BSS, _FRAME_OCTETS, _4ADDR = 3, 5, 6, 47, 51, 83
_BSS_BSSID, _BSS_ELEMENTS, _BSS_STATUS = 1, 6, 9
_BSS_JOINED = (1, 2)  # ASSOCIATED, IBSS_JOINED
# enum nl80211_iftype
_STATIONS = (2, 8)  # STATION, P2P_CLIENT
_TYPES = {
    1: "wifi-adhoc",
    **dict.fromkeys((3, 4, 9), "wifi-ap"),  # AP, AP_VLAN, P2P_GO
    7: "wifi-mesh",  # MESH_POINT
}

_SSID_ELEMENT = 0  # IEEE 802.11, 9.4.2.1
_DEAUTHENTICATION = b"\xc0\0"  # IEEE 802.11, 9.2.4.1.3: frame control
_LEAVING = b"\x03\0"  # IEEE 802.11, 9.4.1.7: reason 3, the sender leaves


def uplink_type(name: str, index: int) -> str | None:
    """Say what kind of 802.11 interface a device is; None if it is none.

    "wifi-station": may transmit with its own MAC only. "wifi-4addr": a station with 4-address
    frames, which may transmit with any. "wifi-ap": an access point. "wifi-mesh": a mesh point,
    which is proxy for any (IEEE 802.11, 14.11.3). "wifi-adhoc": hears frames to its own MAC only.
    "other": monitor, OCB. Raises Problem no-nl80211 where the device is 802.11 and nl80211 does not
    answer.
    """
    if not is_wifi(name):
        return None
    try:
        with Family("nl80211") as family:
            interface = _interface(family, index)
    except OSError as exc:
        raise Problem("no-nl80211", f"cannot ask nl80211 about {name}: {reason(exc)}") from exc
    iftype = number(interface[_IFTYPE])
    if iftype in _STATIONS:
        return "wifi-4addr" if number(interface.get(_4ADDR, b"")) else "wifi-station"
    return _TYPES.get(iftype, "other")


def is_wifi(name: str) -> bool:
    """Whether a device is an 802.11 interface."""
    return Path(f"/sys/class/net/{name}/phy80211").exists()


def station_bss(index: int) -> tuple[bytes, bytes]:
    """The name of the network that a station is associated with, or in ad hoc, and its BSSID there.

    Both are b"" for none. From the scan results: kernels do not tell it of the interface where
    wpa_supplicant does the authentication itself. Raises OSError, also where the device is no
    802.11 one.
    """
    with Family("nl80211") as family:
        for result in family.request(_GET_SCAN, _of(index), DUMP):
            bss = attributes(result.get(_BSS, b""))
            if number(bss.get(_BSS_STATUS, b"")) in _BSS_JOINED:
                return ssid(bss.get(_BSS_ELEMENTS, b"")), bss.get(_BSS_BSSID, b"")
    return b"", b""


def ssid(elements: bytes) -> bytes:
    """The network's name among the elements of a beacon or probe response; b"" if hidden."""
    while len(elements) >= 2:
        kind, length = elements[:2]
        if kind == _SSID_ELEMENT:
            return elements[2 : 2 + length]
        elements = elements[2 + length :]
    return b""


def set_4addr(index: int, on: bool) -> None:
    """Switch the 4-address mode of a station, associated or not.

    Raises OSError: EPERM, EBUSY (off, and it is a bridge's port), EOPNOTSUPP (the driver has no
    such mode), ENODEV.
    """
    with Family("nl80211") as family:
        family.request(_SET_INTERFACE, _of(index) + attribute(_4ADDR, bytes([on])))


def associate_anew(index: int) -> bool:
    """Take leave of the access point, so that it forgets what the station was to it.

    It answers the next frame that it does not know whose frames are, and whoever manages the
    station then associates again. nl80211 has a command to disconnect, which obeys only the socket
    that has connected (conn_owner_nlportid), wpa_supplicant's or iwd's; and a device that is taken
    down loses IPv6 addresses and routes. False if it is not associated. Raises OSError.
    """
    with Family("nl80211") as family:
        stations = family.request(_GET_STATION, _of(index), DUMP)
        if not stations:
            return False
        to, own = stations[0][_MAC], _interface(family, index)[_MAC]
        frame = _DEAUTHENTICATION + bytes(2) + to + own + to + bytes(2) + _LEAVING
        family.request(_FRAME, _of(index) + attribute(_FRAME_OCTETS, frame))
    return True


def _of(index: int) -> bytes:
    return attribute(_IFINDEX, index.to_bytes(4, sys.byteorder))


def _interface(family: Family, index: int) -> Attributes:
    return family.request(_GET_INTERFACE, _of(index))[0]

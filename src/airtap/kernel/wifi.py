"""What a network device is in 802.11 terms, asked of nl80211."""

from pathlib import Path

from pyroute2.iwutil import AsyncIW
from pyroute2.netlink.exceptions import NetlinkError

from ..errors import Problem

# include/uapi/linux/nl80211.h, enum nl80211_iftype
_STATIONS = (2, 8)  # STATION, P2P_CLIENT
_ACCESS_POINTS = (3, 4, 9)  # AP, AP_VLAN, P2P_GO


async def uplink_type(name: str, index: int) -> str | None:
    """Say what kind of 802.11 interface a device is; None if it is none.

    "wifi-station": may transmit with its own MAC only. "wifi-4addr": a station with 4-address
    frames, which may transmit with any. "wifi-ap": an access point. "other": mesh, ad hoc,
    monitor. Raises Problem no-nl80211 where the device is 802.11 and nl80211 does not answer.
    """
    if not Path(f"/sys/class/net/{name}/phy80211").exists():
        return None
    try:
        async with AsyncIW() as iw:
            await iw.bind()  # asks for the id of the nl80211 family
            interface = (await iw.get_interface_by_ifindex(index))[0]
    except (NetlinkError, OSError, IndexError) as exc:
        raise Problem("no-nl80211", f"cannot ask nl80211 about {name}: {exc}") from exc
    iftype = interface.get_attr("NL80211_ATTR_IFTYPE")
    if iftype in _STATIONS:
        four_address = interface.get_attr("NL80211_ATTR_4ADDR")
        return "wifi-4addr" if four_address and int(four_address, 16) else "wifi-station"
    return "wifi-ap" if iftype in _ACCESS_POINTS else "other"

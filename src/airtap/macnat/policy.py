"""Which children of an uplink MAC NAT and host access are for, and what should be on for them."""

from .. import uplink
from ..bpf.role import Role
from ..config import MODES, Config
from ..kernel.links import FAMILY, GROUP, Link


def is_child(link: Link, parent: int | None = None) -> bool:
    """Whether a device counts as a child of parent, None: of any.

    Macvtaps and macvlans do, whoever made them (libvirt makes its own), and ipvtaps if airtap did:
    others' ipvlans have the uplink's MAC and addresses of their own.
    """
    ours = link.kind == "ipvtap" and link.group == GROUP
    counts = ours or FAMILY.get(link.kind) == "macvtap"
    return counts and link.parent_here and parent in (None, link.parent)


def is_sociable(child: Link) -> bool:
    """Whether the host may meet a child's guest: on a macvtap or ipvtap of mode bridge.

    The other modes are there to keep guests apart, or to leave all to the switch.
    """
    return child.kind in MODES and child.mode == "bridge"


def gives_its_mac(link: Link, kind: str, config: Config) -> bool:
    """Whether guests on children of a kind get the uplink's MAC: as configured, else as needed.

    Needed is it where the uplink takes one MAC only, and on ipvtaps, which have just one. Raises
    Problem no-nl80211.
    """
    setting = config.parent(link.name).macnat
    if setting != "auto":
        return setting == "on"
    return kind == "ipvtap" or uplink.inspect(link).type == "wifi-station"


def role_for(link: Link, kind: str, config: Config) -> Role:
    """What is to be on at an uplink for children of a kind. Raises Problem no-nl80211."""
    translate = gives_its_mac(link, kind, config)
    # Guests on ipvtaps that use the uplink's MAC are none to tell apart by theirs.
    apart = translate or kind == "macvtap"
    return Role(kind, translate, apart and config.parent(link.name).host_access)

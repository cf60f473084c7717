"""The decisions: what should be at work on an uplink, and for which of its children."""

from dataclasses import dataclass

from .. import uplink
from ..bpf.role import Role
from ..config import Config
from ..kernel.links import FAMILY, Link
from .children import supports_host_access
from .uplink import UplinkState


@dataclass(frozen=True)
class Desired:
    """What should be at work on an uplink, for those of its children that were looked at."""

    link: Link
    role: Role
    children: list[Link]

    @property
    def mode(self) -> str:
        """The mode of the children; "" without any."""
        return self.children[0].mode if self.children else ""


def desired(
    link: Link, children: list[Link], config: Config, current: UplinkState | None
) -> Desired:
    """Decide what should be at work on an uplink for its children. Blocks.

    current is what is at work there: its kind counts where there are no children.
    Raises Problem no-nl80211.
    """
    former_kind = current.role.kind if current else "macvtap"
    kind = FAMILY[children[0].kind] if children else former_kind
    role = role_for(link, kind, config)
    if role.observes:
        is_reached = current is not None and current.has_host_access
        children = _observable(children, is_reached) if role.host_access else []
    return Desired(link, role, children)


def gives_its_mac(link: Link, kind: str, config: Config) -> bool:
    """Tell whether guests on children of a kind get the uplink's MAC. Blocks.

    The configuration says so, or else the need: where the uplink takes one MAC only, and on
    ipvtaps, which have just one. Raises Problem no-nl80211.
    """
    setting = config.parent(link.name).macnat
    if setting != "auto":
        return setting == "on"
    return kind == "ipvtap" or uplink.inspect(link).type == "wifi-station"


def role_for(link: Link, kind: str, config: Config) -> Role:
    """Decide what is to be on at an uplink for children of a kind. Blocks.

    Raises Problem no-nl80211.
    """
    translate = gives_its_mac(link, kind, config)
    # Guests on ipvtaps that use the uplink's MAC are none to tell apart by theirs.
    apart = translate or kind == "macvtap"
    return Role(kind, translate, apart and config.parent(link.name).host_access)


def _observable(children: list[Link], is_reached: bool) -> list[Link]:
    """Return those children that from_guest is to observe, without MAC NAT.

    These are macvtaps of whichever mode, while the host may reach one of them: nobody shall
    pass for the host. is_reached tells whether it reaches one already.
    """
    macvtaps = [child for child in children if child.kind == "macvtap"]
    return macvtaps if is_reached or any(map(supports_host_access, macvtaps)) else []

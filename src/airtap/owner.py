"""Who a guest device was made for, as the text that stands in the device's alias.

The kernel keeps the alias (``ip link`` shows it), so a daemon that starts again knows the
owners of the devices that it finds.
"""

from dataclasses import dataclass

from .errors import Problem
from .names import mac_address

_PREFIX = "airtap"
_LEARN = "learn"


@dataclass(frozen=True)
class Owner:
    """uid and pid of the process that asked: for a bridge helper pid is QEMU's.

    learning: whether the device still waits for the guest's MAC. mac: of the guest, where it is
    not the device's own: an ipvtap has its parent's.
    """

    uid: int
    pid: int
    learning: bool = False
    mac: str = ""

    def to_alias(self) -> str:
        """The owner as the kernel keeps it."""
        mac = _LEARN if self.learning else self.mac
        return f"{_PREFIX} uid={self.uid} pid={self.pid}" + (f" mac={mac}" if mac else "")

    @classmethod
    def from_alias(cls, alias: str) -> "Owner | None":
        """Read an alias; None if it is not one of ours."""
        prefix, *fields = alias.split(" ")
        values = dict(field.partition("=")[::2] for field in fields)
        try:
            if prefix != _PREFIX:
                return None
            mac = values.get("mac", "")
            learning = mac == _LEARN
            own = mac_address(mac) if mac and not learning else ""
            return cls(int(values["uid"]), int(values["pid"]), learning, own)
        except (KeyError, ValueError, Problem):
            return None


def guest_mac(link_mac: str, owner: "Owner | None") -> str | None:
    """The MAC of the guest behind a device that bears link_mac; None while it is to be learned."""
    if owner is None:
        return link_mac
    return None if owner.learning else owner.mac or link_mac

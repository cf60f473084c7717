"""Who a guest device was made for, as the text that stands in the device's alias.

The kernel keeps the alias (``ip link`` shows it), so a daemon that starts again knows the
owners of the devices that it finds.
"""

from dataclasses import dataclass
from urllib.parse import quote, unquote

from .errors import Problem
from .names import mac_address

_PREFIX = "airtap"
_LEARN = "learn"
_LEARNED = "learned"
# include/uapi/linux/if.h: IFALIASZ is 256; the NUL that pyroute2 sends counts, and may not be all
# of the last byte (net/core/rtnetlink.c: ifla_policy).
_MAX_ALIAS = 254


@dataclass(frozen=True)
class Owner:
    """Who a guest device was made for.

    uid, pid: the process that asked; where a bridge helper did, pid is QEMU's, or 0 if unknown.
    learning: whether the device still waits for the guest's MAC.
    mac: the guest's, where it is not the device's own: an ipvtap has its parent's.
    uuid, domain: the libvirt guest's; domain is its name, cut at what the kernel has room for.
    learned: whether the MAC was, so that the device follows a guest that changes it.
    """

    uid: int
    pid: int
    learning: bool = False
    mac: str = ""
    uuid: str = ""
    domain: str = ""
    learned: bool = False

    def to_alias(self) -> str:
        """The owner as the kernel keeps it."""
        mac = _LEARN if self.learning else self.mac
        alias = f"{_PREFIX} uid={self.uid} pid={self.pid}" + (f" mac={mac}" if mac else "")
        alias += f" {_LEARNED}" if self.learned else ""
        if not self.uuid:
            return alias
        alias += f" uuid={self.uuid} domain="
        return alias + _quoted(self.domain, _MAX_ALIAS - len(alias))

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
            uuid = values.get("uuid", "")
            domain = unquote(values.get("domain", "")) if uuid else ""
            ids = int(values["uid"]), int(values["pid"])
            return cls(*ids, learning, own, uuid, domain, _LEARNED in values)
        except (KeyError, ValueError, Problem):
            return None


def guest_mac(link_mac: str, owner: "Owner | None") -> str | None:
    """The MAC of the guest behind a device that bears link_mac; None as long as it is not known."""
    if owner is None:
        return link_mac
    return None if owner.learning else owner.mac or link_mac


def may_manage(uid: int, owner: "Owner | None") -> bool:
    """Whether a user may see, trace and remove a device: root any, others what is their own."""
    return uid == 0 or (owner is not None and owner.uid == uid)


def _quoted(text: str, room: int) -> str:
    """As much of text, percent-encoded, as there is room for: whole characters."""
    characters = [quote(character, safe="", errors="replace") for character in text[:room]]
    while sum(map(len, characters)) > room:
        characters.pop()
    return "".join(characters)

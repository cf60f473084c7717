"""Who a guest device was made for, as the text that stands in the device's alias.

The kernel keeps the alias (``ip link`` shows it), so a daemon that starts again knows the
owners of the devices that it finds.
"""

from dataclasses import dataclass

_PREFIX = "airtap"


@dataclass(frozen=True)
class Owner:
    """uid and pid of the process that asked: for a bridge helper pid is QEMU's.

    learning: whether the device still waits for the guest's MAC.
    """

    uid: int
    pid: int
    learning: bool = False

    def to_alias(self) -> str:
        """The owner as the kernel keeps it."""
        text = f"{_PREFIX} uid={self.uid} pid={self.pid}"
        return text + " mac=learn" if self.learning else text

    @classmethod
    def from_alias(cls, alias: str) -> "Owner | None":
        """Read an alias; None if it is not one of ours."""
        prefix, *fields = alias.split(" ")
        values = dict(field.partition("=")[::2] for field in fields)
        try:
            if prefix != _PREFIX:
                return None
            return cls(int(values["uid"]), int(values["pid"]), values.get("mac") == "learn")
        except (KeyError, ValueError):
            return None

"""Reads which programs configure network devices by themselves, and whether they have taken ours.

NetworkManager writes /run/NetworkManager/devices/IFINDEX (src/core/nm-config.c:
nm_config_device_state_write), systemd-networkd /run/systemd/netif/links/IFINDEX. Both are written
for programs of their own; a file that cannot be read says nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import processes
from .files import text_or_nothing

_NM, _NETWORKD, _IWD = "NetworkManager", "systemd-networkd", "iwd"
_NM_DEVICES = Path("/run/NetworkManager/devices")
_NETWORKD_LINKS = Path("/run/systemd/netif/links")
_IWD_CONF = Path("/etc/iwd/main.conf")


@dataclass(frozen=True)
class Managers:
    """The managers that run.

    running: their names.
    iwd_keeps: whether iwd leaves devices as it finds them.
    """

    running: frozenset[str]
    iwd_keeps: bool

    def holder(self, ifindex: int) -> tuple[str, str]:
        """Return who manages a device, and the file that says so; ("", "") for nobody."""
        file = _NM_DEVICES / str(ifindex)
        if _NM in self.running and values(text_or_nothing(file)).get("managed") == "true":
            return _NM, f"{file}: managed=true"
        file = _NETWORKD_LINKS / str(ifindex)
        state = values(text_or_nothing(file)).get("ADMIN_STATE", "unmanaged")
        if _NETWORKD in self.running and state not in ("unmanaged", ""):
            return _NETWORKD, f"{file}: ADMIN_STATE={state}"
        return "", ""


def read() -> Managers:
    # The kernel keeps 15 characters of a process's name.
    """Read which managers run."""
    known = {name[:15]: name for name in (_NM, _NETWORKD, _IWD)}
    running = frozenset(known[process.name] for process in processes.named(*known))
    keeps = values(text_or_nothing(_IWD_CONF)).get("UseDefaultInterface", "").lower() == "true"
    return Managers(running, keeps)


def values(text: str) -> Mapping[str, str]:
    """Return what the lines KEY=VALUE say, of whatever section."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {key.strip(): value.strip() for key, separator, value in pairs if separator}

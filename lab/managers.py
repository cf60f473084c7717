"""Network managers as laptops run them: wlan1 is theirs, and so are the host's addresses there.

Each has its own daemons, D-Bus and configuration as Debian installs them, in a Debian that systemd
boots (lab/debian.py) in the sandbox's network. airtap's files for them are where its package has
them. udev is not there: NetworkManager and networkd take a read-only /sys for a container.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.debian import System
from lab.kernels import REPOSITORY
from lab.lan import wait_for
from lab.roots import LAPTOP
from lab.running import Running
from lab.sandbox import command
from lab.wifi import PASSPHRASE, AccessPoint

LINK, CABLE = "wlan1", "cable0"
# What these need to associate and to get a lease, on a machine of usual speed.
JOINED_S = 30.0

_FILES = {
    "75-airtap.conf": "/usr/lib/NetworkManager/conf.d",
    "75-airtap.network": "/usr/lib/systemd/network",
    "75-airtap.link": "/usr/lib/systemd/network",
}


# Else it makes interfaces of its own, with names that the kernel chooses.
_IWD = "[General]\nUseDefaultInterface=true\n"


class Manager(Running):
    """One of them at work, from start() to close(). units are what it consists of."""

    units: Sequence[str] = ()

    def __init__(self, access_points: Sequence[AccessPoint], suite: str = LAPTOP) -> None:
        """access_points: those whose networks it knows; it begins on the first."""
        self.access_points = list(access_points)
        self.system = System(suite)
        self._undo = contextlib.ExitStack()

    @property
    def mac(self) -> str:
        """The MAC of the station, which the manager may change."""
        return Path(f"/sys/class/net/{LINK}/address").read_text().strip()

    def start(self) -> None:
        with contextlib.ExitStack() as undo:
            undo.enter_context(self.system)
            undo.callback(command, "ip", "link", "set", LINK, "down")
            undo.callback(command, "ip", "address", "flush", "dev", LINK)
            for name, directory in _FILES.items():
                self.write(f"{directory}/{name}", (REPOSITORY / "data" / name).read_text())
            for access_point in self.access_points:
                self._know(access_point)
            self._prepare()
            undo.callback(self.run, "systemctl", "stop", *self.units)
            self.restart()
            self.join(self.access_points[0])
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def run(self, *argv: str) -> str:
        """Run a command of the laptop's user's; RuntimeError if it fails."""
        return self.system.run(*argv).stdout

    def write(self, path: str, content: str, mode: str = "644") -> None:
        self.run("mkdir", "-p", str(Path(path).parent))
        self.system.run("tee", path, text=content)
        self.run("chmod", mode, path)

    def log(self) -> str:
        units = [f"--unit={unit}" for unit in self.units]
        return self.run("journalctl", "--no-pager", "--output=cat", *units)

    def restart(self) -> None:
        """Restart its daemons, as an upgrade of the package does."""
        self.run("systemctl", "restart", *self.units)

    def join(self, access_point: AccessPoint) -> None:
        """Go to a network by the manager's own command, and wait for the host's lease there."""
        self._wait(lambda: self._joined(access_point), f"to be on {access_point.ssid}")
        self.wait_leased(access_point)

    def _wait(self, predicate: Callable[[], bool], what: str) -> None:
        try:
            wait_for(predicate, JOINED_S, what, interval=1)
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}\n{self.log()}") from None

    def plug_in(self) -> None:
        """Do what a user does when CABLE is there."""

    def wait_leased(self, access_point: AccessPoint, link: str = LINK) -> None:
        """Wait until the host has an address of that network and reaches its router."""

        def is_there() -> bool:
            shown = command("ip", "-4", "-brief", "address", "show", "dev", link)
            return f" {access_point.subnet.ipv4}" in shown and pings(access_point.subnet.router[0])

        self._wait(is_there, f"the host's lease of {access_point.ssid}")

    def _joined(self, access_point: AccessPoint) -> bool:
        """Try to join. A network may not have been seen yet."""
        try:
            self._join(access_point)
        except RuntimeError:
            return False
        return True

    @abstractmethod
    def airplane(self, on: bool) -> None:
        """Switch the radio off by the manager's own means, or on again."""

    @abstractmethod
    def randomise(self, access_point: AccessPoint) -> None:
        """Have another MAC on a network from now on."""

    @abstractmethod
    def _know(self, access_point: AccessPoint) -> None: ...

    def _prepare(self) -> None: ...

    @abstractmethod
    def _join(self, access_point: AccessPoint) -> None: ...


def pings(address: str) -> bool:
    """Whether an address answers the host."""
    with contextlib.suppress(RuntimeError):
        return bool(command("ping", "-n", "-c", "1", "-w", "1", address))
    return False


class NetworkManager(Manager):
    """With wpa_supplicant, as Debian's desktops have it."""

    units = ("NetworkManager", "wpa_supplicant")

    def airplane(self, on: bool) -> None:
        self.run("nmcli", "radio", "wifi", "off" if on else "on")

    def randomise(self, access_point: AccessPoint) -> None:
        name = access_point.ssid
        self.run("nmcli", "connection", "modify", name, "wifi.cloned-mac-address", "random")
        self.join(access_point)

    def devices(self) -> dict[str, str]:
        """What it thinks of each device: "unmanaged", "connected"."""
        rows = self.run("nmcli", "--terse", "--fields", "DEVICE,STATE", "device").splitlines()
        return dict(row.split(":", 1) for row in rows)

    def _know(self, access_point: AccessPoint) -> None:
        self.write(
            f"/etc/NetworkManager/system-connections/{access_point.ssid}.nmconnection",
            f"[connection]\nid={access_point.ssid}\ntype=wifi\ninterface-name={LINK}\n"
            f"autoconnect={'true' if access_point is self.access_points[0] else 'false'}\n"
            f"[wifi]\nssid={access_point.ssid}\n"
            f"[wifi-security]\nkey-mgmt=wpa-psk\npsk={PASSPHRASE}\n",
            mode="600",
        )

    def _join(self, access_point: AccessPoint) -> None:
        self.run("nmcli", "--wait", "20", "connection", "up", access_point.ssid)


class NetworkManagerIwd(NetworkManager):
    """With iwd."""

    units = ("NetworkManager", "iwd")

    def _know(self, access_point: AccessPoint) -> None:
        super()._know(access_point)
        _know_in_iwd(self, access_point)

    def randomise(self, access_point: AccessPoint) -> None:
        _randomise_in_iwd(self, access_point)

    def _prepare(self) -> None:
        self.write("/etc/NetworkManager/conf.d/iwd.conf", "[device]\nwifi.backend=iwd\n")
        self.write("/etc/iwd/main.conf", _IWD)
        self.run("systemctl", "mask", "wpa_supplicant")


def _know_in_iwd(manager: Manager, access_point: AccessPoint) -> None:
    path = f"/var/lib/iwd/{access_point.ssid}.psk"
    first = access_point is manager.access_points[0]
    content = f"[Security]\nPassphrase={PASSPHRASE}\n[Settings]\nAutoConnect={str(first).lower()}\n"
    manager.write(path, content, mode="600")


def _randomise_in_iwd(manager: Manager, access_point: AccessPoint) -> None:
    manager.write("/etc/iwd/main.conf", f"{_IWD}AddressRandomization=network\n")
    manager.restart()
    manager.join(access_point)


class NetworkdIwd(Manager):
    """systemd-networkd with iwd."""

    units = ("systemd-networkd", "iwd")

    def airplane(self, on: bool) -> None:
        self.run("rfkill", "block" if on else "unblock", "wlan")

    def randomise(self, access_point: AccessPoint) -> None:
        _randomise_in_iwd(self, access_point)

    def _know(self, access_point: AccessPoint) -> None:
        _know_in_iwd(self, access_point)
        # One for each network, or the lease of the one before is kept where the carrier is away for
        # less than three seconds.
        self.write(
            f"/etc/systemd/network/80-{access_point.ssid}.network",
            f"[Match]\nName={LINK}\nSSID={access_point.ssid}\n[Network]\nDHCP=yes\n",
        )

    def _prepare(self) -> None:
        self.write("/etc/iwd/main.conf", _IWD)
        self.write(
            "/etc/systemd/network/80-cable.network",
            f"[Match]\nName={CABLE}\n[Network]\nDHCP=yes\n",
        )

    def _join(self, access_point: AccessPoint) -> None:
        self.run("iwctl", "--dont-ask", "station", LINK, "connect", access_point.ssid)


class Ifupdown(Manager):
    """ifupdown with wpa_supplicant and dhclient."""

    units = ("networking",)
    _on = ""

    def restart(self) -> None:
        self.system.run("ifdown", LINK, check=False)  # it may be down
        if self._on:
            # The former wpa_supplicant may still be there.
            self._wait(self._up, f"ifup of {self._on}")

    def _up(self) -> bool:
        return self.system.run("ifup", f"{LINK}={self._on}", check=False).returncode == 0

    def plug_in(self) -> None:
        self.run("ifup", CABLE)

    def airplane(self, on: bool) -> None:
        self.run("rfkill", "block" if on else "unblock", "wlan")
        if not on:
            self.restart()

    def randomise(self, access_point: AccessPoint) -> None:
        path = f"/etc/network/interfaces.d/{access_point.ssid}"
        line = f"    pre-up ip link set dev {LINK} address 02:aa:bb:cc:dd:ee\n"
        self.write(path, self.run("cat", path) + line)
        self.join(access_point)

    def _know(self, access_point: AccessPoint) -> None:
        name = access_point.ssid
        self.write(
            f"/etc/network/interfaces.d/{name}",
            f"iface {name} inet dhcp\n    wpa-ssid {name}\n    wpa-psk {PASSPHRASE}\n",
        )

    def _prepare(self) -> None:
        self.write(f"/etc/network/interfaces.d/{CABLE}", f"iface {CABLE} inet dhcp\n")

    def _join(self, access_point: AccessPoint) -> None:
        self._on = access_point.ssid
        self.restart()


MANAGERS: Mapping[str, Callable[[Sequence[AccessPoint]], Manager]] = {
    "nm-wpa": NetworkManager,
    "nm-iwd": NetworkManagerIwd,
    "networkd-iwd": NetworkdIwd,
    "ifupdown": Ifupdown,
}

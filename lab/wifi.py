"""Wi-Fi on simulated radios: an access point as the router of a LAN, and the host as its station.

    sandbox (the host)                          network namespace "ap"
    wlan1  192.0.2.10, 2001:db8::10  - - ->  wlan0  192.0.2.1, 2001:db8::1   hostapd, dnsmasq

It needs mac80211_hwsim, and so runs in the machine (lab/machine.py). The access point takes a
station's own MAC and no other, by 802.11's own rules and not by the lab's.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airtap.kernel.genetlink import Family
from airtap.kernel.netlink import attribute
from lab import sandbox
from lab.kernels import REPOSITORY
from lab.lan import LAB, Lan, Subnet, end_process, make_host, no_router_advertisements, wait_for
from lab.running import Running
from lab.sandbox import command

# drivers/net/wireless/virtual/mac80211_hwsim.h: HWSIM_CMD_*, HWSIM_ATTR_*
_NEW_RADIO, _DEL_RADIO = 4, 5
_RADIO_NAME, _PERM_ADDR = 17, 22

PASSPHRASE = "labpassword"
_FREQUENCY = 2412  # MHz, channel 1: a station that knows it need not scan all

_ASSOCIATION_S = 20.0


class Radios:
    """The simulated radios of the machine, in the sandbox: wlan0, wlan1 and so on."""

    def __init__(self, count: int) -> None:
        """Load the driver if it is no part of the kernel; it goes only with the machine.

        A kernel that has it built in has made lab.uml.RADIOS of them when it booted.
        """
        sandbox.require()
        if not Path("/sys/module/mac80211_hwsim").exists():
            command("modprobe", "mac80211_hwsim", f"radios={count}")
        for phy in _phys(_FIRST):
            # The driver makes them in the namespace of the machine's first process.
            command(*_FIRST, "iw", "phy", phy, "set", "netns", str(os.getpid()))

    @staticmethod
    def remove(link: str) -> str:
        """Take the radio of a link away, as an adapter is unplugged; returns its MAC for add()."""
        mac = Path(f"/sys/class/net/{link}/address").read_text().strip()
        name = attribute(_RADIO_NAME, Radios.phy(link).encode() + b"\0")
        with Family("MAC80211_HWSIM") as hwsim:
            hwsim.request(_DEL_RADIO, name)
        return mac

    @staticmethod
    def add(link: str, mac: str) -> None:
        """A new radio with that MAC, whose link gets that name."""
        before = set(_phys(_FIRST))
        # Radios hear each other if they were made in one network namespace.
        command(*_FIRST, "env", "-C", str(REPOSITORY), sys.executable, "-m", "lab.wifi", mac)
        [phy] = set(_phys(_FIRST)) - before
        there = Path("/sys/class/ieee80211")
        command(*_FIRST, "iw", "phy", phy, "set", "netns", str(os.getpid()))
        [made] = [path.name for path in (there / phy / "device/net").iterdir()]
        command("ip", "link", "set", made, "name", link)

    @staticmethod
    def phy(link: str) -> str:
        """Return the name of the radio behind a link."""
        return Path(f"/sys/class/net/{link}/phy80211/name").read_text().strip()


class AccessPoint(Lan):
    """A LAN behind an access point, which is its router; a Station brings a host there."""

    def __init__(
        self,
        *,
        link: str = "wlan0",
        namespace: str = "ap",
        ssid: str = "lab",
        passphrase: str | None = PASSPHRASE,
        subnet: Subnet = LAB,
        bridged: bool = False,
        second: str | None = None,
        settings: Mapping[str, str | int] = {},
    ) -> None:
        """Describe the access point; nothing is on the air before start().

        passphrase: WPA2's; None for an open network. bridged: the router's addresses are on a
        bridge with the radio as its port. second: the link of another radio on that bridge, an
        access point of the same network. settings: more of hostapd.conf, see VARIANTS.
        """
        self.radio = link
        self.radios = [link, second] if second else [link]
        super().__init__(
            far="br-ap" if bridged else link, namespace=namespace, host=False, subnet=subnet
        )
        self.bridged = bridged
        self.ssid = ssid
        self.passphrase = passphrase
        self.settings = dict(settings)
        self._hostapds = {radio: _Daemon("hostapd") for radio in self.radios}

    def on_the_air(self, radio: str, on: bool) -> None:
        """Switch one of the radios off, or on again."""
        if on:
            self._begin(radio)
        else:
            self._hostapds[radio].end()

    def stations(self) -> set[str]:
        """Return the MACs of those that are associated."""
        dump = self.run("iw", "dev", self.radio, "station", "dump").stdout
        return set(re.findall(r"^Station ([0-9a-f:]{17})", dump, re.MULTILINE))

    def hostapd_log(self) -> str:
        return "".join(daemon.log() for daemon in self._hostapds.values())

    def _make_wire(self, undo: contextlib.ExitStack) -> None:
        self._make_namespace(undo)
        self.far_mac = Path(f"/sys/class/net/{self.radio}/address").read_text().strip()
        for radio in self.radios:
            phy = Radios.phy(radio)
            command("iw", "phy", phy, "set", "netns", "name", self.namespace)
            undo.callback(self.run, "iw", "phy", phy, "set", "netns", str(os.getpid()))
        if self.bridged:
            self._far("link", "add", self.far, "address", self.far_mac, "type", "bridge")
        for radio in self.radios:
            undo.callback(self._hostapds[radio].end)
            self._begin(radio)
        self._make_router()

    def _begin(self, radio: str) -> None:
        configuration = self._configure(radio)
        daemon, prefix = self._hostapds[radio], sandbox.netns_exec_prefix(self.namespace)
        daemon.start([*prefix, "hostapd", str(configuration)])
        wait_for(lambda: "AP-ENABLED" in daemon.log(), _ASSOCIATION_S, "the access point")

    def _make_host_side(self, undo: contextlib.ExitStack) -> None:
        """A station is on its own."""

    def _configure(self, radio: str) -> Path:
        settings: dict[str, str | int] = {
            **{"interface": radio, "driver": "nl80211", "ssid": self.ssid},
            **{"hw_mode": "g", "channel": 1},
        }
        if self.bridged:
            settings["bridge"] = self.far
        if self.passphrase:
            settings |= {"wpa": 2, "wpa_key_mgmt": "WPA-PSK", "rsn_pairwise": "CCMP"}
            settings["wpa_passphrase"] = self.passphrase
        lines = (f"{key}={value}\n" for key, value in (settings | self.settings).items())
        configuration = self._directory / f"{radio}.conf"
        configuration.write_text("".join(lines))
        return configuration


# What access points do and wires do not, as options of AccessPoint.
VARIANTS: Mapping[str, dict[str, Any]] = {
    "wpa2": {},
    "open": {"passphrase": None},
    "client-isolation": {"settings": {"ap_isolate": 1}},
    "multicast-to-unicast": {"settings": {"multicast_to_unicast": 1}},
    # The bridge answers ARP and neighbour solicitations for whom it knows behind the radio. It
    # does so for the asker's own address too, with the station's MAC: an echo of ARP probes.
    "proxy-arp": {"bridged": True, "settings": {"ap_isolate": 1, "proxy_arp": 1}},
    "4-addresses": {"bridged": True, "settings": {"wds_sta": 1}},
}


class Station(Running):
    """The host as a station: wpa_supplicant on a radio of the sandbox, addresses and routes."""

    def __init__(
        self, access_points: Sequence[AccessPoint], *, link: str = "wlan1", host: bool = True
    ) -> None:
        """Describe the station; it is off the air before start().

        access_points: those whose networks it knows; it begins on the first. host: it gets the
        host's addresses in that one's subnet.
        """
        self.link = link
        self.access_points = list(access_points)
        self.host = host
        self._supplicant = _Daemon("wpa_supplicant")
        self._undo = contextlib.ExitStack()

    @property
    def mac(self) -> str:
        return Path(f"/sys/class/net/{self.link}/address").read_text().strip()

    @property
    def bssid(self) -> str | None:
        """The MAC of the access point that it is associated with."""
        found = re.search(r"Connected to ([0-9a-f:]{17})", command("iw", "dev", self.link, "link"))
        return found[1] if found else None

    def start(self) -> None:
        """Associate with the first access point. TimeoutError carries wpa_supplicant's log."""
        sandbox.require()
        with contextlib.ExitStack() as undo:
            no_router_advertisements(self.link)
            undo.callback(command, "ip", "link", "set", self.link, "down")
            undo.callback(command, "ip", "address", "flush", "dev", self.link)
            self._supplicate(undo)
            self.wait_associated()
            if self.host:
                make_host(self.link, self.access_points[0].subnet)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Leave the network; closing twice is fine."""
        self._undo.close()

    def wait_associated(self) -> None:
        """Wait until frames can pass. TimeoutError carries wpa_supplicant's log."""
        state = Path(f"/sys/class/net/{self.link}/operstate")
        try:
            wait_for(lambda: state.read_text() == "up\n", _ASSOCIATION_S, "the association")
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}\n{self._supplicant.log()}") from None

    def cli(self, *words: str) -> str:
        """Run wpa_cli and return what it says."""
        return command("wpa_cli", "-p", str(self._control), "-i", self.link, *words)

    def _supplicate(self, undo: contextlib.ExitStack) -> None:
        directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="station-", dir="/run"))
        self._control = Path(directory) / "control"
        configuration = Path(directory) / "wpa_supplicant.conf"
        networks = map(_network, self.access_points, reversed(range(len(self.access_points))))
        configuration.write_text(f"ctrl_interface={self._control}\n{''.join(networks)}")
        argv = ["wpa_supplicant", "-D", "nl80211", "-i", self.link, "-c", str(configuration)]
        undo.callback(self._supplicant.end)
        self._supplicant.start(argv)


def _network(access_point: AccessPoint, priority: int) -> str:
    secret = access_point.passphrase
    security = f'psk="{secret}"' if secret else "key_mgmt=NONE"
    return f"""network={{
        ssid="{access_point.ssid}"
        {security}
        scan_freq={_FREQUENCY}
        priority={priority}
    }}\n"""


class _Daemon:
    """A daemon in the foreground, and its log: kept until the next start."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._log = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, argv: Sequence[str]) -> None:
        descriptor, path = tempfile.mkstemp(prefix=f"{self._name}-", dir="/run")
        self._log = Path(path)
        self._process = subprocess.Popen(
            sandbox.dying_with_us(argv),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
        )
        os.close(descriptor)

    def end(self) -> None:
        """End it; ending twice is fine."""
        if self._process:
            end_process(self._process)
            self._process = None

    def log(self) -> str:
        return self._log.read_text() if self._log.is_file() else ""


# Where the machine's first process is: its network, and its /sys, where iw looks up names.
_FIRST = ("nsenter", "--target=1", "--net", "--mount", "--")


def _add_radio(mac: str) -> None:
    with Family("MAC80211_HWSIM") as hwsim:
        hwsim.request(_NEW_RADIO, attribute(_PERM_ADDR, bytes.fromhex(mac.replace(":", ""))))


def _phys(prefix: Sequence[str]) -> list[str]:
    found = re.findall(r"^Wiphy (\S+)", command(*prefix, "iw", "phy"), re.MULTILINE)
    return sorted(found, key=lambda name: int(re.sub(r"\D", "", name)))


if __name__ == "__main__":
    _add_radio(sys.argv[1])

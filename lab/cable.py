"""A host with a cable and a station in one LAN, and a bond, team or VLAN above them; or two cables.

    sandbox (the host)                            network namespace "ap"
    cable0 <----------------------------------->  far-cable0 \\
      \\_ bond0  192.0.2.10, 2001:db8::10                   br-ap  192.0.2.1, 2001:db8::1   dnsmasq
    wlan1 - - - - - - - - - - - - - - - - - - ->  wlan0  /  hostapd

    cable0 <----------------------------------->  far-cable0 \\
      \\_ up0  192.0.2.10, 2001:db8::10                      lan0  192.0.2.1, 2001:db8::1   dnsmasq
    cable1 <----------------------------------->  far-cable1 /
"""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import if_nametoindex

from airtap.kernel.genetlink import Family
from airtap.kernel.netlink import attribute
from lab.lan import LAB, Lan, make_host, no_router_advertisements, ready_at_once, wait_for
from lab.sandbox import command
from lab.wifi import AccessPoint, Station

CABLE, STATION = "cable0", "wlan1"

# include/uapi/linux/if_team.h; include/net/netlink.h: NLA_U32, NLA_STRING
_OPTIONS_SET, _TEAM_IFINDEX, _LIST_OPTION, _ITEM_OPTION = 1, 1, 2, 1
_NAME, _TYPE, _DATA = 1, 3, 4
_U32, _STRING = 3, 5


@contextmanager
def cable(lan: Lan, near: str = CABLE) -> Iterator[None]:
    """A cable between the host and the LAN, whose far end is a bridge."""
    peer = ("peer", "name", _far(near), "netns", lan.namespace)
    command("ip", "link", "add", near, "type", "veth", *peer)
    try:
        lan.run("ip", "link", "set", _far(near), "master", lan.far, "up")
        yield
    finally:
        command("ip", "link", "delete", near)


def _far(near: str) -> str:
    return f"far-{near}"


@contextmanager
def unplugged(lan: AccessPoint) -> Iterator[None]:
    lan.run("ip", "link", "set", _far(CABLE), "down")
    try:
        yield
    finally:
        lan.run("ip", "link", "set", _far(CABLE), "up")


@contextmanager
def above(lan: AccessPoint, link: str, *options: str, ports: tuple[str, ...]) -> Iterator[Station]:
    """A bond or team, of whose ports the station may be one, and which is the host's on the LAN.

    options: of ip link add, as ("type", "bond", ...).
    """
    command("ip", "link", "add", link, *options)
    try:
        if "team" in options:
            _team(link, "mode", _STRING, b"activebackup\0")
        for port in ports:
            join(port, link)
        no_router_advertisements(link)
        command("ip", "link", "set", link, "up")
        make_host(link, LAB)
        with Station([lan], link=STATION, host=False) as station:
            yield station
    finally:
        command("ip", "link", "delete", link)
        command("ip", "link", "set", STATION, "down")


class TwoCables(Lan):
    """A LAN into which the host has two cables, by one of which their bond sends."""

    PORTS = "cable0", "cable1"

    def fail_over(self) -> None:
        """The cable in use is pulled out, and back once the bond sends by the other one."""
        wait_for(self._whole, 5, "the bond to have both cables")
        former = self._active()
        self._far("link", "set", _far(former), "down")
        wait_for(lambda: self._active() not in ("", former), 5, "the bond to fail over")
        self._far("link", "set", _far(former), "up")

    def _whole(self) -> bool:
        states = [
            Path(f"/sys/class/net/{port}/bonding_slave/mii_status").read_text()
            for port in self.PORTS
        ]
        return set(states) == {"up\n"} and self._active() != ""

    def _active(self) -> str:
        return Path(f"/sys/class/net/{self.near}/bonding/active_slave").read_text().strip()

    def _make_wire(self, undo: contextlib.ExitStack) -> None:
        self._make_namespace(undo)
        self._far("link", "add", self.far, "address", self.far_mac, "type", "bridge")
        bond = ("type", "bond", "mode", "active-backup", "miimon", "50")
        command("ip", "link", "add", self.near, "address", self.near_mac, *bond)
        undo.callback(command, "ip", "link", "delete", self.near)
        for port in self.PORTS:
            undo.enter_context(cable(self, port))
            join(port, self.near)
        no_router_advertisements(self.near)
        ready_at_once(self.near)
        self._make_router()

    def _plug(self, state: str) -> None:
        super()._plug(state)
        for port in self.PORTS:
            self._far("link", "set", _far(port), state)


def join(port: str, link: str) -> None:
    """Make a device a port of a bond or team, for which a bond wants it down."""
    command("ip", "link", "set", port, "down")
    command("ip", "link", "set", port, "master", link)
    command("ip", "link", "set", port, "up")


def activate(team: str, port: str) -> None:
    """Have a team send by a port, with that one's MAC: teamd's "hwaddr_policy": "by_active"."""
    command("ip", "link", "set", team, "address", mac(port))
    _team(team, "activeport", _U32, if_nametoindex(port).to_bytes(4, "little"))


def _team(link: str, name: str, kind: int, value: bytes) -> None:
    option = attribute(_NAME, name.encode() + b"\0") + attribute(_TYPE, bytes([kind]))
    option = attribute(_ITEM_OPTION, option + attribute(_DATA, value))
    of_it = attribute(_TEAM_IFINDEX, if_nametoindex(link).to_bytes(4, "little"))
    # It is done before it is told, which fails without a teamd that listens.
    with Family("team") as team, suppress(ProcessLookupError):
        team.request(_OPTIONS_SET, of_it + attribute(_LIST_OPTION, option))


def mac(link: str) -> str:
    return Path(f"/sys/class/net/{link}/address").read_text().strip()

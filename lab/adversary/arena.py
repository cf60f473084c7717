"""The place where a hostile guest meets everybody: host, gateways, a sibling, the LAN."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fcntl import ioctl
from ipaddress import ip_address
from pathlib import Path

from hypothesis import strategies as st

from airtap.bpf.macnat import open_macnat
from airtap.bpf.pins import pin_directory
from lab.adversary import packets as p
from lab.adversary import scenery
from lab.adversary import world as w
from lab.adversary.attacks import TOPICS, Attack, attacks, dhcp_client
from lab.adversary.setting import Setting
from lab.adversary.witnesses import Witnesses
from lab.airtap import Airtapd
from lab.lan import FAR_MAC, Lan, no_router_advertisements, wait_for
from lab.links import wait_gone
from lab.pump import PumpGuest
from lab.running import Running
from lab.sandbox import command, inside, packet_socket
from lab.traffic import ROGUE_MAC, SIBLING4, SIBLING6, SIBLING_MAC

_TUNSETOFFLOAD, _TUNSETQUEUE, _SIOCSIFHWADDR = 0x400454D0, 0x400454D9, 0x8924
_IFF_DETACH_QUEUE = 0x0400
_IFF_UP = 1
# Of a second device of the hostile user's.
OTHER_MAC = "52:54:00:00:00:04"

# What happens beside what is said, see Arena; the usual first.
MOODS = ("plain", "forgotten", "echoed", "fresh", "unnamed", "renamed", "detached", "contained")


@dataclass(frozen=True)
class Batch:
    """What is said in one go, and what happens meanwhile: of MOODS."""

    attacks: list[Attack]
    mood: str = "plain"

    def __str__(self) -> str:
        return "\n".join([f"{self.mood}:", *map(str, self.attacks)])


batches = st.builds(
    Batch,
    attacks=st.lists(attacks, min_size=8, max_size=50),
    mood=st.sampled_from([*MOODS[:2] * 12, *MOODS]),
)


class Arena(Running):
    """A LAN, an airtapd, a sibling, and the tap of a hostile guest, from start() to close().

    frames: how many the guest has written.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.frames = 0
        self._undo = contextlib.ExitStack()

    def start(self) -> None:
        with contextlib.ExitStack() as undo:
            self._start(undo)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def _start(self, undo: contextlib.ExitStack) -> None:
        self.lan = undo.enter_context(Lan(one_mac=self.setting.macnat))
        has_vlans = undo.enter_context(scenery.scenery(self.lan))
        self.airtapd = undo.enter_context(Airtapd(config=self.setting.config()))
        self._start_sibling(undo)
        if self.setting.kind == "macvtap":
            self._container = undo.enter_context(_container())
        self._tap = undo.enter_context(self._attached(ROGUE_MAC))
        self.witnesses = undo.enter_context(Witnesses(self.setting, self.lan, has_vlans=has_vlans))
        wait_for(self.witnesses.is_well, 20, "all to reach each other")
        wait_for(self._knows_the_sibling, 20, "the sibling's addresses")
        scenery.be_tentative()
        if self.setting.guarded or self.setting.meets:
            wait_for(_knows_the_host, 20, "airtapd to know all addresses of the host")
        self.witnesses.remember()

    def _start_sibling(self, undo: contextlib.ExitStack) -> None:
        mac = self.setting.mac(SIBLING_MAC)
        tap = self.airtapd.tap("up0", None if self.setting.one_for_all else mac)
        # Before the pump asks for all: its eth0 then gets no checksum that is still to be written.
        with os.fdopen(os.dup(tap.fd)) as copy:
            sibling = undo.enter_context(PumpGuest(tap.take(), mac, name="sibling"))
            ioctl(copy, _TUNSETOFFLOAD, 0)
        for address, length in ((SIBLING4, 24), (w.LEASES[SIBLING_MAC], 24), (SIBLING6, 64)):
            words = [f"{address}/{length}", "dev", "eth0", *(["nodad"] if ":" in address else [])]
            sibling.run("ip", "address", "add", *words)
        with inside(sibling.namespace):
            scenery.believe("eth0")
            no_router_advertisements("eth0")  # any neighbour may send those

    def _knows_the_sibling(self) -> bool:
        if not self.setting.guarded and not self.setting.meets:
            return True
        # With the host's MAC it has no link-local address of its own.
        wanted = {*w.SIBLINGS} - ({w.SIBLING_LL} if self.setting.one_for_all else set())
        return wanted <= {a for guest in self.airtapd.guests() for a in guest["addresses"]}

    @contextlib.contextmanager
    def _attached(self, mac: str | None) -> Iterator[int]:
        """A tap of the hostile user's."""
        with self.airtapd.tap("up0", None if self.setting.one_for_all else mac) as tap:
            os.set_blocking(tap.fd, False)
            device = tap.device
            yield tap.fd
        wait_gone(device)  # another one may have its MAC then

    def play(self, batch: Batch) -> list[str]:
        """Have a batch said; gives what is wrong then, in a few words each."""
        said = batch.attacks
        if batch.mood == "contained":  # that one does what it likes to the leases of the LAN
            said = [attack for attack in said if TOPICS[attack.topic] is not dhcp_client]
        writes = [octets for attack in said for octets in attack.writes()]
        found: list[str] = getattr(self, batch.mood)(writes)
        return found

    def mend(self) -> None:
        """Make all as it was."""
        with contextlib.suppress(OSError):
            self.witnesses.forget_neighbours()
            if not self._wrongs():
                return
        self.close()
        self.start()

    def plain(self, writes: Sequence[bytes]) -> list[str]:
        self._write(self._tap, writes)
        return self._wrongs()

    def forgotten(self, writes: Sequence[bytes]) -> list[str]:
        """While nobody knows anybody's MAC."""
        self.witnesses.forget_neighbours()
        return self.plain(writes)

    def echoed(self, writes: Sequence[bytes]) -> list[str]:
        """And the LAN sends all back: the host may hear that as the LAN's, but not believe it."""
        self._write(self._tap, writes)
        if self.setting.guarded:
            self.witnesses.echo(self._tap)
        return self._wrongs(*(["claims"] if self.setting.guarded else []))

    def fresh(self, writes: Sequence[bytes]) -> list[str]:
        """By a second device of the user's, from its first moment on, in the name of the first."""
        return self._by_another(OTHER_MAC, writes)

    def unnamed(self, writes: Sequence[bytes]) -> list[str]:
        """By a device whose MAC is to be learned, from its first moment on."""
        return self._by_another(None, _from(OTHER_MAC, writes))

    def _by_another(self, mac: str | None, writes: Sequence[bytes]) -> list[str]:
        with self._attached(mac) as tap:
            self._write(tap, writes)
            # Without MAC NAT a new device speaks for a moment before anybody guards what it says.
            return self._wrongs(*([] if self.setting.guarded else ["offers"]))

    def renamed(self, writes: Sequence[bytes]) -> list[str]:
        """By a device that takes the router's MAC later, until it is found out.

        With neither MAC NAT nor host access nobody looks.
        """
        if not (self.setting.guarded or self.setting.meets):
            return self.plain(writes)
        with self._attached(OTHER_MAC) as tap:
            with contextlib.suppress(OSError):
                _set_mac(tap, FAR_MAC)
            self._write(tap, _from(FAR_MAC, writes))
            wait_for(_nobody_poses_as_the_router, 5, "the device with the router's MAC to be down")
            self.witnesses.overheard(tap)  # in the meantime, it may have
            found = self._wrongs()
            if self.setting.guarded:
                found += self.witnesses.overheard(tap)
        return found

    def detached(self, writes: Sequence[bytes]) -> list[str]:
        """To a device whose queue is detached, so that its frames enter the host's stack there.

        For packet sockets they came in at the uplink (net/core/dev.c: orig_dev).
        """
        with self._attached(OTHER_MAC) as tap:
            with contextlib.suppress(OSError):
                ioctl(tap, _TUNSETQUEUE, struct.pack("16sH22x", b"", _IFF_DETACH_QUEUE))
            to = p.octets(OTHER_MAC)
            self._write(self._tap, [octets[:10] + to + octets[16:] for octets in writes])
            return self._wrongs("packets")

    def contained(self, writes: Sequence[bytes]) -> list[str]:
        """By somebody else's macvlan, in a container, which nobody guards; but the host is."""
        if self.setting.kind != "macvtap":
            return self.plain(writes)
        for octets in writes:
            with contextlib.suppress(OSError):
                self._container.send(octets[10:])
                self.frames += 1
        self.witnesses.settle(self._tap)
        self.witnesses.forget_neighbours("lan", "sibling")
        return self._wrongs("outside", "offers")

    def _write(self, tap: int, writes: Sequence[bytes]) -> None:
        """Write to a tap. What the kernel refuses is no frame."""
        mac = self.setting.mac(ROGUE_MAC)
        for octets in writes if mac == ROGUE_MAC else _from(mac, writes):
            with contextlib.suppress(OSError):
                os.write(tap, octets)
                self.frames += 1

    def _wrongs(self, *but: str) -> list[str]:
        return self.witnesses.wrongs(self._tap, frozenset(but))


def _nobody_poses_as_the_router() -> bool:
    devices = [Path("/sys/class/net", name) for _, name in socket.if_nameindex()]
    return not any(
        (device / "address").read_text().strip() == FAR_MAC
        and int((device / "flags").read_text(), 16) & _IFF_UP
        for device in devices
    )


def _knows_the_host() -> bool:
    nat = open_macnat(pin_directory(socket.if_nametoindex("up0")))
    try:
        return ip_address(w.TENTATIVE6) in nat.hosts.addresses()
    finally:
        nat.close()


def _from(mac: str, writes: Sequence[bytes]) -> list[bytes]:
    """The same, with another MAC wherever the guest's stands."""
    return [octets.replace(p.octets(ROGUE_MAC), p.octets(mac)) for octets in writes]


def _set_mac(tap: int, mac: str) -> None:
    ioctl(tap, _SIOCSIFHWADDR, struct.pack("16sH6s16x", b"", 1, p.octets(mac)))


@contextlib.contextmanager
def _container() -> Iterator[socket.socket]:
    """A socket on a macvlan of the uplink's that is in another namespace."""
    command("ip", "netns", "add", "container")
    try:
        words = "link add link up0 name inner netns container type macvlan mode bridge"
        command("ip", *words.split())
        command("ip", "-n", "container", "link", "set", "inner", "up")
        with packet_socket("container", "inner") as frames:
            yield frames
    finally:
        command("ip", "netns", "del", "container")

"""Guests with a stack of their own, pings that run beside a test, and frames made by hand."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import Any

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from lab.airtap import Airtapd, Attached
from lab.lan import SLOWNESS, Lan, wait_for
from lab.pump import PumpGuest
from lab.sandbox import children, dying_with_us, netns_exec_prefix

GUEST_MAC, SIBLING_MAC, ROGUE_MAC = (f"52:54:00:00:00:{n:02x}" for n in (1, 2, 3))
GUEST4, SIBLING4, ROGUE4 = "192.0.2.21", "192.0.2.22", "192.0.2.23"
GUEST6, SIBLING6, ROGUE6 = "2001:db8::21", "2001:db8::22", "2001:db8::23"
A4, A6 = ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")
BROADCAST = "ff:ff:ff:ff:ff:ff"
_ETH_P_MARK = 0x88B6  # for local experiments: linux/if_ether.h does not name it, IEEE does
_VNET_HDR = bytes(10)

REACH_S = 5.0  # a neighbour is asked for three times, a second apart
_SOL_PACKET = 263  # linux/if_packet.h
_PACKET_OUTGOING = 4
_PACKET_AUXDATA = 8
_TP_STATUS_VLAN_VALID = 0x10


class Ping:
    """ping in the background, from __enter__, which waits for an answer, to __exit__.

    It goes on for ten packets at least. namespace: None for the host. sent and lost: packets,
    known after the end. One that was sent last, and whose answer the end came before, is not lost.
    """

    def __init__(self, address: str, *, namespace: str | None = None, interval: float = 0.1):
        prefix = netns_exec_prefix(namespace) if namespace else []
        self._argv = [*prefix, "ping", "-n", "-i", f"{interval:g}", address]
        self.sent = self.lost = 0
        self.said = ""
        self._shortest = 10 * interval

    def __enter__(self) -> Ping:
        self._process = subprocess.Popen(
            dying_with_us(self._argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for(self._answered, 5, f"an answer to {self._argv}", interval=0.01)
        self._until = time.monotonic() + self._shortest
        return self

    def _answered(self) -> bool:
        assert self._process.stdout
        if select.select([self._process.stdout], [], [], 0)[0]:
            self.said += os.read(self._process.stdout.fileno(), 1 << 12).decode()
        return " time=" in self.said

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not error:
            time.sleep(max(0.0, self._until - time.monotonic()))
        self._process.send_signal(signal.SIGINT)
        self.said += self._process.communicate(timeout=10)[0]
        counted = re.search(r"(\d+) packets transmitted, (\d+) received", self.said)
        if counted:
            self.sent = int(counted[1])
            received = re.findall(r"icmp_seq=(\d+) .*time=", self.said)
            in_flight = bool(received) and int(received[-1]) == self.sent - 1
            self.lost = self.sent - int(counted[2]) - in_flight


@contextmanager
def undisturbed(interval: float) -> Iterator[None]:
    """The host speaks with the router throughout, over both families, and loses nothing.

    But for a packet under way each time that a clsact qdisc is added or deleted: the kernel then
    takes the device's queue away for a moment (net/sched/sch_api.c: qdisc_graft). On a busy
    machine 5 of 19 runs met that. interval: s between packets.
    """
    pings = Ping("192.0.2.1", interval=interval), Ping("2001:db8::1", interval=interval)
    with pings[0], pings[1]:
        yield
    for ping in pings:
        assert ping.sent > 5
        assert ping.lost <= 2, ping.said[-500:]


@contextmanager
def pump(
    airtapd: Airtapd,
    mac: str = GUEST_MAC,
    ipv4: str | None = None,
    ipv6: str | None = None,
    *,
    told: bool = True,
    name: str = "guest",
    uplink: str = "up0",
) -> Iterator[PumpGuest]:
    """A guest behind an uplink, with these addresses. told: its MAC is given to the helper."""
    tap = airtapd.attach(uplink, mac if told else None)
    with PumpGuest(tap.take(), mac, name=name) as guest:
        configure(guest, ipv4, ipv6)
        yield guest


def configure(guest: PumpGuest, ipv4: str | None, ipv6: str | None) -> None:
    if ipv4:
        guest.run("ip", "address", "add", f"{ipv4}/24", "dev", "eth0")
    if ipv6:
        guest.run("ip", "address", "add", f"{ipv6}/64", "dev", "eth0", "nodad")


@contextmanager
def two_guests(airtapd: Airtapd) -> Iterator[tuple[PumpGuest, PumpGuest]]:
    """A guest and its sibling, with both families' addresses."""
    with (
        pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest,
        pump(airtapd, SIBLING_MAC, SIBLING4, SIBLING6, name="sibling") as sibling,
    ):
        yield guest, sibling


def asked(frame: bytes) -> str:
    """The address about which a frame asks its holder, or ""."""
    ether = Ether(frame)
    if ARP in ether and ether[ARP].psrc == "0.0.0.0":
        return str(ether[ARP].pdst)
    if ICMPv6ND_NS in ether and not int(ether.dst[:2], 16) & 1:  # the host's own are to a group
        return str(ether[ICMPv6ND_NS].tgt)
    return ""


class RawGuest:
    """A guest that says what it likes: frames written to its tap."""

    def __init__(self, tap: Attached, mac: str = ROGUE_MAC) -> None:
        self.mac = mac
        self.device = tap.device
        self._tap = tap

    @property
    def fd(self) -> int:
        """The open tap, which stays its owner's."""
        return self._tap.fd

    def send(self, frame: Packet | bytes, times: int = 1) -> None:
        octets = _VNET_HDR + bytes(frame)
        for _ in range(times):
            os.write(self._tap.fd, octets)

    def mark(self) -> None:
        """Send a mark() to all: an ipvlan's broadcasts wait for a worker (ipvlan_multicast_enqueue)
        while what is for one passes by."""
        self.send(mark(self.mac))

    def next(self) -> bytes:
        """The next frame that reaches the guest, or b"" if there is none in a second."""
        if not select.select([self._tap.fd], [], [], SLOWNESS)[0]:
            return b""
        return os.read(self._tap.fd, 1 << 16)[len(_VNET_HDR) :]

    def received(self) -> list[bytes]:
        """What reaches the guest before a mark()."""
        found: list[bytes] = []
        while select.select([self._tap.fd], [], [], 5 * SLOWNESS)[0]:
            frame = os.read(self._tap.fd, 1 << 16)[len(_VNET_HDR) :]
            if is_mark(frame):
                return found
            found.append(frame)
        raise TimeoutError(f"{len(found)} frames, and no mark")

    def claim(self, address: str) -> None:
        """Say that an address is at this guest's MAC, to everybody."""
        self.send(claim(address, self.mac))


@contextmanager
def raw_guest(airtapd: Airtapd, mac: str = ROGUE_MAC, uplink: str = "up0") -> Iterator[RawGuest]:
    with airtapd.attach(uplink, mac) as tap:
        yield RawGuest(tap, mac)


def claim(address: str, mac: str, to: str = BROADCAST, vlan: int = 0) -> Packet:
    """An ARP announcement, or an unsolicited neighbour advertisement."""
    ether = Ether(src=mac, dst=to)
    if vlan:
        ether = ether / Dot1Q(vlan=vlan)
    if ":" not in address:
        return ether / ARP(op=2, hwsrc=mac, psrc=address, hwdst=BROADCAST, pdst=address)
    advert = ICMPv6ND_NA(tgt=address, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac)
    return ether / IPv6(src=address, dst="ff02::1", hlim=255) / advert


def tagged(head: Packet, tags: Sequence[Packet]) -> Packet:
    """A frame's beginning, with tags behind it."""
    for tag in tags:
        head = head / tag.copy()
    return head


def status_of(airtapd: Airtapd, mac: str) -> dict[str, Any]:
    """What airtap status says of the guest with this MAC."""
    [guest] = [guest for guest in airtapd.guests() if guest["mac"] == mac]
    return guest


def refused(airtapd: Airtapd, mac: str = ROGUE_MAC) -> dict[str, int]:
    counters: dict[str, int] = status_of(airtapd, mac)["refused"]
    return counters


def known(airtapd: Airtapd, mac: str) -> set[str]:
    """The learned addresses of the guest with this MAC."""
    return set(status_of(airtapd, mac)["addresses"])


def of_a(airtapd: Airtapd, mac: str) -> list[str]:
    """What is known of a guest that belongs to the network it began on."""
    return [
        address
        for address in known(airtapd, mac)
        if ip_address(address) in A4 or ip_address(address) in A6
    ]


def neighbour(namespace: str | None, address: str) -> str | None:
    """The MAC that a namespace, or the host, has noted for an address."""
    prefix = netns_exec_prefix(namespace) if namespace else []
    argv = [*prefix, "ip", "-json", "neighbour", "show", address]
    rows = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout or "[]")
    return rows[0].get("lladdr") if rows else None


def mark(source: str, to: str = BROADCAST) -> Packet:
    """A frame that says nothing: where it comes in, all has that was sent before."""
    return Ether(src=source, dst=to, type=_ETH_P_MARK) / Raw(b"a mark".ljust(46))


def is_mark(frame: bytes) -> bool:
    return frame[12:14] == _ETH_P_MARK.to_bytes(2)


def collect(
    frames: socket.socket, last: Callable[[bytes], object] = is_mark, timeout: float = 5.0
) -> list[bytes]:
    """What comes in at a packet socket before the last frame; not what was sent there.

    last: tells whether this one is it. timeout: seconds until TimeoutError says that it never came.
    """
    frames.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    found: list[bytes] = []
    end = time.monotonic() + timeout * SLOWNESS
    while (left := end - time.monotonic()) > 0:
        frames.settimeout(left)
        frame, beside, _flags, address = frames.recvmsg(1 << 16, 256)
        if address[2] == _PACKET_OUTGOING:
            continue
        if last(frame):
            return found
        found.append(with_tag(frame, beside[0][2]))
    raise TimeoutError(f"none of {len(found)} frames was the last")


def announcing(mac: str, *addresses: str) -> Callable[[bytes], bool]:
    """Tells the frame by which the last of these addresses is announced to be at a MAC."""
    missing = set(addresses)

    def last(frame: bytes) -> bool:
        missing.discard(_announced(Ether(frame), mac))
        return not missing

    return last


def _announced(frame: Packet, mac: str) -> str:
    """The address that a gratuitous ARP or unsolicited advertisement puts at a MAC, or ""."""
    if frame.src != mac:
        return ""
    if ARP in frame and frame[ARP].psrc == frame[ARP].pdst and frame[ARP].hwsrc == mac:
        return str(frame[ARP].psrc)
    if ICMPv6ND_NA in frame and not frame[ICMPv6ND_NA].S:
        assert frame[ICMPv6NDOptDstLLAddr].lladdr == mac
        return str(frame[ICMPv6ND_NA].tgt)
    return ""


def with_tag(frame: bytes, beside: bytes) -> bytes:
    """A frame as it was on the wire: packet(7) has the VLAN tag in struct tpacket_auxdata."""
    status, tci, tpid = struct.unpack("=I12xHH", beside)
    if not status & _TP_STATUS_VLAN_VALID:
        return frame
    return frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]


def seconds_until(predicate: Callable[[], object], timeout: float, what: str) -> float:
    """How long it took until predicate returned something true."""
    began = time.monotonic()
    wait_for(predicate, timeout, what, interval=0.01)
    return time.monotonic() - began


@contextmanager
def running(guest: PumpGuest, argv: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A program in the guest's namespace, ended at the end with all that it has started."""
    before = children()
    process = subprocess.Popen(
        dying_with_us([*netns_exec_prefix(guest.namespace), *argv]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        for orphan in children() - before:
            os.waitpid(orphan, 0)


def reach_each_other(lan: Lan, guests: Sequence[PumpGuest], airtapd: Airtapd | None = None) -> None:
    """The LAN and every guest, over every address of theirs; at once, or within REACH_S.

    airtapd: whose status is part of what a failure tells.
    """

    def reach(asker: Lan | PumpGuest, asked: Lan | PumpGuest, address: str) -> None:
        if not asker.ping(address, timeout=REACH_S):
            noted = [_noted(one) for one in (asker, asked)]
            noted += [json.dumps(airtapd.guests(), indent=1)] if airtapd else []
            noted.append(f"by now it does: {asker.ping(address)}")
            what = f"{asker.namespace} does not reach {asked.namespace} at {address}"
            raise AssertionError("\n".join([what, *noted]))

    for guest in guests:
        for address in guest.addresses(4) + guest.addresses(6):
            reach(lan, guest, address)
            for other in guests:
                if other is not guest:
                    reach(other, guest, address)
        for address in ("192.0.2.1", "2001:db8::1"):
            reach(guest, lan, address)


def _noted(one: Lan | PumpGuest) -> str:
    """What a namespace has noted of the others by now, and what became of its packets."""
    counters = one.run("nstat", "-a", check=False).stdout
    return f"{one.namespace}:\n{one.run('ip', 'neighbour').stdout}{counters}"

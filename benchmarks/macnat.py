"""MAC NAT on a wire: a guest's traffic with it, without it, over a bridge, and behind NAT.

Each contender is a veth wire of its own from the host to one LAN, and a guest in a namespace of
its own. A namespace stands for the guest, not QEMU behind a macvtap, whose tap would cost more
than all that is compared here. airtapd does not see a macvlan in another namespace, so its part
is played here: the programs as it loads them, on the uplink and, inside the guest's namespace, on
the macvlan. Their maps have room for everything, as they always have.

Whoever sends runs iperf3's client. Samples are short and taken in turn: what else the machine
does then falls on all contenders alike, and a median over many rounds leaves most of it out.
Ratios are medians of each round's own ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pyroute2 import AsyncIPRoute

from airtap.bpf.attach import CHILD, PARENT
from airtap.bpf.macnat import Macnat
from airtap.bpf.object import Object
from airtap.bpf.records import GUESTS, Entry, pack_key
from airtap.kernel.addresses import host_addresses
from airtap.names import octets
from lab import sandbox
from lab.lan import wait_for
from lab.sandbox import command, dying_with_us, netns_exec_prefix

LAN = "lan"
PORT = 5201
NETWORKS = list(IPv4Network("192.0.2.0/24").subnets(new_prefix=28))
PRIVATE = IPv4Network("203.0.113.0/28")
OTHERS = IPv4Network("198.18.0.0/15")  # RFC 2544: addresses of guests that are only in the maps
COUNTS = (1, 64, GUESTS)

# Aims of the project; the figures are printed beside them, nothing depends on them.
AIM_TO_PLAIN = 0.97
AIM_FLAT = 0.97

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_NAT = """
table ip nat {{
    chain in {{
        type nat hook prerouting priority dstnat;
        iifname "{near}" meta l4proto {{ tcp, udp }} th dport {port} dnat to {guest}
    }}
    chain out {{
        type nat hook postrouting priority srcnat;
        oifname "{near}" masquerade
    }}
}}
"""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    compare, scale: seconds to spend on rounds, LEAST_ROUNDS at least. tcp: bytes, udp: packets,
    exchanges: of one sample.
    """

    compare: float
    scale: float
    tcp: int
    udp: int
    exchanges: int


FULL = Effort(compare=80, scale=40, tcp=512 << 20, udp=50_000, exchanges=2000)
QUICK = Effort(compare=18, scale=9, tcp=256 << 20, udp=25_000, exchanges=1000)
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Column:
    """One figure of a sample. lower: less of it is better."""

    name: str
    unit: str
    lower: bool = False

    def ratio(self, value: float, reference: float) -> float:
        """How a value compares; more than 1 is better, whatever the figure."""
        return reference / value if self.lower else value / reference


# "of CPU": for a second of the sender's CPU. On veth the sender walks the whole way, up to the
# receiver's socket; packets received also depend on when the receiver gets a CPU.
COLUMNS = (
    Column("TCP up", "Gbit/s"),
    Column("TCP down", "Gbit/s"),
    Column("UDP up", "kpkt/s"),
    Column("of CPU", "kpkt/s"),
    Column("UDP down", "kpkt/s"),
    Column("of CPU", "kpkt/s"),
    Column("trip", "us", lower=True),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.macnat", description="MAC NAT on a wire")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    effort = QUICK if parser.parse_args().quick else FULL
    sandbox.enter()
    with contextlib.ExitStack() as undo:
        make_lan(undo)
        nat = Macvlan(0, undo)
        programs = MacNat(nat, undo)
        wires: dict[str, Wire] = {
            "macvlan, MAC NAT": nat,
            "macvlan": Macvlan(1, undo),
            "bridge": Bridge(2, undo),
            "bridge, NAT": NatBridge(3, undo),
        }
        for wire in wires.values():
            wire.wait_ready()
        compare(wires, effort)
        print()
        scale(nat, programs, effort)
        programs.expect_at_work(nat)
    return 0


def compare(wires: dict[str, Wire], effort: Effort) -> None:
    """Print how the wires do, beside the one without MAC NAT."""
    contenders = {name: partial(sample, wire, effort) for name, wire in wires.items()}
    report(contenders, effort.compare, reference="macvlan")
    print(f"aim: MAC NAT at least {AIM_TO_PLAIN}, and ahead of bridge and NAT")


def scale(wire: Wire, programs: MacNat, effort: Effort) -> None:
    """Print how MAC NAT does by the number of guests' addresses that it knows."""
    programs.announce_others()

    def at(count: int) -> list[float]:
        programs.know(count)
        return sample(wire, effort)

    names = {count: f"{count} known" for count in COUNTS}
    contenders = {name: partial(at, count) for count, name in names.items()}
    report(contenders, effort.scale, reference=names[1])
    print(f"aim: flat, that is about 1 ({AIM_FLAT} or more)")


def report(
    contenders: Mapping[str, Callable[[], list[float]]], seconds: float, reference: str
) -> None:
    """Measure all contenders and print the medians, and the ratios to one of them."""
    values = measure(contenders, seconds)
    rounds = len(values[reference])
    print(f"medians of {rounds} rounds in turn, then how much better than {reference}:")
    print(f"{'':20}" + "".join(f"{column.name:>10}" for column in COLUMNS))
    print(f"{'':20}" + "".join(f"{column.unit:>10}" for column in COLUMNS))
    for name, rows in values.items():
        medians = (statistics.median(figures) for figures in zip(*rows, strict=True))
        print(f"{name:20}" + "".join(f"{median:10.1f}" for median in medians))
    for name, rows in values.items():
        if name != reference:
            ratios = ratios_of(rows, values[reference])
            print(f"{name:20}" + "".join(f"{ratio:10.2f}" for ratio in ratios))


def measure(
    contenders: Mapping[str, Callable[[], list[float]]], seconds: float
) -> dict[str, list[list[float]]]:
    """Rounds of samples, each of all contenders in turn, until the time is over."""
    values: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()  # warms the caches
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(values[next(iter(values))]) < LEAST_ROUNDS:
        for name, contender in contenders.items():
            values[name].append(contender())
    return values


def ratios_of(rows: list[list[float]], references: list[list[float]]) -> list[float]:
    """The median, for each column, of the rounds' ratios."""
    return [
        statistics.median(
            column.ratio(row[at], reference[at])
            for row, reference in zip(rows, references, strict=True)
        )
        for at, column in enumerate(COLUMNS)
    ]


# What is measured


def sample(wire: Wire, effort: Effort) -> list[float]:
    """One figure for each of COLUMNS."""
    return [
        tcp(wire.to_lan(), effort.tcp),
        tcp(wire.to_guest(), effort.tcp),
        *udp(wire.to_lan(), effort.udp),
        *udp(wire.to_guest(), effort.udp),
        round_trip(wire, effort.exchanges),
    ]


@dataclass(frozen=True)
class Way:
    """From a namespace to an address where iperf3 serves."""

    namespace: str
    address: IPv4Address


def tcp(way: Way, size: int) -> float:
    """Gbit/s received, sending size bytes."""
    total = iperf(way, "--bytes", str(size))["sum_received"]
    return total["bits_per_second"] / 1e9


def udp(way: Way, packets: int) -> tuple[float, float]:
    """Send packets with 64 bytes of payload as fast as can be.

    Returns thousands received a second, and thousands sent for a second of the sender's CPU.
    """
    options = ("--udp", "--length=64", "--bitrate=0", f"--blockcount={packets}")
    before = children_cpu()
    total = iperf(way, *options)["sum"]
    spent = children_cpu() - before
    received = total["packets"] - total["lost_packets"]
    return received / total["seconds"] / 1e3, packets / spent / 1e3


def children_cpu() -> float:
    """Seconds of CPU that ended children have had."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def iperf(way: Way, *options: str) -> dict[str, dict[str, float]]:
    """What iperf3 has to say in the end. RuntimeError carries its complaint."""
    argv = ["iperf3", "--json", f"--client={way.address}", f"--port={PORT}", *options]
    done = subprocess.run(
        [*netns_exec_prefix(way.namespace), *argv],
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
    result = json.loads(done.stdout)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {result.get('error', done.stderr)}")
    totals: dict[str, dict[str, float]] = result["end"]
    return totals


def round_trip(wire: Wire, exchanges: int) -> float:
    """Median time, in us, in which a byte of the guest's goes to the LAN and is answered by TCP."""
    with inside(LAN):
        listener = socket.create_server((str(wire.server), 0))
    with listener:
        with inside(wire.namespace):
            near = socket.create_connection(listener.getsockname(), timeout=5)
        far, _ = listener.accept()
    with near, far:
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setblocking(True)
        echo = os.fork()
        if echo == 0:
            near.close()
            serve_echo(far)
        times = [exchange(near) for _ in range(exchanges)]
    os.waitpid(echo, 0)
    return statistics.median(times) / 1e3


def exchange(near: socket.socket) -> int:
    start = time.perf_counter_ns()
    near.send(b"?")
    if not near.recv(1):
        raise RuntimeError("the echo ended")
    return time.perf_counter_ns() - start


def serve_echo(far: socket.socket) -> None:
    """Answer until the other end closes, then end this process, a copy of the benchmark's."""
    try:
        while far.recv(1):
            far.send(b"!")
    finally:
        os._exit(0)


# Wires


class Wire:
    """A veth pair between the host and the LAN, and a guest's eth0 behind the host's end."""

    def __init__(self, number: int, undo: contextlib.ExitStack) -> None:
        self.near, self.far = f"up{number}", f"lan{number}"
        self.namespace = f"guest{number}"
        self.near_mac, self.guest_mac = (f"02:00:5e:00:{end:02x}:{number:02x}" for end in (1, 2))
        self.network = NETWORKS[number]
        self.server, self.host, self.guest = (self.network[n] for n in (1, 2, 3))
        self._make_wire(undo)
        make_namespace(self.namespace, undo)
        self._make_guest(undo)
        self.in_guest("link", "set", "eth0", "address", self.guest_mac, "up")
        serve_iperf(self.namespace, undo)

    def in_guest(self, *words: str) -> None:
        command("ip", "-n", self.namespace, *words)

    def to_lan(self) -> Way:
        return Way(self.namespace, self.server)

    def to_guest(self) -> Way:
        return Way(LAN, self.guest)

    def wait_ready(self) -> None:
        """Wait until iperf3 answers both ways."""
        for way in (self.to_lan(), self.to_guest()):
            wait_for(partial(answers, way), 10, f"{way.address} to answer {way.namespace}")

    def _make_wire(self, undo: contextlib.ExitStack) -> None:
        command(
            *("ip", "link", "add", self.near, "address", self.near_mac, "type", "veth"),
            *("peer", "name", self.far, "netns", LAN),
        )
        undo.callback(command, "ip", "link", "delete", self.near)
        command("ip", "link", "set", self.near, "up")
        command("ip", "-n", LAN, "link", "set", self.far, "up")
        command("ip", "-n", LAN, "address", "add", self._with_prefix(self.server), "dev", self.far)

    def _make_guest(self, undo: contextlib.ExitStack) -> None:
        raise NotImplementedError

    def _with_prefix(self, address: IPv4Address) -> str:
        return f"{address}/{self.network.prefixlen}"


class Macvlan(Wire):
    """A macvlan in bridge mode, on a wire that carries any MAC."""

    def _make_guest(self, undo: contextlib.ExitStack) -> None:
        command("ip", "address", "add", self._with_prefix(self.host), "dev", self.near)
        command(
            *("ip", "link", "add", "link", self.near, "name", "eth0", "netns", self.namespace),
            *("type", "macvlan", "mode", "bridge"),
        )
        self.in_guest("address", "add", self._with_prefix(self.guest), "dev", "eth0")


class Bridge(Wire):
    """A bridge that has the uplink and a veth to the guest as its ports."""

    def _make_guest(self, undo: contextlib.ExitStack) -> None:
        bridge = make_bridge(self.near, self.namespace, undo)
        command("ip", "link", "set", self.near, "master", bridge)
        command("ip", "address", "add", self._with_prefix(self.host), "dev", bridge)
        self.in_guest("address", "add", self._with_prefix(self.guest), "dev", "eth0")


class NatBridge(Wire):
    """A bridge with a veth to the guest; the host routes between it and the uplink, with NAT.

    The guest serves on a port that is forwarded.
    """

    def _make_guest(self, undo: contextlib.ExitStack) -> None:
        bridge = make_bridge(self.near, self.namespace, undo)
        gateway, guest = PRIVATE[1], PRIVATE[2]
        command("ip", "address", "add", self._with_prefix(self.host), "dev", self.near)
        command("ip", "address", "add", f"{gateway}/{PRIVATE.prefixlen}", "dev", bridge)
        self.in_guest("address", "add", f"{guest}/{PRIVATE.prefixlen}", "dev", "eth0")
        self.in_guest("link", "set", "eth0", "up")
        self.in_guest("route", "add", "default", "via", str(gateway))
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        rules = _NAT.format(near=self.near, guest=guest, port=PORT)
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        undo.callback(command, "nft", "delete", "table", "ip", "nat")

    def to_guest(self) -> Way:
        return Way(LAN, self.host)


def make_lan(undo: contextlib.ExitStack) -> None:
    make_namespace(LAN, undo)
    serve_iperf(LAN, undo)


def make_namespace(name: str, undo: contextlib.ExitStack) -> None:
    command("ip", "netns", "add", name)
    undo.callback(command, "ip", "netns", "delete", name)
    command("ip", "-n", name, "link", "set", "lo", "up")


def make_bridge(near: str, namespace: str, undo: contextlib.ExitStack) -> str:
    """A bridge on the host with a veth to eth0 of a namespace; returns its name."""
    bridge, port = f"br-{near}", f"port-{near}"
    command("ip", "link", "add", bridge, "type", "bridge")
    undo.callback(command, "ip", "link", "delete", bridge)
    command(
        *("ip", "link", "add", port, "master", bridge, "type", "veth"),
        *("peer", "name", "eth0", "netns", namespace),
    )
    undo.callback(command, "ip", "link", "delete", port)
    command("ip", "link", "set", port, "up")
    command("ip", "link", "set", bridge, "up")
    return bridge


def serve_iperf(namespace: str, undo: contextlib.ExitStack) -> None:
    server = subprocess.Popen(
        dying_with_us([*netns_exec_prefix(namespace), "iperf3", "--server", f"--port={PORT}"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    undo.callback(server.wait)
    undo.callback(server.kill)


def answers(way: Way) -> bool:
    """Tell whether a short transfer comes through, which also has neighbours resolved."""
    try:
        return tcp(way, 1 << 20) > 0
    except RuntimeError:
        return False


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a network namespace: sockets that are made meanwhile stay there."""
    with open("/proc/self/ns/net") as here, open(f"/run/netns/{namespace}") as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(here.fileno())


def enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


# MAC NAT


class MacNat:
    """The programs at work on a macvlan and its parent, and maps to be filled at will."""

    def __init__(self, wire: Wire, undo: contextlib.ExitStack) -> None:
        content = (resources.files("airtap") / "bpf/macnat.bpf.o").read_bytes()
        loaded = Object(content, "macnat")
        undo.callback(loaded.close)
        loaded.load()
        self._addresses = loaded.map("addresses")
        self._macnat = Macnat(loaded, None)
        self._macnat.config.set_timing()
        asyncio.run(self._attach_parent(wire))
        with inside(wire.namespace):
            asyncio.run(self._attach_child(wire))

    async def _attach_parent(self, wire: Wire) -> None:
        index = socket.if_nametoindex(wire.near)
        async with AsyncIPRoute() as ipr:
            addresses = await host_addresses(index)
            self._macnat.hosts.set_addresses(
                addresses.own | addresses.gateways, addresses.broadcasts
            )
            self._macnat.config.set_parent(socket.if_nametoindex(wire.near), wire.near_mac)
            await self._macnat.programs.attach(ipr, index, PARENT["macvtap"])

    async def _attach_child(self, wire: Wire) -> None:
        """On eth0 of the namespace in which we are."""
        index = socket.if_nametoindex("eth0")
        async with AsyncIPRoute() as ipr:
            self._macnat.guests.add(index, wire.guest_mac)
            await self._macnat.programs.attach(ipr, index, CHILD["macvtap"])

    def announce_others(self) -> None:
        """Announce as many more guests as there can be."""
        for number in range(1, GUESTS):
            self._macnat.guests.add(other_index(number), other_mac(number))

    def know(self, count: int) -> None:
        """Have one address of each of count guests in the maps, with the one that is real."""
        for number in range(1, GUESTS):
            key = pack_key(OTHERS[number])
            if number < count:
                mac = octets(other_mac(number))
                entry = Entry(2**63, time.monotonic_ns(), other_index(number), 0, mac)
                self._addresses.update(key, entry.pack())
            else:
                self._addresses.delete(key)

    def expect_at_work(self, wire: Wire) -> None:
        """Raise RuntimeError unless the guest spoke through MAC NAT: else nothing was measured."""
        if wire.guest not in {entry.address for entry in self._macnat.addresses.all()}:
            raise RuntimeError(f"MAC NAT never heard {wire.guest}")
        listing = command("ip", "-n", LAN, "neighbour", "show", str(wire.guest))
        if wire.near_mac not in listing:
            raise RuntimeError(f"{wire.guest} is not at the uplink's MAC: {listing}")


def other_index(number: int) -> int:
    """Of a guest that is only in the maps: no device gets that far."""
    return 1_000_000 + number


def other_mac(number: int) -> str:
    return f"02:00:5e:10:{number >> 8:02x}:{number & 0xFF:02x}"


if __name__ == "__main__":
    sys.exit(main())

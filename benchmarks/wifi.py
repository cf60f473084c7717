"""ipvtap beside macvtap, in the Wi-Fi machine: run it there (`make bench` does).

The machine is emulated, so only ratios mean anything. Traffic: one guest of each kind in turn on
the same station, a namespace fed through its tap by the lab's relay, whose cost is in both
figures. Devices: 500 on one parent, a veth, the last compared with the first, for each kind.
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from airtap.helper import attach
from lab import sandbox
from lab.airtap import Airtapd
from lab.lan import ROUTER4, Lan, wait_for
from lab.pump import PumpGuest
from lab.traffic import GUEST4, GUEST_MAC, pump
from lab.wifi import AccessPoint, Radios, Station

KINDS = ("macvtap", "ipvtap")
ROUNDS = 3
PINGS = 100
TCP_S = 4
DEVICES = 500
WINDOW = 25
AIM_LAST_TO_FIRST = 1.5
MACS = [f"52:54:00:01:{n >> 8:02x}:{n & 255:02x}" for n in range(DEVICES)]
_VNET_HDR = bytes(10)


def main() -> int:
    sandbox.enter()
    traffic()
    for kind in KINDS:
        devices(kind)
    return 0


def traffic() -> None:
    """Print the medians of each kind, and those of each round's ratio of ipvtap to macvtap."""
    samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    radios = Radios(2)
    with AccessPoint() as lan, Station([lan]):
        assert radios
        with server(lan):
            for _ in range(ROUNDS):
                for kind in KINDS:
                    samples[kind].append(sample(kind))
    print(f"a guest on Wi-Fi, medians of {ROUNDS} rounds in turn:")
    print(f"{'':16}{'macvtap':>10}{'ipvtap':>10}{'ratio':>8}")
    for name in samples["macvtap"][0]:
        values = {kind: [row[name] for row in rows] for kind, rows in samples.items()}
        ratios = [b / a for a, b in zip(values["macvtap"], values["ipvtap"], strict=True)]
        medians = [statistics.median(values[kind]) for kind in KINDS]
        print(f"{name:16}{medians[0]:10.2f}{medians[1]:10.2f}{statistics.median(ratios):8.2f}")


@contextmanager
def server(lan: Lan) -> Iterator[None]:
    """iperf3 at the router."""
    pid = f"{lan.tftp_root}/iperf3.pid"
    lan.run("iperf3", "--server", "--daemon", "--pidfile", pid)
    try:
        yield
    finally:
        lan.run("sh", "-c", f"kill $(tr -d '\\0' <{pid})")


def sample(kind: str) -> dict[str, float]:
    """One guest of a kind: Mbit/s of TCP both ways, ms of a round trip."""
    with (
        Airtapd(config=f'[parents.wlan1]\nkind = "{kind}"\n') as airtapd,
        pump(airtapd, GUEST_MAC, GUEST4, uplink="wlan1") as guest,
    ):
        guest.ping(ROUTER4)
        said = guest.run("ping", "-i", "0.01", "-c", str(PINGS), ROUTER4).stdout
        times = [float(text) for text in re.findall(r"time=([0-9.]+) ms", said)]
        assert len(times) > PINGS * 0.9, said
        return {
            "TCP up, Mbit/s": tcp(guest),
            "TCP down, Mbit/s": tcp(guest, "--reverse"),
            "round trip, ms": statistics.median(times),
        }


def tcp(guest: PumpGuest, *options: str) -> float:
    argv = ["iperf3", "--json", "--time", str(TCP_S), *options, "--client", ROUTER4]
    report = json.loads(guest.run(*argv).stdout)
    if "error" in report:
        raise RuntimeError(f"iperf3: {report['error']}")
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


def devices(kind: str) -> None:
    """Print how long it takes to attach, to deliver to an address just used, and to remove."""
    config = f'[limits]\ndevices = {DEVICES}\n[parents.up0]\nkind = "{kind}"\nmacnat = "on"\n'
    taps: list[int] = []
    with Lan(one_mac=True) as lan, Airtapd(config=config) as airtapd, lan.frames() as far:
        os.environ.update(airtapd.env)
        try:
            attached = [seconds(partial(add, taps, mac)) for mac in MACS]
            delivered = []
            for number, tap in enumerate(taps):
                spoken, answer = exchange(lan, number)
                delivered.append(seconds(partial(deliver, far, tap, spoken, answer)))
            assert len(airtapd.guests()) == DEVICES
        finally:
            removed = [seconds(partial(remove, tap)) for tap in taps]
    print(f"{DEVICES} {kind} devices on one parent, ms, medians of {WINDOW}:")
    for name, times in (("attach", attached), ("deliver", delivered), ("remove", removed)):
        first, last = (statistics.median(part) * 1e3 for part in (times[:WINDOW], times[-WINDOW:]))
        # The devices go in the order in which they came: the first from among the most.
        ratio = first / last if name == "remove" else last / first
        print(f"  {name:8} first {first:7.2f}, last {last:7.2f}, ratio {ratio:.2f}", end="")
        print(f" (aim: {AIM_LAST_TO_FIRST})")


def seconds(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def add(taps: list[int], mac: str) -> None:
    taps.append(attach("up0", mac, True))


def exchange(lan: Lan, number: int) -> tuple[bytes, bytes]:
    """A guest's packet from an address of its own, and one of the LAN's to it."""
    own = f"198.18.{number >> 8}.{number & 255}"
    spoken = Ether(src=MACS[number], dst=lan.far_mac) / IP(src=own, dst=ROUTER4) / UDP()
    answer = Ether(src=lan.far_mac, dst=lan.near_mac) / IP(src=ROUTER4, dst=own) / UDP()
    return raw(spoken), raw(answer)


def deliver(far: socket.socket, tap: int, spoken: bytes, answer: bytes) -> None:
    """How soon the answer arrives at the tap of the guest that has just spoken."""
    os.set_blocking(tap, False)
    os.write(tap, _VNET_HDR + spoken)
    far.send(answer)
    wait_for(lambda: answer[14:] in read(tap), 10, "the answer", interval=0)


def read(tap: int) -> bytes:
    try:
        return os.read(tap, 2048)
    except BlockingIOError:
        return b""


def remove(tap: int) -> None:
    """Close a tap and wait until its device is gone."""
    [index] = [int(name[3:]) for name in [os.path.basename(os.readlink(f"/proc/self/fd/{tap}"))]]
    os.close(tap)
    wait_for(lambda: not is_there(index), 30, "the device to go", interval=0.001)


def is_there(index: int) -> bool:
    return os.path.exists(f"/dev/tap{index}")


if __name__ == "__main__":
    sys.exit(main())

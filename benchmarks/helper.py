"""The bridge helper as QEMU meets it: the whole process, from exec to exit.

Peers, all run in turn by the same caller in the same run: Debian's qemu-bridge-helper on the
same bridge, and a Python that does nothing (``python3 -I -S -c pass``), below which no helper in
Python can get. A second part attaches 500 devices and compares the last with the first.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lab import sandbox
from lab.airtap import HELPER, Airtapd
from lab.lan import Lan, wait_for

ROUNDS = 60
DEVICES = 500
WINDOW = 25
QEMU_HELPER = "/usr/lib/qemu/qemu-bridge-helper"
BARE = ["/usr/bin/python3", "-I", "-S", "-c", "pass"]
# Aims of the project; the figures are printed beside them, nothing depends on them.
AIM_ABOVE_BARE_MS = 10.0
AIM_LAST_TO_FIRST = 1.5

Sample = tuple[float, int]


def main() -> int:
    sandbox.enter()
    Path("/etc/qemu").mkdir(exist_ok=True)
    Path("/etc/qemu/bridge.conf").write_text("allow all\n")
    sandbox.command("ip", "link", "add", "br0", "up", "type", "bridge")
    with Lan() as lan, Airtapd(config=f"[limits]\ndevices = {DEVICES}\n") as airtapd:
        compare(lan.uplink, "br0", airtapd)
        print()
        scale(lan.uplink, airtapd)
    return 0


def compare(parent: str, bridge: str, airtapd: Airtapd) -> None:
    """Print the median of each contender, its ratio to qemu-bridge-helper, and what is above
    a bare Python."""
    contenders: dict[str, Callable[[], Sample]] = {
        "python3 -I -S -c pass": lambda: (spawn(BARE, {}), -1),
        "qemu-bridge-helper, bridge": lambda: helper(QEMU_HELPER, bridge, {}),
        "airtap-bridge-helper, bridge": lambda: helper(str(HELPER), bridge, airtapd.env),
        "airtap-bridge-helper, macvtap": lambda: helper(str(HELPER), parent, airtapd.env),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + 5):
        for name, contender in contenders.items():
            links = sandbox.host_links()
            seconds, tap = contender()
            if tap >= 0:
                os.close(tap)
                wait_for(partial(only, links), 5, "the device to go")
            if number >= 5:  # the first rounds warm the caches
                times[name].append(seconds * 1000)
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare, peer = list(medians.values())[:2]
    print(f"exec to exit, {ROUNDS} rounds in turn, ms:")
    print(f"{'':32}{'min':>7}{'median':>9}{'max':>7}{'/ qemu':>9}{'- bare':>9}")
    for name, values in times.items():
        median = medians[name]
        print(
            f"{name:32}{min(values):7.1f}{median:9.1f}{max(values):7.1f}"
            f"{median / peer:9.2f}{median - bare:9.1f}"
        )
    print(f"aim: airtap-bridge-helper at most {AIM_ABOVE_BARE_MS:.0f} ms above bare Python")


def only(links: set[str]) -> bool:
    return sandbox.host_links() == links


def scale(parent: str, airtapd: Airtapd) -> None:
    """Attach DEVICES devices that stay; compare the last WINDOW with the first."""
    times, taps = [], []
    try:
        for _ in range(DEVICES):
            seconds, tap = helper(str(HELPER), parent, airtapd.env)
            times.append(seconds * 1000)
            taps.append(tap)
        start = time.perf_counter()
        report = airtapd.guests()
        status_ms = (time.perf_counter() - start) * 1000
        assert len(report) == DEVICES
    finally:
        start = time.perf_counter()
        for tap in taps:
            os.close(tap)
        wait_for(lambda: not any(n.startswith("airtap") for n in sandbox.host_links()), 120, "end")
        gone_ms = (time.perf_counter() - start) * 1000
    first, last = statistics.median(times[:WINDOW]), statistics.median(times[-WINDOW:])
    print(f"{DEVICES} macvtaps on one parent, ms, medians of {WINDOW}:")
    print(
        f"first {first:.1f}, last {last:.1f}, ratio {last / first:.2f} (aim: {AIM_LAST_TO_FIRST})"
    )
    print(f"airtap status --json of all: {status_ms:.0f}; all gone after {gone_ms:.0f}")


def helper(program: str, br: str, env: dict[str, str]) -> Sample:
    """Run a bridge helper as QEMU does: (seconds, the tap that it sent)."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with near, far:
        far.set_inheritable(True)
        seconds = spawn([program, "--use-vnet", f"--fd={far.fileno()}", f"--br={br}"], env)
        far.close()
        data, fds, _flags, _from = socket.recv_fds(near, 1, 1)
    if data != b"\0" or len(fds) != 1:
        raise RuntimeError(f"{program} sent no tap")
    return seconds, fds[0]


def spawn(argv: list[str], env: dict[str, str], stdin: int = 0) -> float:
    """Seconds from exec to exit. posix_spawn: no copy of this process distorts the figure."""
    environment = {**os.environ, **env}
    start = time.perf_counter()
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0)]
    pid = os.posix_spawn(argv[0], argv, environment, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), argv)
    return seconds


if __name__ == "__main__":
    sys.exit(main())

"""libvirt's hooks: whole processes, from exec to exit, on what a real libvirtd handed to a hook.

A recording hook stands beside airtap's while libvirtd starts a guest on a macvtap network; its
recordings are then run again through airtap's launchers. The peer, in turn in the same run, is a
Python that does nothing (``python3 -I -S -c pass``), below which no hook in Python can get.
"""

import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from airtap.ipc import protocol
from benchmarks.helper import BARE, spawn
from lab import sandbox
from lab.airtap import Airtapd
from lab.lan import Lan
from lab.libvirt import Libvirtd, domain_xml

ROUNDS = 40
WARM_UP = 5
MAC = "52:54:00:cc:00:01"
RECORDED = Path("/run/recorded")
# Aims of the project; the figures are printed beside them, nothing depends on them.
AIM_ABOVE_BARE_MS = 10.0
AIM_START_MS = 120.0

_RECORDER = f"""#!/bin/sh
f={RECORDED}/$(date +%s%N)
cat >$f
echo "$0" "$@" >$f.argv
"""
_NAT = """<network><name>nat</name><forward/><bridge name='virbr9'/>
<ip address='192.168.199.1' netmask='255.255.255.0'/></network>"""


@dataclass(frozen=True)
class Call:
    """One run of a hook: its name and operation, the launcher's words, the file with its stdin."""

    name: str
    argv: list[str]
    stdin: Path


def main() -> int:
    sandbox.enter()
    config = '[parents.up0]\nmacnat = "on"\n'
    with (
        Lan(one_mac=True),
        Airtapd(config=config, socket=protocol.DEFAULT_SOCKET) as airtapd,
        Libvirtd() as libvirtd,
    ):
        libvirtd.stop()
        install_recorder()
        libvirtd.start()
        libvirtd.airtap("network", "define", "wifi", "--parent", "up0")
        ours = recorded(libvirtd, "wifi")
        airtapd.kill()
        others = recorded(libvirtd, "nat")
        airtapd.start()
        compare(others, ours, airtapd)
    return 0


def install_recorder() -> None:
    RECORDED.mkdir()
    for name in ("qemu", "network"):
        recorder = Path(f"/etc/libvirt/hooks/{name}.d/10-record")
        recorder.write_text(_RECORDER)
        recorder.chmod(0o755)


def recorded(libvirtd: Libvirtd, network: str) -> list[Call]:
    """Start a guest on a network; the hooks that ran for that."""
    connection = libvirtd.connect()
    try:
        if network == "nat":
            connection.networkCreateXML(_NAT)
        for file in RECORDED.iterdir():
            file.unlink()
        card = f'<interface type="network"><source network="{network}"/></interface>'
        xml = domain_xml("guest", MAC, libvirtd.serial_file("guest"), card)
        domain = connection.createXML(xml)
        calls = [_call(file, network) for file in sorted(RECORDED.glob("*.argv"))]
        domain.destroy()
    finally:
        connection.close()
    return calls


def _call(file: Path, network: str) -> Call:
    program, *words = file.read_text().split()
    kept = Path(f"/run/{network}-{file.stem}")
    kept.write_bytes(file.with_suffix("").read_bytes())
    launcher = Path(program).with_name("50-airtap")
    hook = launcher.parent.name.removesuffix(".d")
    return Call(f"{hook} {words[1]}", [str(launcher), *words], kept)


def compare(others: list[Call], ours: list[Call], airtapd: Airtapd) -> None:
    """Print the median of each call, and what it is above a bare Python; then the whole start."""
    contenders = {"python3 -I -S -c pass": Call("", BARE, Path("/dev/null"))}
    contenders |= {f"not ours: {call.name}": call for call in others}
    contenders |= {f"ours: {call.name}": call for call in ours}
    first = sum(run(call) for call in ours)  # MAC NAT is off, and comes on
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + WARM_UP):
        for name, call in contenders.items():
            milliseconds = run(call)
            if number >= WARM_UP:
                times[name].append(milliseconds)
    bare = statistics.median(times["python3 -I -S -c pass"])
    print(f"exec to exit, {ROUNDS} rounds in turn, ms:")
    print(f"{'':32}{'min':>7}{'median':>9}{'max':>7}{'/ bare':>9}{'- bare':>9}")
    for name, values in times.items():
        median = statistics.median(values)
        print(
            f"{name:32}{min(values):7.1f}{median:9.1f}{max(values):7.1f}"
            f"{median / bare:9.2f}{median - bare:9.1f}"
        )
    print(f"aim: a hook for a guest that is not ours at most {AIM_ABOVE_BARE_MS:.0f} ms above bare")
    whole = sum(statistics.median(times[f"ours: {call.name}"]) for call in ours)
    print(f"all hooks of one start: {whole:.0f} (aim: {AIM_START_MS:.0f}),", end=" ")
    print(f"{first:.0f} when MAC NAT has to be loaded first")


def run(call: Call) -> float:
    """Milliseconds of one run."""
    stdin = os.open(call.stdin, os.O_RDONLY)
    try:
        return 1000 * spawn(call.argv, {}, stdin)
    finally:
        os.close(stdin)


if __name__ == "__main__":
    sys.exit(main())

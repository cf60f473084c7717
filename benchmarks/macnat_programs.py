"""What MAC NAT costs a packet: the programs alone, by BPF_PROG_TEST_RUN, without devices.

With 1, 64 and 1,024 guests, each with an IPv4 and an IPv6 address. A translated frame is made as
it was before the next repetition (lab/bench.bpf.c); what that costs is measured in turn and
taken off. The redirection itself, which the kernel does after the program, is not in it.
"""

import struct
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

from airtap.bpf.attach import Role
from airtap.bpf.macnat import Macnat
from airtap.bpf.object import Object
from airtap.bpf.records import Entry, pack_key
from lab import sandbox
from lab.probe import DROP, PASS, REDIRECT, compile_probe
from lab.sandbox import command

REPEAT = 200_000
ROUNDS = 7
GUESTS = (1, 64, 1024)
AIM_NS = 60

PARENT, ROUTER = bytes.fromhex("020000000001"), bytes.fromhex("020000000003")
DEVICE, LOOPBACK = "bench0", 1
MARK_PASSED = 0x6171  # ethernet.h
_CONTEXT = struct.Struct("=40xI4x12sI128x")  # struct __sk_buff: ifindex, cb[0] to cb[3]


def main() -> int:
    sandbox.enter()
    command("ip", "link", "add", DEVICE, "type", "veth", "peer", "name", "bench1")
    ifindex = int(Path(f"/sys/class/net/{DEVICE}/ifindex").read_text())
    print(f"ns a packet, least of {ROUNDS} x {REPEAT:,} runs; aim: under {AIM_NS} each way")
    print(f"{'guests':>36}{''.join(f'{n:>8,}' for n in GUESTS)}")
    rows: dict[str, list[int]] = {}
    content = compile_probe(around="bench")
    for count in GUESTS:
        with Object(content, "bench") as loaded:
            loaded.load()
            macnat = fill(loaded, count, ifindex)
            for name, run in runs(count, ifindex):
                macnat.config.set_role(Role(run.kind), "bridge")
                rows.setdefault(name, []).append(cost(loaded, run))
    for name, costs in rows.items():
        print(f"{name:>36}{''.join(f'{ns:>8}' for ns in costs)}")
    return 0


def fill(loaded: Object, count: int, ifindex: int) -> Macnat:
    """Have count guests hold two addresses each, the one that is measured the last of them."""
    macnat = Macnat(loaded, None)
    macnat.config.set_parent(1, PARENT.hex(":"))
    macnat.config.set_timing(refresh=3600)
    macnat.hosts.set_addresses({IPv4Address("192.0.2.10"), IPv6Address("fe80::1")}, set())
    macnat.hosts.set_on_link({IPv4Network("192.0.2.0/24"), IPv4Network("10.0.0.0/8")})
    held = loaded.map("addresses")
    for number in range(1, count + 1):
        index = ifindex + count - number
        macnat.guests.add(index, mac(number).hex(":"))
        macnat.host_access.add(mac(number).hex(":"), index)
        for address in addresses(number):
            entry = Entry(2**63, time.monotonic_ns(), index, 0, mac(number))
            held.update(pack_key(address), entry.pack())
    return macnat


@dataclass(frozen=True)
class Run:
    """A program on a frame, with guests' devices of a kind.

    ifindex: of the device it is on. mark: what from_guest has left on the frame.
    """

    kind: str
    program: str
    frame: bytes
    ifindex: int
    verdict: int = PASS
    mark: int = 0


def runs(count: int, ifindex: int) -> list[tuple[str, Run]]:
    """What is measured, and its name. Of the guests it is the one that was filled in last."""
    own, (four, six) = mac(count), addresses(count)
    lan4, lan6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
    host = IPv4Address("192.0.2.10")
    arp = bytes.fromhex("08060001080006040001") + own + four.packed + bytes(6) + lan4.packed
    to_guest4, to_guest6 = PARENT + ROUTER + ipv4(lan4, four), PARENT + ROUTER + ipv6(lan6, six)

    def on_macvtap(program: str, frame: bytes) -> Run:
        return Run("macvtap", program, frame, ifindex)

    def redirected(program: str, frame: bytes, device: int) -> Run:
        return Run("ipvtap", program, frame, device, REDIRECT)

    to_guest = Run("macvtap", "uplink_egress", own + PARENT + ipv4(lan4, four), LOOPBACK, REDIRECT)
    to_wire, to_host = ROUTER + own + ipv4(four, lan4), PARENT + own + ipv4(four, host)
    # As to_uplink leaves it, from LOOPBACK, no guest's: to the guest, a sibling of the sender.
    up4, up6 = PARENT + ipv4(lan4, four), PARENT + ipv6(lan6, six)
    return [
        ("from_guest, IPv4", on_macvtap("from_guest", ROUTER + own + ipv4(four, lan4))),
        ("from_guest, IPv6", on_macvtap("from_guest", ROUTER + own + ipv6(six, lan6))),
        ("from_guest, ARP", on_macvtap("from_guest", ROUTER + own + arp)),
        ("to_uplink, IPv4", on_macvtap("to_uplink", ROUTER + own + ipv4(four, lan4))),
        ("to_uplink, IPv6", on_macvtap("to_uplink", ROUTER + own + ipv6(six, lan6))),
        ("to_uplink, the host's own", on_macvtap("to_uplink", ROUTER + PARENT + ipv4(four, lan4))),
        ("from_uplink, IPv4", on_macvtap("from_uplink", to_guest4)),
        ("from_uplink, IPv6", on_macvtap("from_uplink", to_guest6)),
        (
            "from_uplink, the host's own",
            on_macvtap("from_uplink", PARENT + ROUTER + ipv4(four, lan4)),
        ),
        ("from_uplink to an ipvtap, IPv4", redirected("from_uplink", to_guest4, ifindex)),
        ("from_uplink to an ipvtap, IPv6", redirected("from_uplink", to_guest6, ifindex)),
        ("to_sibling, to the wire", Run("ipvtap", "to_sibling", ROUTER + up4, LOOPBACK)),
        ("to_sibling, to a sibling, IPv4", redirected("to_sibling", PARENT + up4, LOOPBACK)),
        ("to_sibling, to a sibling, IPv6", redirected("to_sibling", PARENT + up6, LOOPBACK)),
        ("to_sibling, for nobody", Run("ipvtap", "to_sibling", PARENT + up4, ifindex, DROP)),
        (
            "uplink_egress, the host's to the wire",
            on_macvtap("uplink_egress", ROUTER + PARENT + ipv4(lan4, four)),
        ),
        ("uplink_egress, the host's to a guest", to_guest),
        (
            "uplink_egress, a guest's to the wire",
            Run("macvtap", "uplink_egress", to_wire, ifindex, mark=MARK_PASSED),
        ),
        (
            "uplink_egress, a guest's to the host",
            Run("macvtap", "uplink_egress", to_host, ifindex, REDIRECT, MARK_PASSED),
        ),
        ("to_host, to the wire", Run("ipvtap", "to_host", to_wire, ifindex, mark=MARK_PASSED)),
        (
            "to_host, to the host",
            Run("ipvtap", "to_host", to_host, ifindex, REDIRECT, MARK_PASSED),
        ),
    ]


def cost(loaded: Object, run: Run) -> int:
    """ns that a program takes for a frame, without what test_run and the repetition take."""
    context = _CONTEXT.pack(run.ifindex, run.frame[:12], run.mark)
    verdict = loaded.program(f"bench_{run.program}").test_run(run.frame, context).verdict
    if verdict != run.verdict:
        raise RuntimeError(f"{run.program} returns {verdict} for a frame of this benchmark")
    least = {run.program: 10**9, "nothing": 10**9}
    for _ in range(ROUNDS):
        for name in least:
            found = loaded.program(f"bench_{name}").test_run(run.frame, context, REPEAT)
            least[name] = min(least[name], found.duration)
    return least[run.program] - least["nothing"]


def mac(number: int) -> bytes:
    return bytes.fromhex("0200") + struct.pack(">I", 0x10000 + number)


def addresses(number: int) -> tuple[IPv4Address, IPv6Address]:
    return IPv4Address("10.0.0.0") + number, IPv6Address("2001:db8::1:0") + number


def ipv4(source: IPv4Address, target: IPv4Address) -> bytes:
    """64 bytes in all with the Ethernet header before it: UDP."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 50, 1, 0, 64, 17, 0)
    return b"\x08\x00" + head + source.packed + target.packed + udp()


def ipv6(source: IPv6Address, target: IPv6Address) -> bytes:
    head = struct.pack(">IHBB", 0x60000000, 30, 17, 64)
    return b"\x86\xdd" + head + source.packed + target.packed + udp()


def udp() -> bytes:
    return struct.pack(">HHHH", 9, 9, 30, 0) + bytes(22)


if __name__ == "__main__":
    sys.exit(main())

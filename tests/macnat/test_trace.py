"""airtap trace: real frames, each told as the programs saw it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet
from scapy.utils import RawPcapNgReader

from airtap.bpf.object import Object
from airtap.bpf.pins import pin_directory
from lab import sandbox
from lab.airtap import BIN, IMPATIENT, Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import FAR_MAC, HOST4, HOST6, NEAR_MAC, ROUTER4, ROUTER6, Lan, wait_for
from lab.one_mac import MACNAT_ON
from lab.traffic import (
    BROADCAST,
    GUEST4,
    GUEST6,
    GUEST_MAC,
    ROGUE4,
    ROGUE_MAC,
    SIBLING4,
    SIBLING_MAC,
    RawGuest,
    claim,
    pump,
    raw_guest,
)

OWNER, NEIGHBOUR = 10001, 10002
RESERVED = "an address of the host, a gateway or the LAN's broadcast, or routed elsewhere"
MIB = 1 << 20


class Trace:
    """A running airtap trace, and what it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def told(self, direction: str, what: str, *done: str) -> None:
        """Wait for a line with just these words."""
        words = f"{direction:16}  {what} | {'; '.join(done)}"
        self.says(rf"\d\d:\d\d:\d\d\.\d\d\d  {re.escape(words)}", words)

    def says(self, pattern: str, what: str = "") -> None:
        try:
            wait_for(lambda: any(re.fullmatch(pattern, line) for line in self.lines), 10, "")
        except TimeoutError as exc:
            raise AssertionError("\n".join([what or pattern, "is not in:", *self.lines])) from exc

    def end(self) -> int:
        """Press Ctrl-C. Returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@contextmanager
def tracing(airtapd: Airtapd, guest: str, *options: str, uid: int = 0) -> Iterator[Trace]:
    """A trace that has begun."""
    program = BIN / "airtap" if uid == 0 else sandbox.TREE / "helper/airtap"
    process = subprocess.Popen(
        sandbox.dying_with_us([str(program), "trace", guest, *options]),
        env={"PATH": "/usr/bin:/bin", **airtapd.env},
        user=uid,
        group=uid,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    trace = Trace(process)
    try:
        wait_for(lambda: trace.lines, 20, "the trace to begin")
        yield trace
    finally:
        process.kill()
        process.wait()
        trace.thread.join()
        assert process.stdout
        process.stdout.close()


def generation() -> int:
    """What the programs on up0 have of tracing: 0 while nobody is traced."""
    content = (resources.files("airtap") / "bpf/macnat.bpf.o").read_bytes()
    with Object(content, "macnat") as loaded:
        loaded.pin_maps(pin_directory(socket.if_nametoindex("up0")))
        loaded.load()
        return int.from_bytes((loaded.map(".bss").lookup(bytes(4)) or b"")[:4], "little")


SENT = f"source MAC {GUEST_MAC} -> {NEAR_MAC}"
RECEIVED = f"destination MAC {NEAR_MAC} -> {GUEST_MAC}"
REWRITTEN = "ARP sender rewritten"
COPY, DELIVERED = "a copy to the host", "delivered to the guest"


@BOTH_KINDS
def test_what_is_told(lan: Lan, airtapd: Airtapd, device_kind: str) -> None:
    with (
        pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest,
        tracing(airtapd, GUEST_MAC) as trace,
    ):
        device = airtapd.guests()[0]["device"]
        assert trace.lines[0] == (
            f"{device} ({GUEST_MAC}), {device_kind} on up0: MAC NAT to {NEAR_MAC}, host access"
        )
        assert guest.ping(ROUTER4)
        question = f"ARP who-has {ROUTER4} tell {GUEST4}"
        trace.told(
            "guest -> LAN", question, f"learned {GUEST4}", COPY, SENT, "ARP sender rewritten"
        )
        answer = f"ARP reply {ROUTER4} is-at {FAR_MAC}"
        trace.told("LAN -> guest", answer, RECEIVED, "ARP target rewritten", DELIVERED)
        trace.told("guest -> LAN", f"ICMP echo request {GUEST4} > {ROUTER4}", SENT)
        trace.told("LAN -> guest", f"ICMP echo reply {ROUTER4} > {GUEST4}", RECEIVED, DELIVERED)
        assert guest.ping(HOST4)
        trace.told("guest -> host", f"ICMP echo request {GUEST4} > {HOST4}", "handed to the host")
        trace.told("host -> guest", f"ICMP echo reply {HOST4} > {GUEST4}", DELIVERED)
        # Else the address that it has from the router may be its source, if that is quick.
        guest.run("ping", "-n", "-q", "-i0.2", "-c1", "-w20", "-I", GUEST6, ROUTER6)
        question = f"IPv6 neighbour solicitation for {ROUTER6} from {GUEST6}"
        rewritten = "ND link-layer option rewritten"
        trace.told("guest -> LAN", question, f"learned {GUEST6}", COPY, SENT, rewritten)
        trace.told("LAN -> guest", f"ICMPv6 echo reply {ROUTER6} > {GUEST6}", RECEIVED, DELIVERED)
        guest.dhcp()
        flagged = "DHCP broadcast flag set"
        trace.told("guest -> LAN", "DHCP discover 0.0.0.0 > 255.255.255.255", COPY, SENT, flagged)
        trace.told("LAN -> guest", f"DHCP offer {ROUTER4} > 255.255.255.255", "to all guests")
        assert trace.end() == 0
        wait_for(lambda: generation() == 0, 10, "the programs to tell nothing any more")


@BOTH_KINDS
def test_every_refusal(lan: Lan, airtapd: Airtapd) -> None:
    with (
        pump(airtapd, SIBLING_MAC, SIBLING4, name="sibling") as sibling,
        raw_guest(airtapd) as rogue,
        tracing(airtapd, rogue.device) as trace,
    ):
        assert sibling.ping(ROUTER4)

        def refused(what: str, why: str) -> None:
            trace.told("guest -> LAN", what, f"refused: {why}")

        rogue.send(claim(ROGUE4, "52:54:00:00:00:77"))
        announced = f"ARP announcement: {ROGUE4} is-at 52:54:00:00:00:77"
        refused(announced, "source MAC 52:54:00:00:00:77 is not the guest's")
        gateways = f"{ROUTER4} is {RESERVED}"
        rogue.claim(ROUTER4)
        refused(f"ARP announcement: {ROUTER4} is-at {ROGUE_MAC}", gateways)
        rogue.send(
            Ether(src=ROGUE_MAC, dst=FAR_MAC) / Dot1Q(vlan=5) / IP(src=HOST4, dst=ROUTER4) / ICMP()
        )
        hosts = f"{HOST4} is {RESERVED}"
        refused(f"VLAN 5: ICMP echo request {HOST4} > {ROUTER4}", hosts)
        rogue.claim(SIBLING4)
        announced = f"ARP announcement: {SIBLING4} is-at {ROGUE_MAC}"
        refused(announced, f"{SIBLING4} is another guest's")
        client = bytes.fromhex(NEAR_MAC.replace(":", ""))
        ask = IP(src=ROGUE4, dst=ROUTER4) / UDP(sport=68, dport=67) / BOOTP(chaddr=client)
        rogue.send(Ether(src=ROGUE_MAC, dst=FAR_MAC) / ask)
        trace.says(r".*; refused: in the name of the uplink's MAC")
        rogue.send(bytes(claim(ROGUE4, ROGUE_MAC))[:30])
        refused("ARP, cut short", "malformed")
        rogue.send(bytes(Ether(src=ROGUE_MAC, dst=FAR_MAC, type=0x888E)) + bytes(46))
        refused(f"EAPOL {ROGUE_MAC} > {FAR_MAC}", "it speaks for the link itself")
        for number in range(17):
            rogue.claim(f"198.51.100.{number}")
        trace.says(r".* \| learned 198.51.100.16; forgot 198.51.100.0: too many addresses; .*")
        question = ARP(psrc="192.0.2.9", hwdst=NEAR_MAC, pdst="192.0.2.99")
        with lan.frames() as frames:
            stray = IP(src="192.0.2.9", dst="192.0.2.99") / ICMP()
            for packet in (stray, question):
                frames.send(bytes(Ether(src=FAR_MAC, dst=NEAR_MAC) / packet))
        nobody = "no guest has that address: to the host"
        trace.told("LAN -> host", "ICMP echo request 192.0.2.9 > 192.0.2.99", nobody)
        to_all = f"destination MAC {NEAR_MAC} -> {BROADCAST}", "to all guests"
        trace.told("LAN -> guest", "ARP who-has 192.0.2.99 tell 192.0.2.9", *to_all)


@BOTH_KINDS
def test_between_siblings(lan: Lan, airtapd: Airtapd, device_kind: str) -> None:
    with (
        pump(airtapd, GUEST_MAC, GUEST4) as guest,
        pump(airtapd, SIBLING_MAC, SIBLING4, name="sibling") as sibling,
        tracing(airtapd, GUEST_MAC) as trace,
    ):
        assert sibling.ping(GUEST4)
        what = f"ICMP echo reply {GUEST4} > {SIBLING4}"
        if device_kind == "macvtap":
            unseen = "did not come by the uplink: to a sibling, if to anybody"
            trace.told("guest -> sibling", what, unseen)
        else:
            new = f"destination MAC {NEAR_MAC} -> {SIBLING_MAC}", "handed to the sibling"
            trace.told("guest -> sibling", what, SENT, *new)
        assert guest.addresses() == [GUEST4]


def test_pcap(lan: Lan, airtapd: Airtapd, tmp_path: Path) -> None:
    """Before and after, for scapy as for Wireshark; what is refused is only in before."""
    file = tmp_path / "trace.pcapng"
    guards = f"refused: {ROUTER4} is {RESERVED}"
    with (
        raw_guest(airtapd) as rogue,
        lan.frames() as frames,
        tracing(airtapd, rogue.device, "--pcap", str(file)) as trace,
    ):
        trace.says(f"airtap: writing the first 384 bytes of each frame to {file}")
        rogue.claim(ROGUE4)
        rogue.claim(ROUTER4)
        pings = IP(src=ROGUE4, dst=ROUTER4) / ICMP(), IP(src=ROUTER4, dst=ROGUE4) / ICMP()
        rogue.send(Ether(src=ROGUE_MAC, dst=FAR_MAC) / Dot1Q(vlan=5) / pings[0] / bytes(1000))
        trace.says(rf".*VLAN 5: ICMP echo request {ROGUE4} > {ROUTER4} .*")
        frames.send(bytes(Ether(src=FAR_MAC, dst=NEAR_MAC) / pings[1]))
        trace.says(rf".*ICMP echo request {ROUTER4} > {ROGUE4} .*delivered to the guest")
        assert trace.end() == 0
    with RawPcapNgReader(str(file)) as reader:
        read: list[tuple[bytes, Any]] = list(reader)
    found = [(Ether(frame), about) for frame, about in read if concerns_rogue(Ether(frame))]
    assert [(frame.src, frame.dst, about.ifname) for frame, about in found] == [
        (ROGUE_MAC, BROADCAST, b"before"),
        (NEAR_MAC, BROADCAST, b"after"),
        (ROGUE_MAC, BROADCAST, b"before"),  # refused
        (ROGUE_MAC, FAR_MAC, b"before"),
        (NEAR_MAC, FAR_MAC, b"after"),
        (FAR_MAC, NEAR_MAC, b"before"),
        (FAR_MAC, ROGUE_MAC, b"after"),
    ]
    assert [frame[ARP].hwsrc for frame, _ in found[:3]] == [ROGUE_MAC, NEAR_MAC, ROGUE_MAC]
    assert found[2][1].comments == [guards.encode()]
    tagged, about = found[4]
    assert (tagged[Dot1Q].vlan, len(tagged), about.wirelen) == (5, 384, 1046)
    seconds = (about.tshigh << 32 | about.tslow) / about.tsresol
    assert abs(seconds - time.time()) < 600


def concerns_rogue(frame: Packet) -> bool:
    """Not what the LAN says by itself meanwhile."""
    addresses = {ROGUE4, ROUTER4}
    if ARP in frame:
        return frame[ARP].psrc in addresses and frame.dst == BROADCAST
    return IP in frame and {frame[IP].src, frame[IP].dst} == addresses


def test_count(lan: Lan, airtapd: Airtapd) -> None:
    with raw_guest(airtapd) as rogue, tracing(airtapd, rogue.mac, "--count=3") as trace:
        rogue.send(claim(ROGUE4, ROGUE_MAC), 10)
        assert trace.process.wait(20) == 0
        trace.thread.join()
        assert sum(" | " in line for line in trace.lines) == 3


def test_who_may_trace_whom(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near, GUEST_MAC, uid=OWNER) as tap:

        def complaint(guest: str, uid: int) -> str:
            done = airtapd.airtap("trace", guest, uid=uid, check=False)
            assert (done.returncode, done.stdout) == (1, "")
            return done.stderr

        with tracing(airtapd, tap.device, uid=OWNER), tracing(airtapd, GUEST_MAC.upper()):
            assert "was not made for user 10002" in complaint(tap.device, NEIGHBOUR)
            assert "there is no guest" in complaint(GUEST_MAC, NEIGHBOUR)
            assert "'\\x1b[2J'" in complaint("\x1b[2J", NEIGHBOUR)
        assert "there is no guest" in complaint("up0", 0)
        assert ask(airtapd, {"op": "trace"})["problem"] == "bad-message"
        assert ask(airtapd, {"op": "trace", "guest": "a", "x": 1})["problem"] == "bad-message"


def ask(airtapd: Airtapd, request: dict[str, object]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(airtapd.socket)
        client.send(json.dumps(request).encode())
        answer: dict[str, Any] = json.loads(client.recv(1 << 14))
        return answer


def test_the_uplinks_mac_changes(lan: Lan, airtapd: Airtapd) -> None:
    new = "02:00:5e:00:53:77"
    with pump(airtapd, GUEST_MAC, GUEST4) as guest, tracing(airtapd, GUEST_MAC) as trace:
        lan.change_near_mac(new)
        assert guest.ping(HOST4, count=3, timeout=5)
        trace.told("host -> guest", f"ICMP echo reply {HOST4} > {GUEST4}", DELIVERED)
        assert guest.ping(ROUTER4, timeout=5)
        sent = f"source MAC {GUEST_MAC} -> {new}"
        trace.told("guest -> LAN", f"ICMP echo request {GUEST4} > {ROUTER4}", sent)


def test_names_of_guests(lan: Lan, airtapd: Airtapd) -> None:
    uuid = "5b8c1a3e-0000-4000-8000-000000000001"
    with airtapd.attach(lan.near, GUEST_MAC) as first, airtapd.attach(lan.near) as second:
        for tap in (first, second):
            alias = f"airtap uid=0 pid=0 uuid={uuid} domain=web%20server"
            sandbox.command("ip", "link", "set", tap.device, "alias", alias)
        refused = airtapd.airtap("trace", "web server", check=False).stderr
        assert f"web server has several devices: {first.device}, {second.device}" in refused
        airtapd.airtap("release", second.device)
        for name in ("web server", uuid, GUEST_MAC, first.device):
            with tracing(airtapd, name) as trace:
                assert trace.lines[0].startswith(f"{first.device} ({GUEST_MAC})")


@BOTH_KINDS
def test_a_mac_that_is_learned_meanwhile(lan: Lan, airtapd: Airtapd, device_kind: str) -> None:
    with airtapd.attach("up0") as tap, tracing(airtapd, tap.device) as trace:
        assert "(its MAC is not known yet)" in trace.lines[0]
        guest = RawGuest(tap, GUEST_MAC)
        guest.claim(GUEST4)
        wait_for(lambda: airtapd.guests()[0]["mac"] == GUEST_MAC, 20, "the MAC")
        announced = f"ARP announcement: {GUEST4} is-at {GUEST_MAC}"
        if device_kind == "ipvtap":
            done = f"the guest's MAC is {GUEST_MAC}", f"learned {GUEST4}", SENT, REWRITTEN
            trace.told("guest -> LAN", announced, *done)
            return

        def told() -> bool:
            guest.send(claim(GUEST4, GUEST_MAC))
            return any(announced in line and REWRITTEN in line for line in trace.lines)

        wait_for(told, 10, "it to be followed")


def test_what_is_nobodys_is_for_root(lan: Lan, airtapd: Airtapd) -> None:
    """A user sees what is for the own guest and for all, and not what is the host's or nobody's."""
    with (
        raw_guest(airtapd) as guest,
        tracing(airtapd, guest.device, uid=OWNER) as trace,
        lan.frames() as frames,
    ):
        for address in ("192.0.2.99", HOST4):
            frames.send(bytes(Ether(src=FAR_MAC, dst=NEAR_MAC) / IP(dst=address) / ICMP()))
        lan.ping(HOST6)
        frames.send(bytes(claim("192.0.2.9", FAR_MAC)))
        trace.told("LAN -> guest", f"ARP announcement: 192.0.2.9 is-at {FAR_MAC}", "to all guests")
        others = ("192.0.2.99", f"> {HOST4}", f"> {HOST6}")
        assert not [line for line in trace.lines if any(address in line for address in others)]


def test_what_the_host_sends_to_the_routers_mac(lan: Lan, airtapd: Airtapd) -> None:
    """A guest may bear it. Its owner sees nothing that goes to the LAN; root sees that it does."""
    with airtapd.attach(lan.near, FAR_MAC, uid=OWNER) as tap, lan.frames() as frames:
        wait_for(lambda: airtapd.status()["uplinks"][0]["host_access"], 20, "host access")
        with tracing(airtapd, tap.device, uid=OWNER) as trace, tracing(airtapd, tap.device) as root:
            sandbox.command("ping", "-n", "-c1", "-w20", ROUTER4)
            past = f"not for an address that {tap.device} has on this link: to the LAN"
            root.told("host -> guest", f"ICMP echo request {HOST4} > {ROUTER4}", past)
            frames.send(bytes(claim("192.0.2.9", "02:00:5e:00:53:09")))
            trace.says(".*ARP announcement: 192.0.2.9 .*")
            assert not [line for line in trace.lines if f"> {ROUTER4}" in line]


def test_the_end_of_all(lan: Lan, airtapd: Airtapd) -> None:
    """Of the guest, of airtapd, and of airtapd without a word."""
    with raw_guest(airtapd) as guest, tracing(airtapd, guest.device) as trace:
        assert generation() != 0
        airtapd.airtap("release", guest.device)
        assert trace.process.wait(20) == 0
        trace.says(f"airtap: {guest.device} is gone")
    with raw_guest(airtapd) as guest:
        with tracing(airtapd, guest.device) as trace:
            assert airtapd.stop() == 0
            assert trace.process.wait(20) == 1
            trace.says("airtap: airtapd ends, and the trace with it; start it again")
        assert generation() == 0
        airtapd.start()
        with tracing(airtapd, guest.device) as trace:
            airtapd.kill()
            assert trace.process.wait(20) == 1
            trace.says("airtap: airtapd is gone, and the trace with it; start it again")
        assert generation() != 0
        airtapd.start()
        assert generation() == 0
        with tracing(airtapd, guest.device) as trace:
            guest.claim(ROGUE4)
            trace.says(f".*ARP announcement: {ROGUE4} .*")


def test_floods_are_lost_and_harm_nobody(lan: Lan, device_kind: str) -> None:
    """A guest that floods, a client that reads and says what was lost, and one that does not read.

    However long that is, its trace goes on, and it is told what it lost: this airtapd has patience
    with others for a second, and not for ten.
    """
    config = f'{MACNAT_ON}kind = "{device_kind}"\n'
    with Airtapd(config=config, constants=IMPATIENT) as airtapd:
        floods(lan, airtapd)


def floods(lan: Lan, airtapd: Airtapd) -> None:
    before = resident(airtapd)
    with (
        airtapd.attach(lan.near, SIBLING_MAC),  # for whom the programs stay
        raw_guest(airtapd) as guest,
        tracing(airtapd, guest.device) as trace,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf,
    ):
        deaf.connect(airtapd.socket)
        deaf.send(json.dumps({"op": "trace", "guest": guest.device}).encode())
        frame = bytes(Ether(src=ROGUE_MAC, dst=FAR_MAC) / IP(src=ROGUE4, dst=ROUTER4) / ICMP())
        until = time.monotonic() + 3
        while time.monotonic() < until:
            guest.send(frame, 5000)
            assert airtapd.guests()
        trace.says(r"\d+ events lost")
        assert resident(airtapd) - before < 20 * MIB
        assert trace.end() == 0
        deaf.settimeout(20)
        while json.loads(deaf.recv(1 << 16)).get("lost", 0) == 0:
            pass
        while json.loads(deaf.recv(1 << 16))["events"]:
            pass
        for _ in range(10):
            guest.send(frame, 1000)
            assert airtapd.guests()
        airtapd.airtap("release", guest.device)
        wait_for(lambda: generation() == 0, 20, "the deaf client's guest to be traced no more")
        while "ended" not in (message := json.loads(deaf.recv(1 << 16))):
            pass
        assert message == {"ended": "guest-gone"}


def test_the_trace_of_who_hangs_up_unread_ends(lan: Lan, airtapd: Airtapd) -> None:
    with (
        raw_guest(airtapd) as guest,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf,
    ):
        deaf.connect(airtapd.socket)
        deaf.send(json.dumps({"op": "trace", "guest": guest.device}).encode())
        wait_for(lambda: generation() != 0, 20, "the trace to begin")
        for _ in range(10):
            guest.send(bytes(claim(ROGUE4, ROGUE_MAC)), 1000)
            assert airtapd.guests()
        deaf.close()
        wait_for(lambda: generation() == 0, 20, "the trace of the deaf client to end")
    assert lan.ping(HOST4, timeout=5)


def resident(airtapd: Airtapd) -> int:
    """Bytes of memory."""
    status = Path(f"/proc/{airtapd.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


def test_traces_are_counted(lan: Lan, airtapd: Airtapd) -> None:
    """A user has a few at a time, root as many as connections."""
    with airtapd.attach(lan.near, GUEST_MAC, uid=OWNER) as tap:
        request = json.dumps({"op": "trace", "guest": tap.device}).encode()
        program = (
            "import json,socket,sys\n"
            "def ask():\n"
            "    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            f"    s.connect({airtapd.socket!r}); s.send({request!r})\n"
            "    return s, json.loads(s.recv(9999))\n"
            "kept = [ask() for _ in range(5)]\n"
            "print([answer.get('problem') for _, answer in kept])"
        )
        asked = subprocess.run(
            ["python3", "-c", program], user=OWNER, group=OWNER, capture_output=True, text=True
        )
        assert asked.stdout == "[None, None, None, None, 'too-many-traces']\n", asked.stderr


def test_without_macnat() -> None:
    """With host access only what the guest and the host say is seen; with neither, nothing."""
    with Lan() as lan:
        with Airtapd() as airtapd, pump(airtapd, GUEST_MAC, GUEST4) as guest:
            assert lan.ping(GUEST4)
            device = airtapd.guests()[0]["device"]
            wait_for(lambda: airtapd.status()["uplinks"][0]["host_access"], 20, "host access")
            with tracing(airtapd, device) as trace:
                trace.says("MAC NAT is off: what the LAN sends to the guest is not shown")
                assert guest.ping(HOST4)
                what = f"ICMP echo request {GUEST4} > {HOST4}"
                trace.told("guest -> host", what, "handed to the host")
                assert guest.ping(ROUTER4)
                what = f"ICMP echo request {GUEST4} > {ROUTER4}"
                trace.told("guest -> LAN", what, "passes unchanged")
        config = "[parents.up0]\nhost_access = false\n"
        with Airtapd(config=config) as airtapd, airtapd.attach("up0", GUEST_MAC) as tap:
            done = airtapd.airtap("trace", tap.device, check=False)
            assert done.returncode == 1
            assert f"neither MAC NAT nor host access is on for {tap.device};" in done.stderr


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_wrong_counts(count: str) -> None:
    argv = [str(BIN / "airtap"), "trace", "airtap0", f"--count={count}"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 2
    assert "argument --count: must be a whole number above 0" in done.stderr


def test_a_hostile_name(lan: Lan, airtapd: Airtapd) -> None:
    """A device's name can hold what steers a terminal."""
    name = "\x1b[2J"
    with airtapd.attach(lan.near, GUEST_MAC) as tap:
        sandbox.command("ip", "link", "set", tap.device, "down")
        sandbox.command("ip", "link", "set", tap.device, "name", name)
        sandbox.command("ip", "link", "set", name, "up")
        with tracing(airtapd, GUEST_MAC) as trace:
            assert trace.lines[0].startswith(f"'\\x1b[2J' ({GUEST_MAC})")
            airtapd.airtap("release", name)
            trace.says(r"airtap: '\\x1b\[2J' is gone")

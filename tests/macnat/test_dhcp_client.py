"""Real DHCP clients of the host's: the LAN configures them, and no guest does."""

import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import FAR_MAC, NEAR_MAC, ROUTER4, Lan, wait_for
from lab.one_mac import MACNAT_ON
from lab.sandbox import children, dying_with_us
from lab.traffic import BROADCAST, ROGUE4, ROGUE_MAC, SIBLING_MAC, RawGuest, known, raw_guest

LEASED = "192.0.2.222"
OPT_IN = f'gateway = "{ROGUE_MAC}"\n'
# They hear their server on a packet socket, and give what they got to a script that only notes it.
CLIENTS = {
    "dhclient": "dhclient -4 -1 -d -cf {0}/conf -lf {0}/leases -pf {0}/pid -sf {0}/script up0",
    "udhcpc": "busybox udhcpc -f -q -n -t 3 -T 1 -i up0 -s {0}/script",
}
SCRIPT = '#!/bin/sh\necho "$ip $new_ip_address" >>{0}/told\n'


class Server:
    """Answers DHCP requests of the host's, from a port of its choice.

    read gives frames as long as there are some, send sends one.
    """

    def __init__(
        self, mac: str, address: str, read: Callable[[], bytes], send: Callable[[bytes], object]
    ) -> None:
        self.answers = 0
        self._mac, self._address = mac, address
        self._read, self._send = read, send
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._ended.is_set():
            frame = Ether(self._read())
            if DHCP in frame and frame[BOOTP].op == 1:
                self._answer(frame)

    def _answer(self, asked: Ether) -> None:
        words: dict[str, object] = dict(
            option for option in asked[DHCP].options if isinstance(option, tuple)
        )
        options = [
            ("message-type", "offer" if words["message-type"] == 1 else "ack"),
            ("server_id", self._address),
            ("lease_time", 600),
            ("subnet_mask", "255.255.255.0"),
            ("router", self._address),
            "end",
        ]
        request = asked[BOOTP]
        reply = BOOTP(op=2, xid=request.xid, yiaddr=LEASED, chaddr=request.chaddr)
        udp = UDP(sport=1067, dport=68) / reply / DHCP(options=options)
        for to in (BROADCAST, NEAR_MAC):
            packet = IP(src=self._address, dst="255.255.255.255") / udp
            self._send(raw(Ether(src=self._mac, dst=to) / packet))
        self.answers += 1


@contextmanager
def at_guest(guest: RawGuest) -> Iterator[Server]:
    with Server(guest.mac, ROGUE4, lambda: _read(guest.fd, 10), guest.send) as server:
        yield server


@contextmanager
def on_lan(frames: socket.socket) -> Iterator[Server]:
    with Server(FAR_MAC, ROUTER4, lambda: _read(frames.fileno(), 0), frames.send) as server:
        yield server


def _read(descriptor: int, header: int) -> bytes:
    """A frame without what the tap puts before it; an empty one if there is none for a while."""
    ready = select.select([descriptor], [], [], 0.1)[0]
    return os.read(descriptor, 1 << 16)[header:] if ready else bytes(14)


def told(client: str, directory: Path) -> str:
    """What a client has been told by whom it believed."""
    (directory / "conf").write_text("timeout 4; initial-interval 1; backoff-cutoff 1;\n")
    (directory / "script").write_text(SCRIPT.format(directory))
    (directory / "script").chmod(0o755)
    noted = directory / "told"
    for path in (noted, directory / "leases"):
        path.write_text("")
    before = children()
    argv = CLIENTS[client].format(directory).split()
    process = subprocess.Popen(
        dying_with_us(argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: LEASED in noted.read_text() or process.poll() is not None, 30, client)
    finally:
        process.kill()  # it would see to its lease until that ends
        process.wait()
        for orphan in children() - before:  # its script
            os.waitpid(orphan, 0)
    return noted.read_text()


@BOTH_KINDS
@pytest.mark.parametrize("client", CLIENTS)
def test_no_guest_configures_a_client(
    lan: Lan, airtapd: Airtapd, client: str, tmp_path: Path
) -> None:
    deceive(lan, airtapd, client, tmp_path)


@pytest.mark.parametrize("client", CLIENTS)
def test_nor_without_mac_nat(client: str, tmp_path: Path) -> None:
    with Lan() as lan, Airtapd() as airtapd:
        deceive(lan, airtapd, client, tmp_path)


@BOTH_KINDS
@pytest.mark.parametrize("client", CLIENTS)
def test_the_guest_that_is_the_hosts_gateway_does(
    lan: Lan, device_kind: str, client: str, tmp_path: Path
) -> None:
    with Airtapd(config=f'{MACNAT_ON}kind = "{device_kind}"\n{OPT_IN}') as airtapd:
        configured(lan, airtapd, client, tmp_path)


@pytest.mark.parametrize("client", CLIENTS)
def test_and_so_it_does_without_mac_nat(client: str, tmp_path: Path) -> None:
    with Lan() as lan, Airtapd(config=f"[parents.up0]\n{OPT_IN}") as airtapd:
        configured(lan, airtapd, client, tmp_path)


@BOTH_KINDS
def test_no_guest_has_a_clients_offer(lan: Lan, airtapd: Airtapd, tmp_path: Path) -> None:
    """It spoke from the host's former address while the host had none.

    udhcpc hears on a packet socket of IPv4's, behind where MAC NAT finds whose a packet is.
    """
    *_, former = told("udhcpc", tmp_path).split()
    with raw_guest(airtapd) as guest:
        guest.claim(former)
        wait_for(lambda: former in known(airtapd, guest.mac), 5, "its address")
        assert former in told("udhcpc", tmp_path).split()


def configured(lan: Lan, airtapd: Airtapd, client: str, tmp_path: Path) -> None:
    """One guest may be the host's DHCP server, and another still may not."""
    quieten(lan)
    with raw_guest(airtapd, SIBLING_MAC) as other, raw_guest(airtapd) as guest:
        wait_for(lambda: airtapd.status()["uplinks"][0]["host_access"], 5, "host access")
        with at_guest(other) as rogue:
            assert LEASED not in told(client, tmp_path)
            assert rogue.answers
        with at_guest(guest):
            assert LEASED in told(client, tmp_path)


def quieten(lan: Lan) -> None:
    """The LAN's own server hears nobody."""
    lan.run("nft", "add table inet quiet")
    lan.run("nft", "add chain inet quiet in { type filter hook input priority 0; }")
    lan.run("nft", "add rule inet quiet in udp dport 67 drop")


def deceive(lan: Lan, airtapd: Airtapd, client: str, tmp_path: Path) -> None:
    quieten(lan)
    with raw_guest(airtapd) as guest:
        wait_for(lambda: airtapd.status()["uplinks"][0]["host_access"], 5, "host access")
        with at_guest(guest) as rogue:
            assert LEASED not in told(client, tmp_path)
            assert rogue.answers
        with lan.frames() as frames, on_lan(frames):
            assert LEASED in told(client, tmp_path)

"""The LAN behind the host's uplink: a veth pair whose far end is router, DHCP and TFTP server.

    sandbox (the host)                      network namespace "lan"
    up0  192.0.2.10, 2001:db8::10  <---->  lan0  192.0.2.1, 2001:db8::1   dnsmasq

On the one-MAC wire the far end does what a Wi-Fi access point does to a station: frames with any
source MAC but the near end's are dropped, and so are unicast frames to any other MAC. Frames with
a MAC that was the near end's until change_near_mac() are dropped too, and counted apart.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lab import sandbox
from lab.running import Running
from lab.sandbox import command, host_links

__all__ = ["BOOT_FILE", "BOOT_SCRIPT", "Lan", "host_links", "slaac_address", "wait_for"]

NEAR_MAC = "02:00:5e:00:53:10"
FAR_MAC = "02:00:5e:00:53:01"
PREFIX6 = ipaddress.IPv6Network("2001:db8::/64")

BOOT_FILE = "boot.ipxe"
# iPXE answers ARP, ND and ping only while it waits for something: sleep is such a wait. Ctrl-C
# ends it early, and then the guest runs a script of its own, if there is one (QemuGuest.run()).
BOOT_SCRIPT = """#!ipxe
echo AIRTAP-GUEST ${net0/mac} ${net0/ip} booted
:stay
sleep 3600 || chain --autofree ${net0/mac:hexhyp}.ipxe ||
goto stay
"""

_ONE_MAC = """
table netdev wire {{
    counter foreign {{ }}
    counter outdated {{ }}
    counter withheld {{ }}
    set station {{ type ether_addr; elements = {{ {mac} }} }}
    set former {{ type ether_addr; }}
    chain in {{
        type filter hook ingress device "{far}" priority 0;
        ether saddr @former counter name outdated drop
        ether saddr != @station counter name foreign drop
    }}
    chain out {{
        type filter hook egress device "{far}" priority 0;
        ether daddr & 01:00:00:00:00:00 == 0 ether daddr != @station counter name withheld drop
    }}
}}
"""

T = TypeVar("T")

# How much longer than elsewhere things may take here: an emulated machine sets it.
SLOWNESS = float(os.environ.get("AIRTAP_LAB_SLOWNESS", "1"))


def wait_for(predicate: Callable[[], T], timeout: float, what: str, *, interval: float = 0.05) -> T:
    """Call predicate until it returns something true, and return that.

    timeout and interval are seconds, the timeout on a machine of usual speed. Raises TimeoutError
    naming what was waited for.
    """
    timeout *= SLOWNESS
    deadline = time.monotonic() + timeout
    while True:
        if result := predicate():
            return result
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(interval)


@dataclass(frozen=True)
class Subnet:
    """The addresses of a LAN: 1 is the router, 10 the host, and 100 to 199 are leased.

    Both are prefixes to put a number behind. ipv4: of a /24, with its last dot. ipv6: of a
    /64, with its last colons.
    """

    ipv4: str = "192.0.2."
    ipv6: str = "2001:db8::"

    @property
    def router(self) -> tuple[str, str]:
        """The router's addresses: IPv4, IPv6."""
        return f"{self.ipv4}1", f"{self.ipv6}1"

    @property
    def host(self) -> tuple[str, str]:
        """The host's addresses: IPv4, IPv6."""
        return f"{self.ipv4}10", f"{self.ipv6}10"


LAB = Subnet()
ROUTER4, ROUTER6 = LAB.router
HOST4, HOST6 = LAB.host


def slaac_address(mac: str) -> str:
    """Return the IPv6 address that a guest with this MAC forms on the LAN (RFC 4291, EUI-64)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 0x02
    identifier = bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])
    return str(ipaddress.IPv6Address(PREFIX6.network_address.packed[:8] + identifier))


class Lan(Running):
    """A LAN that exists between __enter__ and __exit__, or start() and close()."""

    def __init__(
        self,
        *,
        near: str = "up0",
        far: str = "lan0",
        namespace: str = "lan",
        bridge: str | None = None,
        one_mac: bool = False,
        near_mac: str = NEAR_MAC,
        host: bool = True,
        subnet: Subnet = LAB,
    ) -> None:
        """Describe the LAN; nothing exists before start().

        near: the host's uplink. bridge: name of a Linux bridge that has `near` as its port and
        carries the host's addresses. one_mac: enforce the one-MAC rule at the far end.
        near_mac: of `near`. host: the host has addresses and routes here; without them, a
        second LAN can stand beside the first. subnet: the LAN's addresses.
        """
        self.near = near
        self.far = far
        self.namespace = namespace
        self.bridge = bridge
        self.one_mac = one_mac
        self.near_mac = near_mac
        self.host = host
        self.subnet = subnet
        self.far_mac = FAR_MAC
        self._directory = Path()
        self._server: subprocess.Popen[bytes] | None = None
        self._undo = contextlib.ExitStack()

    @property
    def uplink(self) -> str:
        """The link that carries the host's addresses: the bridge, if there is one."""
        return self.bridge or self.near

    @property
    def tftp_root(self) -> Path:
        """The directory whose files guests can fetch over TFTP."""
        return self._directory / "tftp"

    def start(self) -> None:
        """Make links, rules and servers; a failure on the way undoes what was made."""
        sandbox.require()
        with contextlib.ExitStack() as undo:
            self._make_directory(undo)
            self._make_wire(undo)
            self._make_host_side(undo)
            if self.one_mac:
                self._enforce_one_mac()
            undo.callback(self._end_server)
            self._serve()
            self._undo = undo.pop_all()

    def close(self) -> None:
        """End the servers and remove the links; closing twice is fine."""
        self._undo.close()

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command at the far end; stdout and stderr are captured as text."""
        return subprocess.run(
            [*sandbox.netns_exec_prefix(self.namespace), *argv],
            check=check,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )

    def ping(self, address: str, count: int = 1, timeout: float = 1.0) -> bool:
        """Tell whether the address answers the far end, so many times within timeout seconds.

        Asked ten times a second: a packet that got lost on its way is no answer either way.
        """
        deadline = str(math.ceil(timeout * SLOWNESS))
        argv = ["ping", "-n", "-q", "-i", "0.1", "-c", str(count), "-w", deadline, address]
        return self.run(*argv, check=False).returncode == 0

    def leases(self) -> dict[str, str]:
        """Return the DHCPv4 leases: MAC to address."""
        rows = (line.split() for line in self._read("leases").splitlines())
        return {row[1]: row[2] for row in rows if len(row) == 5 and "." in row[2]}

    def wait_lease(self, mac: str, timeout: float = 30.0) -> str:
        """Return the address leased to this MAC, waiting up to timeout seconds for it."""
        return wait_for(lambda: self.leases().get(mac.lower()), timeout, f"a lease for {mac}") or ""

    def log(self) -> str:
        """Return what dnsmasq has logged so far."""
        return self._read("log")

    def fetched(self, address: str, file: str = BOOT_FILE) -> bool:
        """Tell whether the guest at this address has got the whole file over TFTP."""
        sent = rf"sent \S*/{re.escape(file)} to {re.escape(address)}$"
        return re.search(sent, self.log(), re.MULTILINE) is not None

    def foreign_frames(self) -> int:
        """Return how many frames the one-MAC wire dropped for their source MAC."""
        return self._counter("foreign")

    def withheld_frames(self) -> int:
        """Return how many of the far end's own unicast frames had a MAC the wire won't carry."""
        return self._counter("withheld")

    def outdated_frames(self) -> int:
        """Return how many frames had a source MAC that was the near end's own before."""
        return self._counter("outdated")

    def change_near_mac(self, mac: str) -> None:
        """Change the MAC of the running near end, and the one that the one-MAC wire takes."""
        rules = f"""
            add element netdev wire former {{ {self.near_mac} }}
            flush set netdev wire station
            add element netdev wire station {{ {mac} }}
        """
        prefix = sandbox.netns_exec_prefix(self.namespace)
        if self.one_mac:
            command(*prefix, "nft", rules)
        command("ip", "link", "set", self.near, "address", mac)
        self.near_mac = mac

    def resettle(self, subnet: Subnet, far_mac: str | None = None) -> None:
        """The cable goes into a socket of another network: carrier is lost, then all is new there.

        The host has its addresses of that network at once. far_mac: of its router, None for the
        same.
        """
        self._plug("down")
        if far_mac:
            self._far("link", "set", self.far, "address", far_mac)
            self.far_mac = far_mac
        self._end_server()
        self._far("address", "flush", "dev", self.far, "scope", "global")
        command("ip", "address", "flush", "dev", self.uplink, "scope", "global")
        command("ip", "-6", "route", "flush", "default", "dev", self.uplink)
        self.subnet = subnet
        self._make_router()
        self._serve()
        make_host(self.uplink, subnet)

    def serve_from_host(self) -> None:
        """From now on the host is the LAN's DHCP server, and nobody else is."""
        self._end_server()
        self._serve(on_host=True)

    def serve_by_mac(self) -> None:
        """From now on the server leases the host's address to the uplink's MAC, whoever asks."""
        self._end_server()
        self._serve(f"--dhcp-host={self.near_mac},id:*,{self.subnet.ipv4}10")

    def frames(self) -> socket.socket:
        """Open a packet socket at the far end: for what arrives there, and to send from there.

        It sees frames before the one-MAC rule drops them. The caller closes it.
        """
        return sandbox.packet_socket(self.namespace, self.far)

    def _counter(self, name: str) -> int:
        listing = self.run("nft", "-j", "list", "counter", "netdev", "wire", name).stdout
        found = [row["counter"] for row in json.loads(listing)["nftables"] if "counter" in row]
        return int(found[0]["packets"])

    def _read(self, name: str) -> str:
        path = self._directory / name
        return path.read_text() if path.exists() else ""

    def _make_directory(self, undo: contextlib.ExitStack) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="lan-", dir="/run"))
        undo.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self.tftp_root.mkdir()
        (self.tftp_root / BOOT_FILE).write_text(BOOT_SCRIPT)

    def _make_wire(self, undo: contextlib.ExitStack) -> None:
        self._make_namespace(undo)
        command(
            *("ip", "link", "add", self.near, "address", self.near_mac, "type", "veth"),
            *("peer", "name", self.far, "address", self.far_mac, "netns", self.namespace),
        )
        # By name and first: a namespace is torn down later, by a kernel worker.
        undo.callback(_delete_link, self.near)
        no_router_advertisements(self.near)
        ready_at_once(self.near)
        self._make_router()

    def _make_namespace(self, undo: contextlib.ExitStack) -> None:
        command("ip", "netns", "add", self.namespace)
        undo.callback(command, "ip", "netns", "del", self.namespace)
        self._far("link", "set", "lo", "up")

    def _make_router(self) -> None:
        ipv4, ipv6 = self.subnet.router
        with sandbox.inside(self.namespace):
            ready_at_once(self.far)
            ask_often(self.far)
        self._plug("up")
        self._far("address", "add", f"{ipv4}/24", "dev", self.far)
        self._far("address", "add", f"{ipv6}/64", "dev", self.far, "nodad")
        # Else its neighbour advertisements say that it is no router, and guests drop their route.
        self.run("sh", "-c", f"echo 1 >/proc/sys/net/ipv6/conf/{self.far}/forwarding")

    def _make_host_side(self, undo: contextlib.ExitStack) -> None:
        if self.bridge:
            # No MAC of its own: it takes its lowest port's, and a tap that joins can change that.
            command("ip", "link", "add", self.bridge, "type", "bridge")
            undo.callback(_delete_link, self.bridge)
            command("ip", "link", "set", self.near, "master", self.bridge)
            no_router_advertisements(self.bridge)
            ready_at_once(self.bridge)
        command("ip", "link", "set", self.near, "up")
        command("ip", "link", "set", self.uplink, "up")
        if self.host:
            make_host(self.uplink, self.subnet)

    def _plug(self, state: str) -> None:
        """Have the near end see the cable "up" or "down"."""
        self._far("link", "set", self.far, state)

    def _far(self, *words: str) -> None:
        command("ip", "-n", self.namespace, *words)

    def _enforce_one_mac(self) -> None:
        rules = self._directory / "one-mac.nft"
        rules.write_text(_ONE_MAC.format(far=self.far, mac=self.near_mac))
        prefix = sandbox.netns_exec_prefix(self.namespace)
        command(*prefix, "nft", "-f", str(rules))

    def _serve(self, *options: str, on_host: bool = False) -> None:
        """Serve anew, at the far end or at the host's. options: more of dnsmasq's."""
        prefix = [] if on_host else sandbox.netns_exec_prefix(self.namespace)
        link = self.uplink if on_host else self.far
        for name in ("log", "leases"):
            (self._directory / name).unlink(missing_ok=True)
        complaints = self._directory / "dnsmasq.stderr"
        with complaints.open("wb") as stderr:
            server = subprocess.Popen(
                sandbox.dying_with_us([*prefix, *self._dnsmasq(link), *options]),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
        self._server = server

        def ready() -> bool:
            if server.poll() is not None:
                raise RuntimeError(f"dnsmasq: exit {server.returncode}: {complaints.read_text()}")
            return "TFTP root is" in self.log()

        wait_for(ready, 10.0, "dnsmasq to serve")

    def _end_server(self) -> None:
        server, self._server = self._server, None
        if server:
            end_process(server)

    def _dnsmasq(self, link: str) -> list[str]:
        ipv4, ipv6 = self.subnet.ipv4, self.subnet.ipv6
        return [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="),
            *("--user=root", "--group=root", "--port=0", f"--interface={link}"),
            "--bind-interfaces",
            *(f"--dhcp-range={ipv4}100,{ipv4}199,255.255.255.0,10m", "--dhcp-authoritative"),
            "--no-ping",  # else each OFFER waits 3 s for an echo
            f"--dhcp-leasefile={self._directory / 'leases'}",
            f"--dhcp-boot={BOOT_FILE}",
            # ipxe.no-pxedhcp: there is no second server to wait two seconds for.
            "--dhcp-option=encap:175,176,1b",
            *("--enable-tftp", f"--tftp-root={self.tftp_root}"),
            *("--enable-ra", f"--dhcp-range={ipv6},ra-only,64,10m"),
            f"--log-facility={self._directory / 'log'}",
        ]


def second_lan(*, one_mac: bool = False) -> Lan:
    """Describe a LAN beside the first, behind up1, by which nothing of the host's own goes."""
    return Lan(
        near="up1",
        far="lan1",
        namespace="lan1",
        near_mac="02:00:5e:00:53:11",
        one_mac=one_mac,
        host=False,
        subnet=Subnet("198.51.100.", "2001:db8:1::"),
    )


def make_host(link: str, subnet: Subnet) -> None:
    """Give a link the host's addresses in a subnet, and route by it what goes elsewhere."""
    for family, length, address, router in zip(
        ("-4", "-6"), (24, 64), subnet.host, subnet.router, strict=True
    ):
        nodad = ["nodad"] if family == "-6" else []
        command("ip", "address", "add", f"{address}/{length}", "dev", link, *nodad)
        command("ip", family, "route", "add", "default", "via", router, "dev", link)


def no_router_advertisements(link: str) -> None:
    """Keep the host's IPv6 addresses to the one that tests know; guests autoconfigure."""
    Path(f"/proc/sys/net/ipv6/conf/{link}/accept_ra").write_text("0")


def ready_at_once(link: str) -> None:
    """Have host or router use a link's own address without a second's look for a duplicate."""
    Path(f"/proc/sys/net/ipv6/conf/{link}/accept_dad").write_text("0")


def ask_often(link: str) -> None:
    """Have this network namespace ask who has an address on a link ten times a second, not once.

    For as long as else, before it gives up. So neither a question that got lost nor the look for
    a duplicate address costs a second.
    """
    for family in ("ipv4", "ipv6"):
        settings = Path(f"/proc/sys/net/{family}/neigh/{link}")
        (settings / "retrans_time_ms").write_text(str(round(100 * SLOWNESS)))
        (settings / "mcast_solicit").write_text("30")


def _delete_link(name: str) -> None:
    """Delete a link; one that a test has deleted already is fine."""
    if name in host_links():
        command("ip", "link", "delete", name)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Ask a process of ours to end; kill it if it has not after 5 s."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""A guest without QEMU: a network namespace whose eth0 is wired to a guest's tap.

Any real client runs as "the guest" there: busybox udhcpc, ping, a browser.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from lab import relay, sandbox
from lab.lan import SLOWNESS, ask_often
from lab.running import Running
from lab.sandbox import command

_UDHCPC_SCRIPT = """#!/bin/sh
case "$1" in
deconfig) ip -4 address flush dev "$interface" scope global ;;
bound|renew)
    ip address replace "$ip/$mask" dev "$interface"
    for gateway in $router; do ip route replace default via "$gateway"; done ;;
esac
"""
# For a router as soon as it has an address, and again each second.
_SOLICITS = {"router_solicitation_delay": "0", "router_solicitation_interval": "1"}


class PumpGuest(Running):
    """A namespace with an eth0 of the guest's MAC, fed from a tap by a child process.

    It takes the file descriptor over: after start() only the child holds it, so that closing the
    guest closes the tap, as the end of QEMU does.
    """

    def __init__(self, tap: int, mac: str, *, name: str = "pump", vnet_hdr: bool = True) -> None:
        """Describe the guest; nothing exists before start().

        tap: an open macvtap, ipvtap or tap. name: of the network namespace. vnet_hdr: what the
        tap is expected to speak; start() refuses a tap that disagrees, since a QEMU with the wrong
        belief would misread every frame.
        """
        self.mac = mac.lower()
        self.namespace = name
        self.vnet_hdr = vnet_hdr
        self._tap: int | None = tap
        self._relay: subprocess.Popen[bytes] | None = None
        self._directory = Path()
        self._undo = contextlib.ExitStack()

    @property
    def pid(self) -> int:
        """The process id of the child that holds the tap."""
        if self._relay is None:
            raise RuntimeError(f"{self.namespace} was never started")
        return self._relay.pid

    @property
    def alive(self) -> bool:
        """Whether the child carries frames: it ends by itself when the tap's device goes."""
        return self._relay is not None and self._relay.poll() is None

    def start(self) -> None:
        """Make the namespace and start to carry frames; a failure undoes all and closes the tap."""
        sandbox.require()
        if self._tap is None:
            raise RuntimeError(f"{self.namespace}: the tap has been used and closed")
        tap, self._tap = self._tap, None
        with contextlib.ExitStack() as undo, os.fdopen(tap, "rb", buffering=0):
            if relay.has_vnet_hdr(tap) != self.vnet_hdr:
                raise RuntimeError(f"{self.namespace}: vnet_hdr is not {self.vnet_hdr} on this tap")
            self._make_directory(undo)
            self._make_eth0(undo)
            self._start_relay(tap, undo)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """End the child and remove the namespace; closing twice is fine."""
        self._undo.close()
        if self._tap is not None:
            os.close(self._tap)
            self._tap = None

    def run(
        self, *argv: str, check: bool = True, timeout: float | None = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the guest; stdout and stderr are captured as text."""
        return subprocess.run(
            [*sandbox.netns_exec_prefix(self.namespace), *argv],
            check=check,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )

    def ping(self, address: str, count: int = 1, timeout: float = 1.0) -> bool:
        """Tell whether the address answers the guest, so many times within timeout seconds.

        Asked ten times a second: a packet that got lost on its way is no answer either way.
        """
        deadline = str(math.ceil(timeout * SLOWNESS))
        argv = ["ping", "-n", "-q", "-i", "0.1", "-c", str(count), "-w", deadline, address]
        return self.run(*argv, check=False).returncode == 0

    def frames(self) -> socket.socket:
        """Open a packet socket on eth0; the caller closes it."""
        return sandbox.packet_socket(self.namespace, "eth0")

    def dhcp(self, timeout: float = 15.0, *options: str) -> str:
        """Get a lease with busybox udhcpc, configure eth0 with it and return the IPv4 address.

        timeout: seconds. options: more of udhcpc's. Raises TimeoutError without a lease by then.
        """
        script = str(self._directory / "udhcpc")
        argv = ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-s", script, *options]
        tries = str(max(1, round(timeout)))
        done = self.run(*argv, "-t", tries, "-T", "1", check=False, timeout=timeout + 5.0)
        if done.returncode != 0:
            raise TimeoutError(f"no lease for {self.mac} in {timeout:g} s: {done.stderr}")
        return self.addresses()[0]

    def addresses(self, family: int = 4) -> list[str]:
        """Return the global addresses of eth0 that are ready for use; family is 4 or 6."""
        only = ("dev", "eth0", "scope", "global", *(["-tentative"] if family == 6 else []))
        listing = self.run("ip", f"-{family}", "-br", "address", "show", *only).stdout
        return [word.split("/")[0] for word in listing.split()[2:] if "/" in word]

    def _make_directory(self, undo: contextlib.ExitStack) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix=f"{self.namespace}-", dir="/run"))
        undo.callback(shutil.rmtree, self._directory, ignore_errors=True)
        script = self._directory / "udhcpc"
        script.write_text(_UDHCPC_SCRIPT)
        script.chmod(0o755)

    def _make_eth0(self, undo: contextlib.ExitStack) -> None:
        command("ip", "netns", "add", self.namespace)
        undo.callback(command, "ip", "netns", "del", self.namespace)
        ip = ("ip", "-n", self.namespace)
        command(*ip, "link", "set", "lo", "up")
        command(*ip, "tuntap", "add", "eth0", "mode", "tap")
        with sandbox.inside(self.namespace):
            ask_often("eth0")
            for name, value in _SOLICITS.items():
                Path(f"/proc/sys/net/ipv6/conf/eth0/{name}").write_text(value)
        command(*ip, "link", "set", "eth0", "address", self.mac, "up")

    def _start_relay(self, tap: int, undo: contextlib.ExitStack) -> None:
        complaints = self._directory / "relay.stderr"
        child = [sys.executable, "-I", "-S", str(Path(relay.__file__).resolve()), str(tap)]
        with complaints.open("wb") as stderr:
            self._relay = subprocess.Popen(
                sandbox.dying_with_us([*sandbox.netns_exec_prefix(self.namespace), *child]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=[tap],
            )
        undo.callback(_end, self._relay)
        assert self._relay.stdout is not None
        if self._relay.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{self.namespace}: {complaints.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()

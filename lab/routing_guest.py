"""A guest that routes for others: a network of its own behind it, with one machine there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from lab.pump import PumpGuest
from lab.sandbox import command, netns_exec_prefix

BEHIND4, BEHIND6 = "10.8.0.5", "2001:db8:8::5"
NETWORK4, NETWORK6 = "10.8.0.0/16", "2001:db8:8::/48"


class Machine:
    """A network namespace behind a guest."""

    namespace = "behind"

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there; stdout and stderr are captured as text."""
        return subprocess.run(
            [*netns_exec_prefix(self.namespace), *argv],
            check=check,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )

    def say_from(self, addresses: list[str], to: str) -> None:
        """Have a packet come from each of these addresses, whose answer nobody waits for."""
        for address in addresses:
            self.run("ip", "address", "add", address, "dev", "lo", *nodad(address))
            self.run("ping", "-n", "-c", "1", "-W", "0.01", "-I", address, to, check=False)


@contextmanager
def machine_behind(guest: PumpGuest) -> Iterator[Machine]:
    """A machine with BEHIND4 and BEHIND6, whose router is the guest."""
    machine = Machine()
    command("ip", "netns", "add", machine.namespace)
    try:
        pair = ("type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
        guest.run("ip", "link", "add", "inside", *pair)
        guest.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        guest.run("ip", "link", "set", "inside", "up")
        machine.run("ip", "link", "set", "lo", "up")
        machine.run("ip", "link", "set", "eth0", "up")
        for own, address, length in (("10.8.0.1", BEHIND4, 16), ("2001:db8:8::1", BEHIND6, 48)):
            guest.run("ip", "address", "add", f"{own}/{length}", "dev", "inside", *nodad(own))
            theirs = (f"{address}/{length}", "dev", "eth0", *nodad(address))
            machine.run("ip", "address", "add", *theirs)
            machine.run("ip", "route", "add", "default", "via", own)
        yield machine
    finally:
        command("ip", "netns", "del", machine.namespace)
        guest.run("ip", "link", "del", "inside", check=False)


def nodad(address: str) -> list[str]:
    return ["nodad"] if ":" in address else []

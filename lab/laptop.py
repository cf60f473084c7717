"""Things that happen to a laptop and its guests, at random, and what must be so afterwards."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from lab.airtap import Airtapd
from lab.lan import Lan, Subnet, wait_for
from lab.pump import PumpGuest
from lab.sandbox import command, host_links
from lab.traffic import pump

ELSEWHERE = Subnet("198.51.100.", "2001:db8:e::")
_MOST = 3


def commuting(lan: Lan) -> Callable[[], Lan]:
    """Laptop.roam, where a cable goes to and fro between two networks."""
    subnets = [lan.subnet, ELSEWHERE]

    def roam() -> Lan:
        subnets.reverse()
        lan.resettle(subnets[0])
        return lan

    return roam


@dataclass
class Laptop:
    """A host with guests behind an uplink, to which things happen.

    lan: the network where it is now. roam: brings it to another, and returns that. change_mac:
    changes the uplink's. sleep: for so many seconds, where that is possible. fail_over: to the
    uplink's other port, where it has one. seed: of all that is random.
    """

    airtapd: Airtapd
    uplink: str
    lan: Lan
    roam: Callable[[], Lan]
    change_mac: Callable[[str], None]
    sleep: Callable[[int], None] | None = None
    fail_over: Callable[[], None] | None = None
    seed: int = field(default_factory=lambda: random.randrange(1 << 32))
    guests: dict[str, ExitStack] = field(default_factory=dict)
    running: dict[str, PumpGuest] = field(default_factory=dict)
    # Of the running: whose MACs airtapd has not been told, but learns.
    learned: set[str] = field(default_factory=set)
    # Of two guests, and who of them has it now: IPv4 and IPv6, each with its prefix's length.
    virtual: tuple[str, ...] = ()
    holder: PumpGuest | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.links = host_links()
        self.said = [f"seed {self.seed}"]
        print(self.said[0], flush=True)
        self.slept = 0
        self.events = (
            *(self.guest_starts, self.guest_starts, self.guest_stops, self.daemon_is_killed),
            *(self.address_changes, self.mac_changes, self.joins_another_network),
            *(self.virtual_address_moves, self.guest_changes_its_mac),
            *([self.sleeps] if self.sleep else []),
            *([self.bond_fails_over] if self.fail_over else []),
        )
        # None is left out in the fifty.
        self.due = self.random.sample(self.events, len(self.events))

    def happen(self, count: int) -> None:
        """So many random events."""
        for _ in range(count):
            event = self.due.pop() if self.due else self.random.choice(self.events)
            self.said.append(event.__name__)
            print(self.said[-1], flush=True)
            event()
            time.sleep(self.random.choice((0.0, 0.0, 0.2, 1.0)))

    def guest_starts(self, told: bool | None = None) -> None:
        """One with a MAC that airtapd is told or not; by chance, if that is None."""
        if len(self.guests) >= _MOST:
            return
        name = next(name for n in range(_MOST) if (name := f"guest{n}") not in self.guests)
        mac = self._mac("52:54:00")
        told = self.random.random() < 0.5 if told is None else told
        with ExitStack() as ending:
            guest = ending.enter_context(
                pump(self.airtapd, mac, uplink=self.uplink, name=name, told=told)
            )
            self.guests[name] = ending.pop_all()
        self.running[name] = guest
        if not told:
            self.learned.add(name)

    def guest_stops(self) -> None:
        if self.guests:
            name = self.random.choice(sorted(self.guests))
            del self.running[name]
            self.learned.discard(name)
            self.guests.pop(name).close()

    def daemon_is_killed(self) -> None:
        self.airtapd.kill()
        self.airtapd.start()

    def address_changes(self) -> None:
        """The host has one address more, or one less."""
        there = command("ip", "address", "show", "dev", self.uplink)
        for address in (f"{self.lan.subnet.ipv4}11/24", f"{self.lan.subnet.ipv6}11/64"):
            word = "del" if f" {address} " in there else "add"
            command("ip", "address", word, address, "dev", self.uplink)

    def mac_changes(self) -> None:
        self.change_mac(self._mac("02:00:5e"))

    def _mac(self, vendor: str) -> str:
        return f"{vendor}:{self.random.randrange(1 << 24).to_bytes(3).hex(':')}"

    def joins_another_network(self) -> None:
        self.lan = self.roam()

    def sleeps(self) -> None:
        """The night through; every other time the host is on another network then."""
        assert self.sleep
        if not self.guests:
            self.guest_starts()
        self.slept += 1
        self.sleep(28800 + self.slept)
        noticed = f"has slept for {28800 + self.slept} s"
        wait_for(lambda: noticed in self.airtapd.log(), 10, f"a sleep to be noticed: {self.said}")
        if self.random.random() < 0.5:
            self.joins_another_network()

    def bond_fails_over(self) -> None:
        assert self.fail_over
        self.fail_over()

    def virtual_address_moves(self) -> None:
        """From the guest that has it, if one has, to another, which announces it as keepalived."""
        while len(self.guests) < 2:
            self.guest_starts()
        if self.holder and self.holder in self.running.values():
            for address in self.virtual:
                self.holder.run("ip", "address", "del", address, "dev", "eth0", check=False)
        others = [guest for guest in self.running.values() if guest is not self.holder]
        self.holder = self.random.choice(others)
        ipv4 = f"{self.lan.subnet.ipv4}88"
        self.virtual = f"{ipv4}/24", f"{self.lan.subnet.ipv6}88/64"
        for address in self.virtual:
            self.holder.run("ip", "address", "add", address, "dev", "eth0")
        self.holder.run("arping", "-q", "-U", "-c", "1", "-I", "eth0", ipv4)

    def guest_changes_its_mac(self) -> None:
        """One of those whose MAC was learned; they alone may."""
        if not self.learned:
            if len(self.guests) >= _MOST:
                self.guest_stops()
            self.guest_starts(told=False)
        guest = self.running[self.random.choice(sorted(self.learned))]
        guest.mac = self._mac("52:54:00")
        guest.run("ip", "link", "set", "eth0", "down")
        guest.run("ip", "link", "set", "eth0", "address", guest.mac, "up")

    def all_is_well(self) -> None:
        """Every guest, once its link was down and it has asked for a lease, reaches the router.

        There is one with a MAC that is new, and two between whom an address moves.
        """
        assert self.airtapd.alive
        self.guest_changes_its_mac()
        for guest in self.running.values():
            self._is_well(guest)
        self.virtual_address_moves()
        for address in self.virtual:
            plain = address.partition("/")[0]
            wait_for(lambda: self.lan.ping(plain), 20, f"{plain} to move: {self.said}")  # noqa: B023

    def _is_well(self, guest: PumpGuest) -> None:
        guest.run("ip", "-4", "address", "flush", "dev", "eth0")
        # Its kernel solicits a router then. None advertises by itself for minutes.
        guest.run("ip", "link", "set", "eth0", "down")
        guest.run("ip", "link", "set", "eth0", "up")
        address = guest.dhcp(30)
        assert address.startswith(self.lan.subnet.ipv4), self.said
        assert guest.ping(self.lan.subnet.router[0], timeout=5), self.said
        assert self.lan.ping(address, timeout=5), self.said
        wait_for(lambda: guest.addresses(6), 30, f"an IPv6 address: {self.said}")
        assert guest.ping(self.lan.subnet.router[1], timeout=5), self.said
        assert guest.mac in [one["mac"] for one in self.airtapd.guests()], self.said

    def stop_all(self) -> None:
        """All guests stop."""
        self.running.clear()
        while self.guests:
            self.guests.popitem()[1].close()

    def end(self) -> None:
        """All guests stop, and nothing is left of them."""
        self.stop_all()
        wait_for(lambda: host_links() == self.links, 10, f"the devices to go: {self.said}")

        def bare() -> bool:
            return "clsact" not in command("tc", "qdisc", "show", "dev", self.uplink)

        wait_for(bare, 10, f"clsact to go: {self.said}")
        assert self.airtapd.guests() == []

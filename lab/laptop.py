"""Things that happen to a laptop and its guests, at random, and what must be so afterwards."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from lab.airtap import Airtapd
from lab.lan import Lan, wait_for
from lab.pump import PumpGuest
from lab.sandbox import command, host_links
from lab.traffic import pump

_MOST = 3


@dataclass
class Laptop:
    """A host with guests behind an uplink, to which things happen.

    lan: the network where it is now. roam: brings it to another, and returns that. change_mac:
    changes the uplink's. seed: of all that is random.
    """

    airtapd: Airtapd
    uplink: str
    lan: Lan
    roam: Callable[[], Lan]
    change_mac: Callable[[str], None]
    seed: int = field(default_factory=lambda: random.randrange(1 << 32))
    guests: dict[str, ExitStack] = field(default_factory=dict)
    running: dict[str, PumpGuest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.links = host_links()
        self.said = [f"seed {self.seed}"]

    def happen(self, count: int) -> None:
        """So many random events."""
        events = (
            *(self.guest_starts, self.guest_starts, self.guest_stops, self.daemon_is_killed),
            *(self.address_changes, self.mac_changes, self.joins_another_network),
        )
        for _ in range(count):
            event = self.random.choice(events)
            self.said.append(event.__name__)
            print(self.said[-1], flush=True)
            event()
            time.sleep(self.random.choice((0.0, 0.0, 0.2, 1.0)))

    def guest_starts(self) -> None:
        if len(self.guests) >= _MOST:
            return
        name = next(name for n in range(_MOST) if (name := f"guest{n}") not in self.guests)
        number = self.random.randrange(1 << 24).to_bytes(3).hex(":")
        with ExitStack() as ending:
            told = self.random.random() < 0.5
            guest = ending.enter_context(
                pump(self.airtapd, f"52:54:00:{number}", uplink=self.uplink, name=name, told=told)
            )
            self.guests[name] = ending.pop_all()
        self.running[name] = guest

    def guest_stops(self) -> None:
        if self.guests:
            name = self.random.choice(sorted(self.guests))
            del self.running[name]
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
        self.change_mac("02:00:5e:" + self.random.randrange(1 << 24).to_bytes(3).hex(":"))

    def joins_another_network(self) -> None:
        self.lan = self.roam()

    def all_is_well(self) -> None:
        """Every guest, once its link was down and it has asked for a lease, reaches the router."""
        assert self.airtapd.alive
        for guest in self.running.values():
            guest.run("ip", "-4", "address", "flush", "dev", "eth0")
            # Its kernel solicits a router then. None advertises by itself for minutes.
            guest.run("ip", "link", "set", "eth0", "down")
            guest.run("ip", "link", "set", "eth0", "up")
            address = guest.dhcp(30)
            assert address.startswith(self.lan.subnet.ipv4), self.said
            assert guest.ping(self.lan.subnet.router[0], timeout=5), self.said
            assert self.lan.ping(address, timeout=5), self.said
            wait_for(lambda: guest.addresses(6), 30, "an IPv6 address")  # noqa: B023
            assert guest.ping(self.lan.subnet.router[1], timeout=5), self.said

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

"""Who hears a hostile guest, and what must be as it was whatever that guest has said."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from lab.adversary import canaries, oracle, scenery
from lab.adversary import packets as p
from lab.adversary import world as w
from lab.adversary.canaries import Canaries
from lab.adversary.ears import Barrier, Frames, Port
from lab.adversary.setting import Setting
from lab.adversary.state import State
from lab.lan import FAR_MAC, NEAR_MAC, Lan, wait_for
from lab.running import Running
from lab.sandbox import inside, packet_socket
from lab.traffic import ROGUE_MAC, SIBLING_MAC

# Each as the host's stack delivers it: behind the tags that it takes off, and behind tc.
_ETHERTYPES = (p.IPV4, p.IPV6, p.ARP, 0x888E, 0x88C7, 0x88B4, 0x890D, 0x8863, 0x8864)
_DEVICES = {"host": "up0", "lan": "lan0", "sibling": "eth0"}
_PLACES = {"host": None, "lan": "lan", "sibling": "sibling"}


class Witnesses(Running):
    """Ears at the host, on the LAN and at the sibling, from start() to close()."""

    def __init__(self, setting: Setting, lan: Lan, *, has_vlans: bool) -> None:
        self._setting = setting
        self._mac = setting.mac
        # A guest with the uplink's MAC makes the host's link-local address of it, and has none.
        siblings = {*w.SIBLINGS} - ({w.SIBLING_LL} if setting.one_for_all else set())
        self._not_the_rogues = {*w.HOSTS, *w.GATEWAYS, *siblings}
        self._lan = lan
        self._has_vlans = has_vlans
        self._undo = contextlib.ExitStack()

    def start(self) -> None:
        with contextlib.ExitStack() as undo:
            self._open(undo)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def _open(self, undo: contextlib.ExitStack) -> None:
        def kept(one: Frames) -> Frames:
            undo.callback(one.close)
            return one

        self._air = kept(Frames("lan", "lan0"))
        self._beside = kept(Frames("sibling", "eth0"))
        self._host = [kept(Frames(None, "up0", kind)) for kind in _ETHERTYPES]
        # A macvlan shows its uplink what goes from guest to guest (macvlan_queue_xmit).
        self._everything = kept(Frames(None, "up0"))
        # There as well, before the device above has a look at whom it is for (vlan_do_receive).
        self._vlan = (
            kept(Frames(None, scenery.VLAN_DEVICE, stack=True)) if self._has_vlans else None
        )
        marks = {
            name: kept(Frames(namespace, _DEVICES[name], p.IPV4))
            for name, namespace in _PLACES.items()
        }
        self._barrier = Barrier(marks)
        self._ports = {number: Port(None, number) for number in (68, 546, 9999)}
        for port in self._ports.values():
            undo.callback(port.close)
        self.canaries = Canaries(self._setting, _PLACES)
        undo.callback(self.canaries.close)
        self._states = {n: undo.enter_context(State(place)) for n, place in _PLACES.items()}
        self._router = undo.enter_context(packet_socket("lan", "lan0"))

    def remember(self) -> None:
        """All is well: what is so now is to stay."""
        self._was = self._host_is()

    def is_well(self) -> bool:
        """Whether everybody reaches everybody, and the host its router of IPv6."""
        routes = self._states["host"].routes()
        return not self.canaries.lost() and any(w.ROUTER_LL in route for route in routes)

    def forget_neighbours(self, *names: str) -> None:
        """Have these, or all, forget who is at which MAC."""
        for name in names or _PLACES:
            with inside(name) if _PLACES[name] else contextlib.nullcontext():
                index = socket.if_nametoindex(_DEVICES[name])
            for address in self._states[name].neighbours():
                self._states[name].forget(index, address)

    def settle(self, tap: int) -> list[str]:
        """Wait until what was sent has arrived everywhere. Gives who no longer hears broadcasts."""
        places = {"lan", *(["host"] if self._setting.meets else [])}
        if self._setting.mode == "bridge":
            places.add("sibling")
        left = self._barrier.wait(
            self._mac(ROGUE_MAC), lambda mark: os.write(tap, bytes(10) + mark), places
        )
        missing = [f"{place} does not hear the guest" for place in left]
        left = self._barrier.wait(FAR_MAC, self._router.send, {"host", "sibling"})
        return missing + [f"{place} does not hear the LAN" for place in left]

    def echo(self, tap: int) -> None:
        """The LAN sends back what it heard of the guest, to all as well as to its own MAC."""
        self.settle(tap)
        for frame in [frame for frame in self._air.heard() if oracle.is_the_rogues(frame)]:
            with contextlib.suppress(OSError):  # too long for the wire, with a tag put back
                self._router.send(frame)
                self._router.send(p.octets(NEAR_MAC) + frame[6:])

    def wrongs(self, tap: int, but: frozenset[str] = frozenset()) -> list[str]:
        """All that is not as it was, or was heard by whom it was not for, in a few words each.

        tap: of the guest. but: what does not count, of
        - outside: all but the host
        - claims: that the host hears others' addresses claimed; what it makes of that does
        - packets: what only packet sockets at the uplink hear
        - offers: that those who read all packets there hear the host being offered a lease
        """
        guarded = self._setting.guarded and "outside" not in but
        found = self.settle(tap)
        found += self._outside(guarded)
        found += self._host_hears(but)
        is_now = self._host_is()
        found += [f"host: {what} is new" for what in is_now - self._was]
        found += [f"host: {what} is gone" for what in self._was - is_now]
        for name in _PLACES if guarded else ("host",):
            found += self._neighbours(name)
        found += self._leases() if guarded and not self._setting.one_for_all else []
        found += self.blocked(tap, guarded=guarded)
        return sorted(set(found))

    def _outside(self, guarded: bool) -> list[str]:
        found = []
        for frame in self._air.heard():
            if guarded and oracle.is_the_rogues(frame):
                wrong = oracle.on_the_air(frame, self._mac(ROGUE_MAC), self._others(frame))
                found += [f"air: {what}" for what in wrong]
        for frame in self._beside.heard():
            if canaries.is_anothers(frame, self._mac(SIBLING_MAC)):
                found.append("the sibling hears what is for others")
            if guarded and oracle.is_the_rogues(frame):
                claimed = oracle.claimed(frame) & self._others(frame)
                found += [f"sibling: {address} is spoken for" for address in claimed]
        return found

    def _others(self, frame: bytes) -> set[str]:
        """What the guest may not speak for, in the VLAN of a frame."""
        if oracle.vlan(frame):
            return {*w.HOSTS, *w.GATEWAYS}
        return {*self._not_the_rogues, w.BEHIND4, w.BEHIND6}

    def _host_hears(self, but: frozenset[str]) -> list[str]:
        claims, found = "claims" not in but, []
        # Where neither MAC NAT nor host access is on, nobody looks at what a guest says.
        is_looked_at = self._setting.guarded or self._setting.meets
        offers = "offers" not in but and is_looked_at
        for frame in (frame for ears in self._host for frame in ears.heard()):
            if _is_judged(frame) and "packets" not in but:
                wrong = oracle.at_the_host(frame, self._not_the_rogues if claims else ())
                found += [f"host: {what}" for what in wrong]
        for frame in self._everything.heard():
            if offers and _is_judged(frame) and NEAR_MAC in oracle.offered(frame):
                found.append("host: a DHCP client that reads packets hears an offer")
        for frame in self._vlan.heard() if self._vlan else ():
            if _is_judged(frame) and (claims or oracle.configures(frame)):
                found.append(f"host's VLAN device: hears {oracle.configures(frame) or 'the guest'}")
        for number, port in self._ports.items():
            silent = number in (68, 546) or (claims and not self._setting.meets)
            # Of all that is there, so that it is read.
            if any([p.MARK in data for data in port.heard()]) and silent:
                found.append(f"host: port {number} hears the guest")
        return found

    def _host_is(self) -> set[str]:
        """Addresses, routes and resolver of the host, one a word."""
        state = self._states["host"]
        redirects = {way for way in state.exceptions() if any(f" via {a} " in way for a in w.OWN)}
        resolver = Path("/etc/resolv.conf").read_text()
        return {
            *(f"address {address}" for address in state.addresses()),
            *(f"route {route}" for route in state.routes()),
            *(f"redirect {way}" for way in redirects),
            f"resolver {resolver}",
        }

    def _neighbours(self, name: str) -> Iterator[str]:
        where = {**dict.fromkeys(w.HOSTS, NEAR_MAC), **dict.fromkeys(w.GATEWAYS, FAR_MAC)}
        if name == "lan":
            where |= dict.fromkeys(w.SIBLINGS, NEAR_MAC)
        elif name == "host" and self._setting.meets:
            where |= dict.fromkeys(w.SIBLINGS, SIBLING_MAC)
        for address, mac in self._states[name].neighbours().items():
            if where.get(address, mac) != mac:
                yield f"{name}: {address} is at {mac}"

    def _leases(self) -> list[str]:
        try:  # for a moment it is not there: dnsmasq writes it anew for each lease
            wait_for(lambda: w.LEASES.items() <= self._lan.leases().items(), 1, "the leases")
        except TimeoutError:
            leases = self._lan.leases()
            return [f"lease of {mac} is {leases.get(mac)}" for mac in w.LEASES]
        return []

    def blocked(self, tap: int, *, guarded: bool) -> list[str]:
        """Which ways are blocked, and whether a guest hears what goes there."""
        found = self.canaries.lost()
        if guarded:
            sent = canaries.send_to_the_host(self._router.send, self._setting)
            self.settle(tap)
            heard = canaries.heard(frame for ears in self._host for frame in ears.heard())
            missing = [address for address in sent if p.octets(address) not in heard]
            found += [f"the host does not get what is for {address}" for address in missing]
        return found + self.overheard(tap)

    def overheard(self, tap: int) -> list[str]:
        """Whether a guest has heard what is for others: nothing of this is for it."""
        heard = any(canaries.CANARY in frame for frame in _read(tap))
        return ["the guest hears what is for others"] if heard else []

    def deaf(self) -> None:
        """Forget what was heard so far."""
        for ears in (self._air, self._beside, self._everything, *self._host):
            for _ in ears.heard():
                pass


def _is_judged(frame: bytes) -> bool:
    """Whether the host has this from the guest, and not from the router, which may quote it."""
    source = frame[6:12].hex(":")
    return source != FAR_MAC and (oracle.is_the_rogues(frame) or source in (ROGUE_MAC, NEAR_MAC))


def _read(tap: int) -> Iterator[bytes]:
    """What waits at a tap."""
    with contextlib.suppress(OSError):
        while True:
            yield os.read(tap, 1 << 16)[10:]

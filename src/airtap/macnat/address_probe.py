"""Address probes: whether a guest answers for an address.

A guest is asked when another one wants its address (conflict detection, RFC 5227), when it does not
use it (as in neighbour unreachability detection, RFC 4861), and when it was about to take it.
"""

import asyncio
import logging
import time
from functools import partial

from ..bpf.macnat import Macnat
from ..bpf.records import Learned
from ..bpf.settings import REFRESH_S
from ..kernel.addresses import Address
from ..packet.neighbour import probe

log = logging.getLogger(__name__)

# How often a guest is asked before its address is free, and how long each time: a question may be
# lost, above all in a queue that another floods, and where all are slow so is this clock.
_QUESTIONS, _ANSWER_S = 4, 0.25
# An address that was not seen in use for so long is probed, by and by; and forgotten after three
# times as much, in which several probes got no answer: a guest may be paused, or busy.
IDLE_S = 60.0
# How long after its last probe whether an address is free a guest surely has it: 1 s after
# duplicate address detection (RFC 4861, 10), 2 s after ARP probes that are at most 2 s apart
# (RFC 5227, 1.1). An ARP probe before that would look like somebody else's wish for the address.
# Duplicate address detection takes longer where routers say so (RetransTimer); a guest that is at
# it leaves a solicitation from an address unanswered. Then the waits until it is probed again.
_CLAIM_S = (3.0, 1.0, 2.0, 4.0, 8.0)
_CLAIMS = 4096
# The waits before each probe of a guest that has wanted an address which is free now.
_NEWCOMER_S = (0.0, 1.0, 2.0, 4.0)


class AddressProbes:
    """Probes one uplink's guests. Needs a running event loop. The uplink's name is for the log."""

    def __init__(self, nat: Macnat, uplink: str) -> None:
        self._nat = nat
        self._uplink = uplink
        self._open: dict[tuple[Address, int], asyncio.TimerHandle] = {}
        self._claims: dict[tuple[int, Address, int], asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._idle = self._loop.call_later(IDLE_S / 2, self._probe_idle)
        self.sweep()

    def probe(
        self, address: Address, vlan: int, patience: float, newcomer: int | None = None
    ) -> None:
        """Probe the guest that has an address; forget the address if it stays silent for a second.

        patience is for how many seconds it must not have been seen in use before that. Only that
        guest hears the probe. The answer needs no reader: from_guest notes that the address is in
        use. newcomer is the ifindex of another guest's device, which is probed once the address is
        free: it may have announced it already (keepalived, Pacemaker), and say no more.
        """
        held = self._nat.addresses.find(address, vlan)
        if held is not None and (address, vlan) not in self._open:
            self._ask(held, _QUESTIONS - 1, time.monotonic() - patience, newcomer)

    def probe_later(self, ifindex: int, address: Address, vlan: int) -> None:
        """Probe a guest that has just probed for an address itself: did it come to have it?

        If so, from_guest sees the answer. Until a guest uses an address nobody here knows it, and
        behind an access point that answers for its stations nobody asks. A probe may be lost, or
        come when the guest is busy, so there are several.
        """
        self._probe_in(_CLAIM_S, ifindex, address, vlan)

    def sweep(self) -> None:
        """Probe later about all that guests have probed for, of which no event may have told."""
        for ifindex in self._nat.probed.guests():
            for address, vlan in self._nat.probed.of(ifindex):
                if (ifindex, address, vlan) not in self._claims:
                    self._probe_in(_CLAIM_S, ifindex, address, vlan)

    def forget(self) -> None:
        """Ask no more about what guests have probed for: that was on another network."""
        for ifindex in self._nat.probed.guests():
            for address, vlan in self._nat.probed.of(ifindex):
                self._nat.probed.remove(ifindex, address, vlan)
        for timer in self._claims.values():
            timer.cancel()
        self._claims.clear()

    def _probe_in(
        self,
        waits: tuple[float, ...],
        ifindex: int,
        address: Address,
        vlan: int,
        is_sure: bool = False,
    ) -> None:
        if former := self._claims.pop((ifindex, address, vlan), None):
            former.cancel()
        if len(self._claims) < _CLAIMS:  # else at the next sweep
            call = partial(self._probe_claimant, waits[1:], ifindex, address, vlan, is_sure)
            self._claims[ifindex, address, vlan] = self._loop.call_later(waits[0], call)

    def _probe_claimant(
        self,
        waits: tuple[float, ...],
        ifindex: int,
        address: Address,
        vlan: int,
        is_sure: bool,
    ) -> None:
        del self._claims[ifindex, address, vlan]
        mac = self._nat.guests.mac(ifindex)
        held = self._nat.addresses.find(address, vlan)
        if mac is not None and held is None:
            self._send(ifindex, address, vlan, mac)
            # A guest that goes through many addresses is asked once for most of them.
            if waits and (is_sure or (address, vlan) in self._nat.probed.of(ifindex)):
                return self._probe_in(waits, ifindex, address, vlan, is_sure)
        elif mac is not None and held is not None and held.ifindex != ifindex:
            self.probe(address, vlan, 0.0, ifindex)
        self._nat.probed.remove(ifindex, address, vlan)

    def ask_guest(self, ifindex: int) -> None:
        """Ask a guest for all that it is known to have; from_guest notes what it answers."""
        for entry in self._nat.addresses.all():
            if entry.ifindex == ifindex:
                self._send(ifindex, entry.address, entry.vlan, entry.mac)

    def close(self) -> None:
        """Leave what is open as it is."""
        for timer in (self._idle, *self._open.values(), *self._claims.values()):
            timer.cancel()
        self._open.clear()
        self._claims.clear()

    def _probe_idle(self) -> None:
        """Probe every address that was not seen in use for IDLE_S, again and again."""
        self._idle = self._loop.call_later(IDLE_S / 2, self._probe_idle)
        try:
            self.sweep()
            for entry in self._nat.addresses.all():
                if entry.last_seen < time.monotonic() - IDLE_S:
                    self.probe(entry.address, entry.vlan, patience=3 * IDLE_S)
        except OSError as exc:
            log.error("MAC NAT: %s", exc)

    def _send(self, ifindex: int, address: Address, vlan: int, mac: str) -> None:
        frame = probe(address, vlan, self._nat.config.parent_mac(), mac)
        self._nat.programs.inject(ifindex, frame)

    def _ask(self, held: Learned, left: int, since: float, newcomer: int | None) -> None:
        address, vlan = held.address, held.vlan
        self._send(held.ifindex, address, vlan, held.mac)
        decide = partial(self._decide, address, vlan, left, since, newcomer)
        self._open[address, vlan] = self._loop.call_later(_ANSWER_S, decide)

    def _decide(
        self, address: Address, vlan: int, left: int, since: float, newcomer: int | None
    ) -> None:
        del self._open[address, vlan]
        held = self._nat.addresses.find(address, vlan)
        if held is None or held.last_seen >= since:
            return
        if left:
            self._ask(held, left - 1, since, newcomer)
        elif held.last_seen < since - REFRESH_S:
            self._nat.addresses.forget(address, vlan)
            log.info("%s: %s is free: its guest does not answer", self._uplink, address)
            if newcomer is not None:
                self._probe_in(_NEWCOMER_S, newcomer, address, vlan, is_sure=True)
        elif newcomer is not None:  # an answer is not noted so soon after another
            self.probe(address, vlan, 0.0, newcomer)

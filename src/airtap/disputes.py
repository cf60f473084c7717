"""Addresses that one guest holds and another wants: does the holder still answer for them?"""

import asyncio
import logging
import socket
from contextlib import suppress

from .announce import probe
from .kernel import macnat
from .kernel.addresses import Address
from .kernel.frames import send

log = logging.getLogger(__name__)

_ANSWER_S = 1.0


class Disputes:
    """The disputes of one uplink's guests. uplink: its name, for the log."""

    def __init__(self, nat: macnat.Macnat, uplink: str) -> None:
        self._nat = nat
        self._uplink = uplink
        self._open: dict[tuple[Address, int], asyncio.TimerHandle] = {}

    def ask_holder(self, event: macnat.Event, newcomer: str) -> None:
        """Probe the holder of the address that the guest with MAC newcomer was refused.

        The probe goes out on the newcomer's device, from where a macvlan in bridge mode passes
        it to the holder alone. The answer is no business of ours: learn notes that the holder
        uses the address.
        """
        held = self._nat.find(event.address, event.vlan) if event.address else None
        if held is None or (held.address, held.vlan) in self._open:
            return
        question = probe(held.address, held.vlan, newcomer, held.mac)
        with suppress(OSError):  # the newcomer is gone again
            if send(socket.if_indextoname(event.ifindex), [question]):
                dispute = held.address, held.vlan
                self._open[dispute] = asyncio.get_running_loop().call_later(
                    _ANSWER_S, self._decide, *dispute, macnat.now()
                )

    def close(self) -> None:
        """Leave what is open as it is."""
        for timer in self._open.values():
            timer.cancel()
        self._open.clear()

    def _decide(self, address: Address, vlan: int, asked: float) -> None:
        del self._open[address, vlan]
        held = self._nat.find(address, vlan)
        # That an address is in use is noted once in REFRESH_S.
        if held is not None and held.last_seen < asked - macnat.REFRESH_S:
            self._nat.forget(address, vlan)
            log.info("%s: %s is free: its guest does not answer", self._uplink, address)

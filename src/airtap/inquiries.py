"""Whether a guest still answers for an address: asked when another wants it, or it is not used."""

import asyncio
import logging

from .announce import probe
from .kernel import macnat
from .kernel.addresses import Address

log = logging.getLogger(__name__)

_ANSWER_S = 1.0
# An address that was not seen in use for so long is asked for, by and by.
IDLE_S = 60.0


class Inquiries:
    """The open questions to one uplink's guests. uplink: its name, for the log."""

    def __init__(self, nat: macnat.Macnat, uplink: str) -> None:
        self._nat = nat
        self._uplink = uplink
        self._open: dict[tuple[Address, int], asyncio.TimerHandle] = {}

    def ask(self, address: Address, vlan: int) -> None:
        """Ask the guest that has an address; forget the address if no answer comes in a second.

        Only that guest hears the question. The answer is no business of ours: learn notes that
        the address is in use.
        """
        held = self._nat.find(address, vlan)
        if held is None or (address, vlan) in self._open:
            return
        question = probe(address, vlan, self._nat.parent_mac(), held.mac)
        self._nat.tell(held.ifindex, question)
        self._open[address, vlan] = asyncio.get_running_loop().call_later(
            _ANSWER_S, self._decide, address, vlan, macnat.now()
        )

    def ask_for_idle(self) -> None:
        """Ask for every address that was not seen in use for IDLE_S."""
        for entry in self._nat.addresses():
            if entry.last_seen < macnat.now() - IDLE_S:
                self.ask(entry.address, entry.vlan)

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

"""Give a guest's device the guest's MAC, seen in the first frame that it sends.

A macvtap delivers by destination MAC, so it must bear the guest's, and QEMU's helper protocol
does not carry that. Until the guest speaks the device has a random one.
"""

import asyncio
import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from socket import socket

from .errors import Problem
from .guests import Guest
from .kernel.frames import open_frames, source_macs
from .kernel.links import LinkError, LinkNotFound, Links
from .names import mac_address

log = logging.getLogger(__name__)

# A guest may send unusable frames as fast as it likes; this is how often they are looked at.
_RETRY_S = 0.2


class MacLearning:
    """The devices that wait for their guest's MAC, one task each."""

    def __init__(self, links: Links, on_learned: Callable[[Guest], None]) -> None:
        self._links = links
        self._on_learned = on_learned
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, guest: Guest) -> None:
        """Watch from now on for the first usable frame of guest. Raises OSError."""
        frames = open_frames(guest.index)
        task = asyncio.create_task(self._learn(guest, frames), name=f"learn {guest.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task cancelled before it first runs would never reach its own clean-up.
        task.add_done_callback(lambda _task: frames.close())

    async def close(self) -> None:
        """Stop all watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _learn(self, guest: Guest, frames: socket) -> None:
        refused: set[str] = set()
        while True:
            try:
                for mac in dict.fromkeys(await source_macs(frames)):
                    if await self._bear(guest, mac, log_refusal=not refused):
                        return
                    refused.add(mac)
            except OSError as exc:
                log.debug("%s: %s", guest.name, exc)  # the device is down or gone
                if not await self._exists(guest):
                    return
            refused = set(list(refused)[:1])
            await asyncio.sleep(_RETRY_S)

    async def _bear(self, guest: Guest, mac: str, log_refusal: bool) -> bool:
        """Set the device's MAC; false if the guest cannot have this one."""
        try:
            await self._links.set_mac(guest.index, mac_address(mac))
        except LinkNotFound:
            return True
        except (LinkError, Problem) as exc:
            if log_refusal:
                busy = isinstance(exc, LinkError) and exc.errno in (errno.EADDRINUSE, errno.EBUSY)
                why = "its parent or another guest has it" if busy else str(exc)
                log.warning("%s: the guest speaks as %s and may not: %s", guest.name, mac, why)
            return False
        learned = replace(guest, owner=replace(guest.owner, learning=False))
        try:
            await self._links.set_alias(guest.index, learned.owner.to_alias())
        except LinkNotFound:
            return True
        log.info("%s: the guest is %s", guest.name, mac)
        self._on_learned(learned)
        return True

    async def _exists(self, guest: Guest) -> bool:
        try:
            await self._links.by_index(guest.index)
        except LinkNotFound:
            return False
        return True

"""Give a guest's device the guest's MAC, seen in the first frame that it sends.

A macvtap delivers by destination MAC, so it must bear the guest's, and QEMU's helper protocol
does not carry that. Until the guest speaks the device has a random one.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from socket import socket

from ..errors import Problem
from ..kernel.links import Link, LinkError, LinkNotFound, Links
from ..kernel.packet_socket import open_frames, source_macs
from ..names import mac_address
from ..uplink import mac_not_taken
from .registry import Guest

log = logging.getLogger(__name__)

# A guest may send unusable frames as fast as it likes; this is how often they are looked at.
_RETRY_S = 0.2


class MacLearning:
    """The devices that wait for their guest's MAC, one task each."""

    def __init__(
        self,
        links: Links,
        on_learned: Callable[[Guest, str], None],
        lan_user: Callable[[int, str], Awaitable[str]],
    ) -> None:
        """lan_user tells in words who on the LAN of an uplink (ifindex) uses a MAC."""
        self._links = links
        self._lan_user = lan_user
        self._on_learned = on_learned
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._refused: dict[int, tuple[str, str]] = {}  # the MAC, and why not if known

    def start(self, guest: Guest) -> None:
        """Watch from now on for the first usable frame of guest. Raises OSError."""
        frames = open_frames(guest.index)
        task = asyncio.create_task(self._learn(guest, frames), name=f"learn {guest.name}")
        self._tasks[guest.index] = task
        task.add_done_callback(lambda task: self._ended(guest, frames, task))

    def stop(self, index: int) -> None:
        """Watch a device no longer. One that is not watched is success."""
        if task := self._tasks.pop(index, None):
            task.cancel()

    def refused(self, device: Link, links: Iterable[Link]) -> str:
        """Tell in words whose MAC a device's guest speaks with; "" if it may have its own.

        links: those among which a sibling is, or the parent, that has it.
        """
        mac, lan_user = self._refused.get(device.index, ("", ""))
        if not mac or lan_user:
            return lan_user
        beside = (each for each in links if device.parent in (each.index, each.parent))
        bearers = (each.name for each in beside if each.mac == mac)
        return f"{mac} is the MAC address of {next(bearers, 'its parent or another guest')}"

    async def close(self) -> None:
        """Stop all watching."""
        tasks = list(self._tasks.values())
        for index in list(self._tasks):
            self.stop(index)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, guest: Guest, frames: socket, task: asyncio.Task[None]) -> None:
        frames.close()
        self._refused.pop(guest.index, None)
        if self._tasks.get(guest.index) is task:
            del self._tasks[guest.index]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: learning its MAC failed", guest.name, exc_info=error)

    async def _learn(self, guest: Guest, frames: socket) -> None:
        logged = False
        while True:
            try:
                macs = await source_macs(frames)
            except OSError as exc:
                log.debug("%s: %s", guest.name, exc)  # the device is down for a while
                macs = []
            for mac in dict.fromkeys(macs):
                if await self._bear(guest, mac, log_refusal=not logged):
                    return
                logged = True
            await asyncio.sleep(_RETRY_S)

    async def _set_mac(self, link: Link, mac: str) -> None:
        try:
            await self._links.set_mac(link.index, mac)
        except LinkNotFound:
            raise
        except LinkError as exc:
            if link.mode != "passthru":
                raise
            raise mac_not_taken(self._links.name_of(link.parent), mac, exc) from exc

    async def _bear(self, guest: Guest, mac: str, log_refusal: bool) -> bool:
        """Set the device's MAC; false if the guest cannot have this one."""
        try:
            link = await self._links.by_index(guest.index)
            if mac == link.mac and link.mode != "passthru":
                return False  # a host program's own frame: the guest cannot know this MAC
            if why := await self._lan_user(link.parent, mac):
                raise Problem("mac-in-use", why)
            await self._set_mac(link, mac_address(mac))
        except LinkNotFound:
            return True
        except (OSError, Problem) as exc:
            busy = isinstance(exc, LinkError) and exc.errno in (errno.EADDRINUSE, errno.EBUSY)
            if busy or (isinstance(exc, Problem) and exc.code in ("mac-in-use", "wrong-mac")):
                self._refused[guest.index] = mac, "" if busy else str(exc)
            if log_refusal:
                why = "its parent or another guest has it" if busy else str(exc)
                log.warning("%s: the guest speaks as %s and may not: %s", guest.name, mac, why)
            return False
        learned = replace(guest, owner=replace(guest.owner, learning=False, learned=True))
        try:
            await self._links.set_alias(guest.index, learned.owner.to_alias())
        except LinkNotFound:
            return True
        log.info("%s: the guest is %s", guest.name, mac)
        self._on_learned(learned, mac)
        return True

"""What airtapd does for each request, and what it answers where that fails."""

import logging
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..errors import Problem
from ..ipc import protocol, requests
from ..ipc.requests import Message, Request
from ..kernel.credentials import Peer
from ..kernel.links import Links
from . import status
from .broker import Broker
from .libvirt_hooks import LibvirtHooks
from .trace import Traces

log = logging.getLogger(__name__)

_REFUSALS_A_MINUTE = 30


@dataclass(frozen=True)
class Reply:
    """What a peer is sent: a message, in one packet.

    descriptor: what goes with it, and is the reply's to close; None for nothing.
    stream: messages that are sent before it, in a packet each.
    endless: whether the stream goes on until its reader hangs up, who may read as slowly as it
    likes: whoever stops reading a trace keeps no more than by reading it.
    """

    message: Message = field(default_factory=lambda: {"ok": True})
    descriptor: int | None = None
    stream: AsyncGenerator[Message, None] | None = None
    endless: bool = False


_Handle = Callable[[Any, Peer], Awaitable[Reply]]
# What libvirt's hooks ask for. What is returned goes into the answer.
_Serve = Callable[[LibvirtHooks, Any], Awaitable[Message | None]]
_OF_HOOKS: dict[str, tuple[type[Request], _Serve]] = {
    "prepare-uplink": (requests.PrepareUplinkRequest, LibvirtHooks.prepare_uplink),
    "create-device": (requests.CreateDeviceRequest, LibvirtHooks.create_device),
    "set-owner": (requests.SetOwnerRequest, LibvirtHooks.set_owner),
    "map-devices": (requests.MapDevicesRequest, LibvirtHooks.map_devices),
}


class Requests:
    """Serves requests of peers of the daemon's socket."""

    def __init__(self, links: Links, broker: Broker, traces: Traces) -> None:
        self._links = links
        self._broker = broker
        self._traces = traces
        self._refusals = Refusals()
        self._of_anybody: dict[str, tuple[type[Request], _Handle]] = {
            "attach": (requests.AttachRequest, self.attach),
            "release": (requests.ReleaseRequest, self.release),
            "status": (Request, self.status),
            "trace": (requests.TraceRequest, self.trace),
        }

    async def replies(self, packet: bytes, peer: Peer) -> AsyncGenerator[Reply, None]:
        """What to send to a peer for its packet, whatever that is.

        A descriptor is open until the next reply is asked for, or the generator is closed. The
        peer's copy, if it got one, keeps the device then; else this was the last.
        """
        try:
            reply = await self._handle(packet, peer)
            try:
                if reply.stream is not None:
                    async with aclosing(reply.stream) as messages:
                        async for message in messages:
                            yield Reply(message, endless=reply.endless)
                yield reply
            finally:
                if reply.descriptor is not None:
                    os.close(reply.descriptor)
        except Exception as exc:
            yield Reply(protocol.failure(self._as_problem(exc, peer)))

    async def _handle(self, packet: bytes, peer: Peer) -> Reply:
        if len(packet) > protocol.MAX_REQUEST:
            what = f"the request is longer than {protocol.MAX_REQUEST} bytes"
            raise Problem("bad-message", what)
        message = protocol.decode(packet)
        op = str(message.get("op"))
        if op in self._of_anybody:
            form, handle = self._of_anybody[op]
            return await handle(form.parse(message), peer)
        if op not in _OF_HOOKS:
            raise Problem("bad-message", f"airtapd has no request {op[:64]!r}")
        if peer.uid != 0:
            raise Problem("access-denied", f"{op} is for root: for libvirt's hooks")
        form, serve = _OF_HOOKS[op]
        request = form.parse(message)
        found = await serve(self._broker.hooks, request)
        return Reply({"ok": True, **(found or {})})

    def _as_problem(self, error: Exception, peer: Peer) -> Problem:
        """What a peer is told of an error. What is no OSError or Problem is a bug of ours."""
        if isinstance(error, OSError):
            error = Problem("no-device", str(error))
        if isinstance(error, Problem):
            self._refusals.note(peer, error)
            return error
        log.error("a request of user %d failed", peer.uid, exc_info=error)
        return Problem("internal", f"airtapd failed: {error}", "see airtapd's log")

    async def attach(self, request: requests.AttachRequest, peer: Peer) -> Reply:
        if request.kind is not None and peer.uid != 0:
            raise Problem("access-denied", "the kind of a device is for root alone to ask for")
        device, descriptor = await self._broker.attach(request, peer)
        return Reply({"ok": True, "device": device}, descriptor)

    async def release(self, request: requests.ReleaseRequest, peer: Peer) -> Reply:
        await self._broker.release(request, peer)
        return Reply()

    async def status(self, request: Request, peer: Peer) -> Reply:
        stream = status.packets(self._links, self._broker, peer)
        return Reply({"ok": True, "version": __version__}, stream=stream)

    async def trace(self, request: requests.TraceRequest, peer: Peer) -> Reply:
        stream = self._traces.packets(request.guest, peer)
        return Reply({"ok": True, "version": __version__}, stream=stream, endless=True)


class Refusals:
    """The log of what users were refused: so many lines a minute each, then a number."""

    def __init__(self) -> None:
        self._minute = 0
        self._lines: Counter[int] = Counter()

    def note(self, peer: Peer, problem: Problem) -> None:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            for uid, lines in self._lines.items():
                if lines > _REFUSALS_A_MINUTE:
                    log.info("user %d: %d more refused", uid, lines - _REFUSALS_A_MINUTE)
            self._minute = minute
            self._lines.clear()
        self._lines[peer.uid] += 1
        if self._lines[peer.uid] <= _REFUSALS_A_MINUTE:
            log.info("user %d, pid %d: refused: %s", peer.uid, peer.pid, problem)

"""airtapd's socket: connections and their limits, and what is done for each request.

A peer may be anybody and may send anything. One that sends garbage gets an answer that says
so; one that stalls, floods or vanishes costs one connection for a bounded time.
"""

import asyncio
import errno
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..errors import Problem, reason
from ..ipc import protocol, requests
from ..ipc.requests import Message, Request
from ..kernel import seqpacket
from ..kernel.credentials import Peer, peer_of
from ..kernel.links import Links
from . import status
from .broker import Broker
from .libvirt_hooks import LibvirtHooks
from .trace import Traces

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
# Places that users cannot fill, so that root can always look and release.
KEPT_FOR_ROOT = 64
MAX_CONNECTIONS_PER_USER = 128
# How long a peer may keep a connection without sending a request, or without reading an answer.
# A trace goes on until its reader hangs up.
IDLE_S = 10.0
_ACCEPT_BURST = 2
# How long to leave the backlog alone when descriptors have run out.
_ACCEPT_RETRY_S = 0.1
# A running request is given this long when the daemon ends; each takes milliseconds.
_FINISH_S = 5.0
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


@dataclass
class _User:
    """One who has connections. turn: held by the request at work, so another user waits for one."""

    connections: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Server:
    """Serves a listening SEQPACKET socket, from start() to close()."""

    def __init__(self, listener: socket.socket, broker: Broker, links: Links) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._users: dict[int, _User] = {}
        self._idle: set[asyncio.Task[None]] = set()
        self._traces = Traces(links, broker.mac_nat)
        self._requests = Requests(links, broker, self._traces)
        self._closer = seqpacket.Closer()
        self.accepted = 0
        self._closing = False

    @property
    def connections(self) -> int:
        return len(self._connections)

    def start(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        seqpacket.refuse_descriptors(self._listener)
        self._loop.add_reader(self._listener, self._accept_some)

    def move_to(self, listener: socket.socket) -> None:
        """Accept on another listening socket from now on."""
        self.stop_accepting()
        self._listener.close()
        self._listener = listener
        self.start()

    async def close(self) -> None:
        """Accept no more, let running requests end, drop the rest."""
        self.stop_accepting()
        self._closing = True
        self._traces.end()
        for task in self._idle:
            task.cancel()
        if self._connections:
            _done, pending = await asyncio.wait(self._connections, timeout=_FINISH_S)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def stop_accepting(self) -> None:
        self._loop.remove_reader(self._listener)

    def refuse_more(self) -> None:
        """Let nobody connect any more; who has is accepted."""
        self._listener.shutdown(socket.SHUT_RD)
        while self._accept_one():
            pass

    def _accept_some(self) -> None:
        # Not all that wait: two processes that only connect and close would keep us here.
        for _ in range(_ACCEPT_BURST):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # that is: shut down, and nobody waits any more
                # EMFILE and its kin: trying again at once would spin.
                log.warning("cannot accept: %s", reason(exc))
                self.stop_accepting()
                self._loop.call_later(_ACCEPT_RETRY_S, self._start_again)
            return False
        self._admit(connection)
        return True

    def _start_again(self) -> None:
        if not self._closing:
            self.start()

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            peer = peer_of(connection)
        except OSError as exc:
            log.warning("cannot tell who connected: %s", reason(exc))
            self._closer.close(connection)
            return
        if self._crowded(peer):
            busy = Problem("busy", "airtapd has too many connections open", "try again")
            with suppress(OSError):
                connection.send(protocol.encode(protocol.failure(busy)), socket.MSG_NOSIGNAL)
            self._closer.close(connection)
            return
        self.accepted += 1
        task = self._loop.create_task(self._serve(connection, peer))
        self._connections.add(task)
        self._users.setdefault(peer.uid, _User()).connections += 1
        task.add_done_callback(lambda task: self._gone(task, peer))

    def _crowded(self, peer: Peer) -> bool:
        if peer.uid == 0:
            return self.connections >= MAX_CONNECTIONS + KEPT_FOR_ROOT
        user = self._users.get(peer.uid, _User())
        return user.connections >= MAX_CONNECTIONS_PER_USER or self.connections >= MAX_CONNECTIONS

    def _gone(self, task: asyncio.Task[None], peer: Peer) -> None:
        self._connections.discard(task)
        self._users[peer.uid].connections -= 1
        if not self._users[peer.uid].connections:
            del self._users[peer.uid]
        self._idle.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection of user %d failed", peer.uid, exc_info=error)

    async def _serve(self, connection: socket.socket, peer: Peer) -> None:
        """Answer one peer's requests until it hangs up, is silent for IDLE_S, or airtapd ends."""
        task = asyncio.current_task()
        assert task is not None
        try:
            while not self._closing:
                self._idle.add(task)
                async with asyncio.timeout(IDLE_S):
                    packet = await seqpacket.receive(connection, protocol.MAX_REQUEST + 1)
                self._idle.discard(task)
                if not packet:
                    return
                await self._answer(connection, packet, peer)
        except (TimeoutError, ConnectionError) as exc:
            log.debug("user %d, pid %d: dropped: %r", peer.uid, peer.pid, exc)
        finally:
            if (closed := self._closer.close(connection)) is not None:
                await closed

    async def _answer(self, connection: socket.socket, packet: bytes, peer: Peer) -> None:
        async with AsyncExitStack() as turn:
            if peer.uid:  # libvirtd asks as root for all domains
                await turn.enter_async_context(self._users[peer.uid].turn)
                await asyncio.sleep(0)  # the event loop sees to all else between two requests
            async with aclosing(self._requests.replies(packet, peer)) as replies:
                async for reply in replies:
                    if reply.endless:  # it has begun, and what follows costs little
                        await turn.aclose()
                    await self._send(connection, reply)

    async def _send(self, connection: socket.socket, reply: Reply) -> None:
        """Send one packet. Raises ConnectionError or TimeoutError: the peer does not read."""
        packet = protocol.encode(reply.message)
        if reply.descriptor is None:
            async with asyncio.timeout(None if reply.endless else IDLE_S):
                await self._loop.sock_sendall(connection, packet)
            return
        try:
            socket.send_fds(connection, [packet], [reply.descriptor], socket.MSG_NOSIGNAL)
        except BlockingIOError as exc:
            raise ConnectionAbortedError("the peer does not read its answers") from exc


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
        config = self._broker.config
        counts = {"config": config.path, "acl": config.acl}
        return Reply({"ok": True, "version": __version__, **counts}, stream=stream)

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

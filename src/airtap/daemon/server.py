"""airtapd's socket: connections, their limits, and requests handed to the broker.

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
from contextlib import aclosing, suppress

from .. import __version__
from ..errors import Problem, reason
from ..ipc import protocol
from ..kernel import seqpacket
from ..kernel.credentials import Peer, peer_of
from ..kernel.links import Links
from . import status
from .broker import AttachRequest, Broker
from .libvirt_hooks import Card
from .trace import Traces

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
# Places that users cannot fill, so that root can always look and release.
KEPT_FOR_ROOT = 64
MAX_CONNECTIONS_PER_USER = 128
# How long a peer may keep a connection without sending a request, or without reading an answer.
# A trace goes on until its reader hangs up.
IDLE_S = 10.0
_ACCEPT_BURST = 16
_REFUSALS_A_MINUTE = 30
# How long to leave the backlog alone when descriptors have run out.
_ACCEPT_RETRY_S = 0.1
# A running request is given this long when the daemon ends; each takes milliseconds.
_FINISH_S = 5.0

_CARD = ("device", "mac", "uuid", "domain")

Message = dict[str, object]


class Server:
    """Serves a listening SEQPACKET socket, from start() to close()."""

    def __init__(self, listener: socket.socket, broker: Broker, links: Links) -> None:
        self._listener = listener
        self._broker = broker
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._by_user: Counter[int] = Counter()
        self._idle: set[asyncio.Task[None]] = set()
        self._refusals = Refusals()
        self._traces = Traces(links, broker.mac_nat)
        self._streams: dict[str, Callable[[Message, Peer], AsyncGenerator[Message, None]]] = {
            "status": self._status,
            "trace": self._trace,
        }
        self._calls: dict[str, Callable[[Message, Peer], Awaitable[tuple[Message, int | None]]]] = {
            "attach": self._attach,
            "release": self._release,
            "ready": self._ready,
            "prepare": self._prepare,
            "started": self._started,
            "here": self._here,
        }

        self.accepted = 0
        self._closing = False

    @property
    def connections(self) -> int:
        return len(self._connections)

    def start(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        self._no_descriptors = seqpacket.refuse_descriptors(self._listener)
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
                self._loop.call_later(_ACCEPT_RETRY_S, self.start)
            return False
        self._admit(connection)
        return True

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            peer = peer_of(connection)
        except OSError as exc:
            log.warning("cannot tell who connected: %s", reason(exc))
            connection.close()
            return
        if self._crowded(peer):
            busy = Problem("busy", "airtapd has too many connections open", "try again")
            with suppress(OSError):
                connection.send(protocol.encode(protocol.failure(busy)), socket.MSG_NOSIGNAL)
            connection.close()
            return
        self.accepted += 1
        task = self._loop.create_task(self._serve(connection, peer))
        self._connections.add(task)
        self._by_user[peer.uid] += 1
        task.add_done_callback(lambda task: self._gone(task, peer))

    def _crowded(self, peer: Peer) -> bool:
        if peer.uid == 0:
            return self.connections >= MAX_CONNECTIONS + KEPT_FOR_ROOT
        if self._by_user[peer.uid] >= MAX_CONNECTIONS_PER_USER:
            return True
        return self.connections >= MAX_CONNECTIONS

    def _gone(self, task: asyncio.Task[None], peer: Peer) -> None:
        self._connections.discard(task)
        self._by_user[peer.uid] -= 1
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
            await seqpacket.close(connection, self._no_descriptors)

    async def _answer(self, connection: socket.socket, packet: bytes, peer: Peer) -> None:
        fd = None
        try:
            try:
                request = _request(packet)
                op = request.get("op")
                if stream := self._streams.get(str(op)):
                    # Whoever stops reading a trace keeps no more than by reading it.
                    patience = None if op == "trace" else IDLE_S
                    async with aclosing(stream(request, peer)) as messages:
                        async for message in messages:
                            await self._send(connection, message, patience=patience)
                    answer: Message = {"ok": True, "version": __version__}
                elif call := self._calls.get(str(op)):
                    answer, fd = await call(request, peer)
                else:
                    raise Problem("bad-message", f"airtapd has no request {str(op)[:64]!r}")
            except (Problem, OSError) as exc:
                problem = exc if isinstance(exc, Problem) else Problem("no-device", str(exc))
                self._refusals.note(peer, problem)
                answer = protocol.failure(problem)
            except (ConnectionError, TimeoutError):
                raise
            except Exception as exc:
                log.exception("a request of user %d failed", peer.uid)
                failed = Problem("internal", f"airtapd failed: {exc}", "see airtapd's log")
                answer = protocol.failure(failed)
            await self._send(connection, answer, fd)
        finally:
            # The peer's copy, if it got one, keeps the device; else this was the last.
            if fd is not None:
                os.close(fd)

    async def _send(
        self,
        connection: socket.socket,
        message: Message,
        fd: int | None = None,
        *,
        patience: float | None = IDLE_S,
    ) -> None:
        """Send one packet. Raises ConnectionError or TimeoutError: the peer does not read.

        patience: for how many seconds it may not; None: until it hangs up.
        """
        packet = protocol.encode(message)
        if fd is None:
            async with asyncio.timeout(patience):
                await self._loop.sock_sendall(connection, packet)
            return
        try:
            socket.send_fds(connection, [packet], [fd], socket.MSG_NOSIGNAL)
        except BlockingIOError as exc:
            raise ConnectionAbortedError("the peer does not read its answers") from exc

    async def _attach(self, request: Message, peer: Peer) -> tuple[Message, int | None]:
        _fields(request, {"op", "br", "mac", "vnet_hdr", "kind"})
        br, mac, vnet_hdr = request.get("br"), request.get("mac"), request.get("vnet_hdr", False)
        kind = request.get("kind")
        if (
            not isinstance(br, str)
            or not isinstance(mac, str | None)
            or not isinstance(vnet_hdr, bool)
            or not isinstance(kind, str | None)
        ):
            raise Problem(
                "bad-message", "attach wants br: text, mac: text, vnet_hdr: true|false, kind: text"
            )
        if kind is not None and peer.uid != 0:
            raise Problem("access-denied", "the kind of a device is for root alone to ask for")
        device, fd = await self._broker.attach(AttachRequest(br, mac, vnet_hdr, kind), peer)
        return {"ok": True, "device": device}, fd

    async def _release(self, request: Message, peer: Peer) -> tuple[Message, int | None]:
        _fields(request, {"op", "device", "uuid"})
        device, uuid = request.get("device"), request.get("uuid")
        if not isinstance(device, str) or not isinstance(uuid, str | None):
            raise Problem("bad-message", "release wants device: text, uuid: text")
        await self._broker.release(device, uuid, peer)
        return {"ok": True}, None

    async def _ready(self, request: Message, peer: Peer) -> tuple[Message, int | None]:
        (parent,) = _hook_request(request, peer, "parent")
        await self._broker.domains.make_ready(parent)
        return {"ok": True}, None

    async def _prepare(self, request: Message, peer: Peer) -> tuple[Message, int | None]:
        *card, parent, kind = _hook_request(request, peer, *_CARD, "parent", "kind")
        await self._broker.domains.prepare(Card(*card), parent, kind)
        return {"ok": True}, None

    async def _started(self, request: Message, peer: Peer) -> tuple[Message, int | None]:
        card = _hook_request(request, peer, *_CARD)
        await self._broker.domains.note_started(Card(*card))
        return {"ok": True}, None

    async def _here(self, request: Message, peer: Peer) -> tuple[Message, int | None]:
        _only_root(request, peer)
        _fields(request, {"op", "names"})
        names = request.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Problem("bad-message", "here wants names: a list of text")
        parents, aliases = await self._broker.domains.here(names)
        return {"ok": True, "parents": parents, "aliases": aliases}, None

    def _status(self, request: Message, peer: Peer) -> AsyncGenerator[Message, None]:
        _fields(request, {"op"})
        return status.packets(self._links, self._broker, peer)

    def _trace(self, request: Message, peer: Peer) -> AsyncGenerator[Message, None]:
        _fields(request, {"op", "guest"})
        guest = request.get("guest")
        if not isinstance(guest, str):
            raise Problem("bad-message", "trace wants guest: text")
        return self._traces.packets(guest, peer)


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


def _request(packet: bytes) -> Message:
    if len(packet) > protocol.MAX_REQUEST:
        raise Problem("bad-message", f"the request is longer than {protocol.MAX_REQUEST} bytes")
    return protocol.decode(packet)


def _fields(request: Message, known: set[str]) -> None:
    for key in request:
        if key not in known:
            raise Problem("bad-message", f"the request has an unknown field {key[:64]!r}")


def _only_root(request: Message, peer: Peer) -> None:
    if peer.uid != 0:
        raise Problem("access-denied", f"{request['op']} is for root: for libvirt's hooks")


def _hook_request(request: Message, peer: Peer, *keys: str) -> list[str]:
    """What stands at these keys, which are all that there are. Raises Problem."""
    _only_root(request, peer)
    _fields(request, {"op", *keys})
    values = [value for key in keys if isinstance(value := request.get(key), str)]
    if len(values) < len(keys):
        raise Problem("bad-message", f"{request['op']} wants {': text, '.join(keys)}: text")
    return values

"""airtapd: makes guests' devices on request and removes them when the guests are gone."""

import argparse
import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress

from .. import __version__, config
from ..errors import Problem, reason
from ..ipc import protocol
from ..ipc.listen import answers, bind, give_up, locked
from ..kernel.links import open_links, rtnetlink
from .broker import Broker
from .dispatcher import Dispatcher
from .server import Server
from .uninstall import clean_up

log = logging.getLogger("airtapd")

_FIRST_PASSED_FD = 3  # SD_LISTEN_FDS_START
_SWITCH_S = 0.0005


def main() -> int:
    """Entry point. Returns the exit status."""
    arguments = parser().parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="airtapd: %(message)s")
    try:
        if os.geteuid() != 0:
            raise Problem("not-root", "airtapd makes network devices and must run as root")
        if arguments.clean_up:
            asyncio.run(clean_up(arguments.socket))
            return 0
        settings = config.load(arguments.config)
        _allow_many_files()
        # Threads wait that long for each system call's return, while the event loop is busy.
        sys.setswitchinterval(_SWITCH_S)
        asyncio.run(Daemon(arguments, settings).run(_passed_listener()))
    except (Problem, OSError) as exc:
        print(f"airtapd: {exc}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line. The manual page is held against it."""
    parser = argparse.ArgumentParser(
        prog="airtapd",
        description="Make network devices for QEMU and libvirt guests, in the foreground.",
        epilog="SIGHUP reads the configuration again. SIGTERM ends airtapd; guests go on, and "
        "the next airtapd takes them over.",
    )
    parser.add_argument("--config", metavar="FILE", help=f"default: {config.DEFAULT_PATH}")
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=os.environ.get("AIRTAP_SOCKET") or protocol.DEFAULT_SOCKET,
        help=f"where to listen, unless systemd passes a socket; default: {protocol.DEFAULT_SOCKET}",
    )
    parser.add_argument(
        "--exit-when-idle",
        metavar="SECONDS",
        type=float,
        help="end after so long without a guest or a connection (for daemons that a client starts)",
    )
    parser.add_argument(
        "--clean-up",
        action="store_true",
        help="after airtapd was stopped for good: take what it has left off this host, and end",
    )
    parser.add_argument("--version", action="version", version=f"airtapd {__version__}")
    return parser


class Daemon:
    """One run of airtapd, from a listening socket to the end."""

    def __init__(self, arguments: argparse.Namespace, settings: config.Config) -> None:
        self._config_path: str | None = arguments.config
        self._idle_s: float | None = arguments.exit_when_idle
        self._path: str = arguments.socket
        # A socket that a client passed is as good as our own; systemd keeps its own.
        self._owns_path = self._idle_s is not None
        self._settings = settings
        self._stop = asyncio.Event()

    async def run(self, passed: socket.socket | None) -> None:
        """Serve on a passed listening socket, or on our own, until told to stop or idle.

        Raises Problem where that cannot begin.
        """
        # What blocks runs in one thread: loading programs, asking nl80211.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with AsyncExitStack() as stack:
            links = await stack.enter_async_context(open_links())
            ipr = await stack.enter_async_context(rtnetlink())
            if passed is not None:
                self._path = passed.getsockname()
            environment = {"AIRTAP_SOCKET": self._path}
            if self._config_path is not None:
                environment["AIRTAP_CONFIG"] = self._config_path
            dispatcher = Dispatcher(environment)
            stack.push_async_callback(dispatcher.close)
            broker = Broker(self._settings, links, ipr, dispatcher)
            stack.push_async_callback(broker.close)
            if passed is not None:
                await broker.recover()
            self._handle_signals(broker)
            listener = passed or await self._listen(broker)
            server = Server(listener, broker, links)
            stack.push_async_callback(server.close)
            server.start()
            _notify("READY=1")
            log.info("%s listens at %s", __version__, self._path)
            await self._serve(broker, server)
            _notify("STOPPING=1")

    async def _listen(self, broker: Broker) -> socket.socket:
        """Take over from an earlier daemon, then listen: who can connect sees the outcome.

        Raises Problem already-running or bad-socket.
        """
        try:
            with locked(self._path):
                if not answers(self._path):
                    await broker.recover()
                    self._owns_path = True
                    return bind(self._path)
        except OSError as exc:
            raise Problem("bad-socket", f"cannot listen at {self._path}: {reason(exc)}") from exc
        raise Problem("already-running", f"an airtapd answers at {self._path} already")

    async def _serve(self, broker: Broker, server: Server) -> None:
        """Return when told to stop, or idle; a path of ours is given up by then.

        The socket is shut down under the lock before idleness is certain: whoever comes later
        is refused, waits for the lock, and starts a successor.
        """
        while not await self._stopped_or_idle(broker, server):
            with locked(self._path):
                server.refuse_more()
                if not server.connections:
                    log.info("nothing to do for %g s: ends", self._idle_s)
                    give_up(self._path)
                    return
                server.move_to(bind(self._path))
        if self._owns_path:
            with locked(self._path):
                give_up(self._path)

    async def _stopped_or_idle(self, broker: Broker, server: Server) -> bool:
        """True when told to stop; false when there was nobody for as long as was asked."""
        while True:
            accepted = server.accepted
            with suppress(TimeoutError):
                async with asyncio.timeout(self._idle_s):
                    await self._stop.wait()
                    return True
            if not (broker.is_needed() or server.connections or server.accepted != accepted):
                return False

    def _handle_signals(self, broker: Broker) -> None:
        def reload() -> None:
            try:
                broker.config = config.load(self._config_path)
                broker.mac_nat.enqueue()
                log.info("the configuration is read again")
            except Problem as problem:
                log.error("the configuration stays as it was: %s", problem)

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)


def _passed_listener() -> socket.socket | None:
    """The listening socket that systemd or a client passed (sd_listen_fds(3)), if any.

    Raises Problem bad-socket.
    """
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    if not count or pid != str(os.getpid()):
        return None
    try:
        listener = socket.socket(fileno=_FIRST_PASSED_FD)
        listener.set_inheritable(False)
    except OSError as exc:
        raise Problem("bad-socket", f"cannot use the socket passed: {reason(exc)}") from exc
    wanted = (socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if count != "1" or (listener.family, listener.type) != wanted:
        hint = "see ListenSequentialPacket= in data/"
        raise Problem("bad-socket", "airtapd wants one Unix socket", hint)
    return listener


def _allow_many_files() -> None:
    """Raise the soft limit: a guest that has not spoken yet and a connection cost one each."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _notify(state: str) -> None:
    """Tell systemd, if it waits to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, suppress(OSError):
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.send(state.encode())

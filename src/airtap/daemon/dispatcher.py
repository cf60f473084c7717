"""What guests need when their uplink has gone elsewhere, or away and back.

airtapd talks neither to libvirt nor to QEMU, which may be slow, be hung, or wait for airtapd
itself, and may be a user's. It runs the operator's own commands, each for a bounded time, and those
of one user one after the other:

- on another network or the first, and after a long sleep, `airtap domain renew`, and for each user
  with guests there `airtap renew`: link down and up, so that guests ask for new leases;
- once an uplink that had gone is back and has carrier, and at the daemon's start, `airtap domain
  replug`: new devices.

What failed is tried again after a while: a guest may not have released its card. Both look at what
there is and do what is needed, so to run one too often does no harm.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

from ..errors import Problem
from ..ipc.activation import find_program
from ..kernel.links import IFF_RUNNING, Link
from ..uris import system_listens

log = logging.getLogger(__name__)

# The commands bound their own steps: 10 s for a guest to release a card.
_PATIENCE_S = 120.0
# What is a user's may not answer, and is not to keep others waiting. A command takes some 25 MB.
_USERS_PATIENCE_S = 30.0
_USERS_AT_ONCE = 4
_END_S = 5.0
_AWAITED = 64
# Bytes of what a command says that are read.
_SAID = 1 << 16
# A guest's system may be booting, or asleep.
_AGAIN_S = (15.0, 60.0, 300.0)


class Dispatcher:
    """Runs those commands, with an environment of ours besides. Needs an event loop."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._awaited: dict[str, None] = {}
        self._by_libvirt = _Commands(environment, _PATIENCE_S, asyncio.Semaphore())
        self._by_user: dict[int, _Commands] = {}
        self._users = asyncio.Semaphore(_USERS_AT_ONCE)

    async def close(self) -> None:
        """End what runs. A guest's link that is down for the moment comes up first."""
        running = self._by_libvirt, *self._by_user.values()
        await asyncio.gather(*(commands.close() for commands in running))

    def is_awaiting(self) -> bool:
        """Whether an uplink is to come back."""
        return bool(self._awaited)

    def renew(self, uplink: str, users: Iterable[int], then: Callable[[], None]) -> None:
        """Have guests on an uplink ask for new leases: libvirt's, and those of users (uids).

        then: called when libvirt's have been seen to.
        """
        for uid in users:
            own = _Commands(self._environment, _USERS_PATIENCE_S, self._users)
            self._by_user.setdefault(uid, own).want("renew", "--user", str(uid), "--parent", uplink)
        if _has_libvirt():
            self._by_libvirt.want("domain", "renew", "--parent", uplink, then=then)
        else:
            then()

    def uplink_lost(self, uplink: str) -> None:
        """An uplink is gone. Guests of an alias may have another; the rest waits for its return."""
        self.resync()
        if not _has_libvirt():
            return
        self._awaited.pop(uplink, None)
        self._awaited[uplink] = None
        if len(self._awaited) > _AWAITED:
            del self._awaited[next(iter(self._awaited))]

    def resync(self) -> None:
        """Have all guests looked at, for an uplink that went while no daemon was there."""
        if _has_libvirt():
            self._by_libvirt.want("domain", "replug")

    def uplink_seen(self, link: Link) -> None:
        """Look at a device, which may be an uplink that has come back."""
        if link.name in self._awaited and link.flags & IFF_RUNNING:
            del self._awaited[link.name]
            log.info("%s is back", link.name)
            self._by_libvirt.want("domain", "replug", "--parent", link.name)


class _Commands:
    """Commands of airtap's that run one after the other, each for so many seconds at most.

    places are for all that may run beside them.
    """

    def __init__(
        self, environment: Mapping[str, str], patience: float, places: asyncio.Semaphore
    ) -> None:
        self._environment = environment
        self._patience = patience
        self._places = places
        self._wanted: dict[tuple[str, ...], Callable[[], None]] = {}
        self._tries: dict[tuple[str, ...], int] = {}
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def want(self, *words: str, then: Callable[[], None] = lambda: None) -> None:
        """Have a command run. then: called when it has succeeded."""
        self._wanted[words] = then
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run_all(), name="dispatcher")

    async def _run_all(self) -> None:
        while self._wanted:
            words = next(iter(self._wanted))
            then = self._wanted.pop(words)
            try:
                async with self._places:
                    succeeded = await self._run(words)
                if succeeded:
                    self._tries.pop(words, None)
                    then()
                else:
                    self._try_later(words, then)
            except (Problem, OSError) as exc:
                log.error("airtap %s: %s", " ".join(words), exc)
            except Exception:
                log.exception("airtap %s", " ".join(words))

    def _try_later(self, words: tuple[str, ...], then: Callable[[], None]) -> None:
        """Do again what has failed, unless that was often enough."""
        tried = self._tries.pop(words, 0)
        if tried < len(_AGAIN_S):
            self._tries[words] = tried + 1
            again = partial(self.want, *words, then=then)
            asyncio.get_running_loop().call_later(_AGAIN_S[tried], again)

    async def _run(self, words: tuple[str, ...]) -> bool:
        """Run one of the commands; return whether it succeeded.

        One that has become a user cannot be ended by us, and may be stopped by that user: there is
        no next one while it is there.
        """
        if self._process and self._process.returncode is None:
            return False
        process = self._process = await asyncio.create_subprocess_exec(
            find_program("airtap"),
            *words,
            env={**os.environ, **self._environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._patience):
                said = b""
                while more := await process.stdout.read(_SAID - len(said)):
                    said += more
                await process.wait()
            for line in said.decode(errors="replace").splitlines():
                log.info("%s: %s", " ".join(words[:-2] or words), line)
        except TimeoutError:
            log.error("airtap %s has not ended in %g s", " ".join(words), self._patience)
        finally:
            await _end(process)
        return process.returncode == 0


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a command that still runs, if we may: it brings up what it has taken down."""
    with suppress(ProcessLookupError, PermissionError):
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _END_S)
            except TimeoutError:
                process.kill()


def _has_libvirt() -> bool:
    return "LIBVIRT_DEFAULT_URI" in os.environ or system_listens()

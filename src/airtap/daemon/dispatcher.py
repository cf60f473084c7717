"""What libvirt's guests need when their uplink has gone elsewhere, or away and back.

airtapd does not talk to libvirt, which may be slow, be hung, or wait for airtapd itself. It runs
the operator's own commands, one after the other, each for a bounded time:

- on another network or the first, and after a long sleep, `airtap domain renew`: link down and up,
  so that guests ask for new leases;
- once an uplink that had gone is back and has carrier, and at the daemon's start, `airtap domain
  replug`: new devices.

What failed is tried again after a while: a guest may not have released its card. Both look at what
there is and do what is needed, so to run one too often does no harm.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from ..errors import Problem
from ..ipc.activation import find_program
from ..kernel.links import IFF_RUNNING, Link
from ..uris import system_listens

log = logging.getLogger(__name__)

# The commands bound their own steps: 10 s for a guest to release a card.
_PATIENCE_S = 120.0
_END_S = 5.0
_AWAITED = 64
# A guest's system may be booting, or asleep.
_AGAIN_S = (15.0, 60.0, 300.0)


class Dispatcher:
    """Runs those commands, with an environment of ours besides. Needs an event loop."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._awaited: dict[str, None] = {}
        self._wanted: dict[tuple[str, ...], Callable[[], None]] = {}
        self._tries: dict[tuple[str, ...], int] = {}
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run_forever(), name="dispatcher")

    async def close(self) -> None:
        """End what runs. A guest's link that is down for the moment comes up first."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def is_awaiting(self) -> bool:
        """Whether an uplink is to come back."""
        return bool(self._awaited)

    def renew(self, uplink: str, then: Callable[[], None]) -> None:
        """Have libvirt's guests on an uplink ask for new leases. then: called when that is done."""
        self._want("renew", "--parent", uplink, then=then)

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
        self._want("replug")

    def uplink_seen(self, link: Link) -> None:
        """Look at a device, which may be an uplink that has come back."""
        if link.name in self._awaited and link.flags & IFF_RUNNING:
            del self._awaited[link.name]
            log.info("%s is back", link.name)
            self._want("replug", "--parent", link.name)

    def _want(self, *words: str, then: Callable[[], None] = lambda: None) -> None:
        self._wanted[words] = then
        self._wake.set()

    async def _run_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                words = next(iter(self._wanted))
                then = self._wanted.pop(words)
                try:
                    if not _has_libvirt() or await self._run(words):
                        self._tries.pop(words, None)
                        then()
                    else:
                        self._try_later(words, then)
                except (Problem, OSError) as exc:
                    log.error("airtap domain %s: %s", " ".join(words), exc)
                except Exception:
                    log.exception("airtap domain %s", " ".join(words))

    def _try_later(self, words: tuple[str, ...], then: Callable[[], None]) -> None:
        """Do again what has failed, unless that was often enough."""
        tried = self._tries.pop(words, 0)
        if tried < len(_AGAIN_S):
            self._tries[words] = tried + 1
            again = partial(self._want, *words, then=then)
            asyncio.get_running_loop().call_later(_AGAIN_S[tried], again)

    async def _run(self, words: tuple[str, ...]) -> bool:
        """Run one of the commands; return whether it succeeded."""
        process = await asyncio.create_subprocess_exec(
            find_program("airtap"),
            *("domain", *words),
            env={**os.environ, **self._environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_PATIENCE_S):
                said, _ = await process.communicate()
            for line in said.decode(errors="replace").splitlines():
                log.info("domain %s: %s", words[0], line)
        except TimeoutError:
            log.error("airtap domain %s has not ended in %g s", " ".join(words), _PATIENCE_S)
        finally:
            await _end(process)
        return process.returncode == 0


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a command that still runs: it brings up what it has taken down."""
    with suppress(ProcessLookupError):
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _END_S)
            except TimeoutError:
                process.kill()


def _has_libvirt() -> bool:
    return "LIBVIRT_DEFAULT_URI" in os.environ or system_listens()

"""airtap try, from beginning to end. STEPS is what is tried, once for each kind of device.

The host looks on: of its network nothing is changed. All that a trial makes is there by descriptors
of this process, so that its end, of whatever kind, undoes it.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from pyroute2.netlink.exceptions import NetlinkError

from ..config import MODES
from ..errors import Problem, reason
from ..ipc import aio
from ..kernel.links import LinkNotFound
from ..names import random_mac
from . import device, host_access, ipv4, ipv6
from .context import TrialContext
from .host import TrialHost, open_host
from .steps import FAILED, PASSED, SKIPPED, Failed, ProgressCallbacks, Report, Skipped, Step, Trial

Method = Callable[[TrialContext], Awaitable[str]]

# Each returns what it saw, or raises Failed, Skipped, Problem, OSError, NetlinkError. Without those
# of FIRST nothing else makes sense; the others are tried one and all.
FIRST: tuple[tuple[str, Method], ...] = (
    ("uplink", device.look_at_uplink),
    ("device", device.make_device),
    ("macnat", device.look_at_mac_nat),
)
STEPS: tuple[tuple[str, Method], ...] = (
    ("lease", ipv4.get_lease),
    ("gateway4", ipv4.resolve_gateway),
    ("ping4", ipv4.ping_gateway),
    ("address6", ipv6.autoconfigure),
    ("gateway6", ipv6.resolve_gateway),
    ("ping6", ipv6.ping_gateway),
    ("guest_to_host4", partial(host_access.guest_to_host, family=4)),
    ("host_to_guest4", partial(host_access.host_to_guest, family=4)),
    ("guest_to_host6", partial(host_access.guest_to_host, family=6)),
    ("host_to_guest6", partial(host_access.host_to_guest, family=6)),
)


async def run(name: str, kind: str | None, seconds: float, progress: ProgressCallbacks) -> Report:
    """Try guests on a device.

    name: the device's, or an alias.
    kind: the only one to try; None for all that the device can carry.
    seconds: how long each step may take.

    Raises Problem: nothing could be tried at all.
    """
    try:
        async with open_host(await aio.resolve(name)) as host:
            report = Report(name, host.name, host.type)
            mac = random_mac()
            for trial in await _trials(host, kind):
                report.trials.append(trial)
                trial.mac = "" if trial.not_tried else mac
                progress.trial(trial)
                if not trial.not_tried:
                    await _try(TrialContext(host, trial, seconds, progress), only=kind is not None)
                if trial.steps and trial.steps[0].result == FAILED:
                    break  # the uplink: it would be the same again
            return report
    except BrokenPipeError:  # nobody reads on, as in `airtap try eth0 | head -1`
        raise
    except LinkNotFound as exc:
        raise Problem("no-such-device", f"{name} has gone") from exc
    except OSError as exc:
        raise Problem("no-device", f"cannot look at {name}: {reason(exc)}") from exc


async def _trials(host: TrialHost, kind: str | None) -> list[Trial]:
    """Return which kinds to try on a device, and which not, and why."""
    if host.type == "bridge":
        if kind:
            what = f"{host.name} is a bridge, and takes no {kind}"
            raise Problem("bad-kind", what, "omit --kind")
        return [Trial("bridge")]
    if kind:
        return [Trial(kind)]
    child, carried = await host.child()
    busy = f"{host.name} carries {carried} guests ({child}), and one kind excludes the other"
    return [Trial(each, not_tried="" if carried in ("", each) else busy) for each in MODES]


async def _try(context: TrialContext, only: bool) -> None:
    """Go through the steps with a new guest. only: whether it is this kind that was asked for."""
    try:
        for name, method in FIRST:
            if not await _step(context, name, method, only):
                return
        for name, method in STEPS:
            await _step(context, name, method, only)
    finally:
        await _undo(context)


async def _step(context: TrialContext, name: str, method: Method, only: bool) -> bool:
    """Do a step and tell of it; return whether to go on."""
    context.progress.begin(name)
    context.begin()
    began = time.monotonic()
    result, hint, end = PASSED, "", False
    try:
        detail = await method(context)
    except Skipped as exc:
        result, detail = SKIPPED, str(exc)
    except Failed as exc:
        result, detail, hint = FAILED, exc.seen, exc.hint
    except Problem as exc:
        # A kernel that cannot make the one kind is well as long as nobody wants that.
        end = exc.code == "no-kind" and not only
        result, detail, hint = (SKIPPED if end else FAILED), exc.message, exc.hint
    except BrokenPipeError:  # see run()
        raise
    except OSError as exc:
        result, detail = FAILED, reason(exc)
    except NetlinkError as exc:
        result, detail = FAILED, str(exc.args[-1])
    if result == FAILED:
        hint = "; ".join(filter(None, (hint, f"see: airtap doctor {context.host.name}")))
    step = Step(name, result, time.monotonic() - began, detail, hint)
    context.trial.steps.append(step)
    context.progress.end(step)
    return result != FAILED and not end


async def _undo(context: TrialContext) -> None:
    """Give the lease back, have the device removed, let the guest go."""
    guest = context.maybe_guest
    try:
        if guest and context.lease:
            with suppress(OSError):
                await context.lease.release()
    finally:
        try:
            if context.trial.device:  # at once; closing the tap would do as well
                await aio.release(context.trial.device)
        finally:
            if guest:
                await guest.close()

"""Whether host and guest reach each other, where host access is on."""

import asyncio

from ..ipc import aio
from ..kernel.addresses import Address
from .context import TrialContext, resolution
from .host import Interface
from .steps import Failed, Skipped

# Guests on macvtaps without MAC NAT meet the host half a second after they came, plus what it takes
# to load the programs (macnat/children.py).
_SOON_S = 5.0
_LOOK_S = 0.1
_FIREWALL = "a firewall of this host may drop it: nft list ruleset"


async def guest_to_host(context: TrialContext, family: int) -> str:
    """family: of their addresses, 4 or 6."""
    guest, host = await _ends(context, family)
    how = resolution(host)
    context.progress.waits(f"the host to answer {how} for {host}")
    mac = await context.guest.resolve(host, context.seconds)
    if mac is None:
        what = f"the host does not answer {how} for {host}; {await context.frames()}"
        raise Failed(what, _FIREWALL)
    context.progress.waits(f"the host to answer a ping at {host}")
    echo = await context.guest.ping(host, context.seconds)
    if echo.seconds is None:
        what = f"the host answers {how} for {host}, but no ping; {await context.frames()}"
        raise Failed(what, _FIREWALL)
    return f"{guest} pings {host} in {echo.seconds * 1000:.1f} ms"


async def host_to_guest(context: TrialContext, family: int) -> str:
    """family: of their addresses, 4 or 6."""
    guest, host = await _ends(context, family)
    context.progress.waits(f"the guest to answer the host's ping at {guest}")
    echo = await context.host.ping(guest, context.seconds)
    if echo.seconds is not None:
        return f"{host} pings {guest} in {echo.seconds * 1000:.1f} ms"
    if echo.refused:
        raise Failed(f"the host would not send to {guest}: {echo.refused}", _FIREWALL)
    heard = "no ping" if await context.host.knows(guest) else f"neither {resolution(host)} nor ping"
    raise Failed(f"the host hears {heard} of {guest}; {await context.frames()}", _FIREWALL)


async def _ends(context: TrialContext, family: int) -> tuple[Address, Address]:
    """Return the guest's address and the host's, with no router between. Raises Skipped."""
    name = context.host.name
    if not await _meets_host(context):
        raise Skipped(
            f"host access is off on {name}: host_access = false in airtap.toml, or a mode other"
            " than bridge"
        )
    own = _own(context, family)
    if not own:
        raise Skipped(f"the guest has no IPv{family} address")
    hosts = await context.host.addresses(family)
    for mine in own:
        for theirs in hosts:
            near = mine.ip in theirs.network and mine.ip != theirs.ip
            if near and await context.guest.is_on_link(theirs.ip):
                return mine.ip, theirs.ip
    raise Skipped(f"on {name} the host has no IPv{family} address on one link with the guest's")


def _own(context: TrialContext, family: int) -> list[Interface]:
    if family == 6:
        return [each for each in (context.address6, context.link_local) if each]
    return [context.lease.interface] if context.lease else []


async def _meets_host(context: TrialContext) -> bool:
    """Return whether host access is on. It may come a little later, which is waited for once."""
    if context.meets_host is None and context.trial.kind == "bridge":
        context.meets_host = True
    loop = asyncio.get_running_loop()
    end = loop.time() + min(_SOON_S, context.seconds)
    while context.meets_host is None:
        uplink, _ = await aio.status(context.host.name, context.trial.device)
        if uplink.get("host_access") or loop.time() >= end:
            context.meets_host = bool(uplink.get("host_access"))
        else:
            context.progress.waits("airtapd to switch host access on")
            await asyncio.sleep(_LOOK_S)
    return context.meets_host

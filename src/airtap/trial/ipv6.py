"""The steps of IPv6: an address by autoconfiguration (SLAAC), and the router that offers it.

A network need not offer IPv6. It does not, if neither the guest nor the host has heard a router.
"""

import asyncio

from . import gateway
from .context import TrialContext
from .guest import GuestAddress6
from .steps import Failed, Skipped

_LOOK_S = 0.1


async def autoconfigure(context: TrialContext) -> str:
    """Wait for an address. The guest's kernel solicits routers since the guest is up."""
    context.progress.waits("a router advertisement, and for an IPv6 address by it")
    own = await _wait_for_address(context)
    if not own:
        raise Skipped("this host has no IPv6")
    if taken := [str(each.interface.ip) for each in own if each.duplicate]:
        what = f"somebody answers for {', '.join(taken)}: duplicate address detection failed"
        raise Failed(what, "an access point or switch that answers in others' place may do that")
    if found := _usable(own, link_local=False):
        context.address6 = found.interface
        return f"{found.interface}, router {context.gateway6 or 'none'}"
    if context.gateway6:
        what = "advertises no prefix for autoconfiguration (DHCPv6 only?)"
        raise Skipped(f"{context.gateway6} {what}")
    if await context.host.hears_routers():
        raise Failed(
            "no router advertisement came, though the host has its router by one;"
            f" {await context.frames()}",
            gateway.one_mac_hint(context),
        )
    raise Skipped("not offered here: no router advertisement came")


async def _wait_for_address(context: TrialContext) -> list[GuestAddress6]:
    """Return the guest's addresses, once one is autoconfigured or time is up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + context.seconds
    while True:
        own = await context.guest.addresses6()
        # The kernel drops a router that answers without saying that it is one.
        context.gateway6 = await context.guest.router6() or context.gateway6
        if link_local := _usable(own, link_local=True):
            context.link_local = link_local.interface
        done = _usable(own, link_local=False) or any(each.duplicate for each in own)
        if done or not own or loop.time() >= end:
            return own
        await asyncio.sleep(_LOOK_S)


def _usable(own: list[GuestAddress6], link_local: bool) -> GuestAddress6 | None:
    kind = (each for each in own if each.interface.ip.is_link_local == link_local)
    return next((each for each in kind if each.ready), None)


async def resolve_gateway(context: TrialContext) -> str:
    """Resolve the router by neighbour discovery."""
    if context.gateway6 is None:
        raise Skipped("no IPv6 router is known")
    return await gateway.resolve(context, context.gateway6)


async def ping_gateway(context: TrialContext) -> str:
    """Ping the router."""
    if context.gateway6 is None or context.gateway6 not in context.macs:
        raise Skipped("no IPv6 router is resolved")
    return await gateway.ping(context, context.gateway6)

"""The steps of IPv4: a lease, and the gateway."""

from . import gateway, lease
from .context import TrialContext
from .lease import NoLease
from .steps import Failed, Skipped


async def get_lease(context: TrialContext) -> str:
    """Get a lease of the LAN's DHCP server, for the guest's MAC."""
    try:
        context.lease = await lease.get(context.guest, context.seconds, context.progress.waits)
    except NoLease as exc:
        what, hint = await _why_no_lease(context, str(exc))
        raise Failed(f"{what}; {await context.frames()}", hint) from exc
    answer = context.lease.answer
    await context.guest.take_address(answer.address, answer.network)
    if answer.routers:
        context.gateway4 = answer.routers[0]
        await context.guest.take_router(context.gateway4)
    return f"{answer.address}/{answer.network.prefixlen} from {answer.server}"


async def _why_no_lease(context: TrialContext, seen: str) -> tuple[str, str]:
    """Return what was seen, where airtapd knows better than the guest, and what to do."""
    dhcp = await context.dhcp()
    if dhcp.get("hosts_address"):
        seen = "the DHCP server leases one address for each MAC, and offers guests the host's own"
        return seen, (
            "give guests static addresses, or have the server go by client identifiers (option 61);"
            ' where the LAN takes requests that name a guest, set dhcp = "keep" in airtap.toml'
        )
    hint = gateway.one_mac_hint(context)
    name = context.host.name
    if dhcp.get("as_uplink"):
        hint += f" If other frames pass, there is no DHCP server: requests that name {name} as"
        hint += " their client, as DHCP snooping wants it, are not answered either"
    elif dhcp:
        hint += " If other frames pass, DHCP snooping may drop requests that name a guest: set"
        hint += ' dhcp = "uplink" in airtap.toml'
    return seen, hint


async def resolve_gateway(context: TrialContext) -> str:
    """Resolve the lease's router by ARP, or without a lease the host's."""
    if context.lease is None:
        return await _resolve_hosts_gateway(context)
    if context.gateway4 is None:
        raise Skipped(f"{context.lease.answer.server} names no router")
    return await gateway.resolve(context, context.gateway4)


async def _resolve_hosts_gateway(context: TrialContext) -> str:
    """See whether anything passes at all, by a question that takes no address."""
    gateways = await context.host.gateways4()
    if not gateways:
        raise Skipped(f"neither the guest nor the host has a gateway on {context.host.name}")
    told = f"{gateways[0]}, the host's gateway,"
    context.progress.waits(f"{told} to answer ARP")
    mac = await context.guest.resolve_unconfigured(gateways[0], context.seconds)
    if mac is None:
        what = f"{told} does not answer ARP; {await context.frames()}"
        raise Failed(what, gateway.one_mac_hint(context))
    return f"{told} is at {mac}: frames do pass"


async def ping_gateway(context: TrialContext) -> str:
    """Ping the gateway of the lease."""
    if context.lease is None:
        raise Skipped("the guest has no IPv4 address")
    if context.gateway4 is None or context.gateway4 not in context.macs:
        raise Skipped("no gateway is resolved")
    return await gateway.ping(context, context.gateway4)

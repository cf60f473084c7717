"""How a guest finds and pings a gateway, over IPv4 or IPv6."""

from ..kernel.addresses import Address
from .context import TrialContext, resolution
from .steps import Failed


async def resolve(context: TrialContext, gateway: Address) -> str:
    """Have the guest's own kernel find out the gateway's MAC."""
    how = resolution(gateway)
    context.progress.waits(f"{gateway} to answer {how}")
    mac = await context.guest.resolve(gateway, context.seconds)
    if mac is None:
        what = f"{gateway} does not answer {how}; {await context.frames()}"
        raise Failed(what, one_mac_hint(context))
    context.macs[gateway] = mac
    return f"{gateway} is at {mac}"


async def ping(context: TrialContext, gateway: Address) -> str:
    """Ping a gateway. One that resolves and does not answer is set up so: that is no failure."""
    context.progress.waits(f"{gateway} to answer a ping")
    echo = await context.guest.ping(gateway, context.seconds)
    if echo.seconds is None:
        return f"{gateway} resolves but does not answer pings, as some are set to"
    return f"{gateway} answers in {echo.seconds * 1000:.1f} ms"


def one_mac_hint(context: TrialContext) -> str:
    """Return what may be amiss where nothing comes back."""
    host = context.host
    if host.type == "bridge":
        return (
            f"do the ports of {host.name} lead to the LAN, and does that take any MAC? With STP on,"
            " a new port forwards after half a minute only: --timeout 60"
        )
    if host.takes_one_mac or context.mac_nat:
        return f"does the host itself get through on {host.name}?"
    return (
        f"if the LAN takes one MAC only from {host.name} (port security, a rented server), set"
        ' macnat = "on" for it in airtap.toml'
    )

"""The first steps: whether the uplink is fit, airtapd can make a device on it, and MAC NAT is as
needed."""

from ..ipc import aio
from ..uplink import is_up
from .context import TrialContext
from .guest import TrialGuest
from .steps import Failed


async def look_at_uplink(context: TrialContext) -> str:
    """See that the uplink is up and has a carrier.

    airtapd would bring it up, which is not for a trial to do.
    """
    host = context.host
    link = await host.link()
    if not link.up:
        raise Failed(f"{host.name} is down", f"bring it up: ip link set {host.name} up")
    if not is_up(link):
        what = "join a network" if host.type.startswith("wifi") else "plug a cable in"
        raise Failed(f"{host.name} has no carrier", what)
    return f"{host.name} is up, {host.type}, {link.mac}"


async def make_device(context: TrialContext) -> str:
    """Have airtapd make a device, as it does for QEMU, and a guest behind it."""
    trial, host = context.trial, context.host
    kind = None if trial.kind == "bridge" else trial.kind
    trial.device, tap = await aio.attach(host.name, trial.mac, kind)
    guest = TrialGuest(tap, trial.mac)
    context.maybe_guest = guest
    await guest.start()
    what = "tap" if kind is None else kind
    return f"{what} {trial.device} for a guest {trial.mac}"


async def look_at_mac_nat(context: TrialContext) -> str:
    """See that MAC NAT is on, or not needed as far as can be told beforehand."""
    host = context.host
    uplink, _ = await aio.status(host.name, context.trial.device)
    off = f'macnat = "off" is set for {host.name}'
    context.mac_nat = bool(uplink.get("macnat"))
    if context.mac_nat:
        return f"on: guests' frames leave with the MAC of {host.name}"
    if context.trial.kind == "ipvtap":
        raise Failed(
            f"{off}, so a guest on an ipvtap has to use the MAC, and gets the lease, of the host",
            'set macnat = "auto" in airtap.toml',
        )
    if host.takes_one_mac:
        raise Failed(
            f"{off}, and {host.type} takes one MAC only", 'set macnat = "auto" in airtap.toml'
        )
    return f"not needed on {host.type}: frames leave with the guest's own MAC"

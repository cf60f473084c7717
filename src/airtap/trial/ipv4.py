"""IPv4: a lease, and the gateway."""

from . import lease
from .lease import NoLease
from .scene import Scene
from .steps import Failed, Skipped


async def get_lease(scene: Scene) -> str:
    """From the LAN's DHCP server, for the guest's MAC."""
    try:
        scene.lease = await lease.get(scene.guest, scene.seconds, scene.listener.waits)
    except NoLease as exc:
        raise Failed(f"{exc}; {await scene.frames()}", one_mac_hint(scene)) from exc
    answer = scene.lease.answer
    await scene.guest.take_address(answer.address, answer.network)
    if answer.routers:
        scene.gateway4 = answer.routers[0]
        await scene.guest.take_router(scene.gateway4)
    return f"{answer.address}/{answer.network.prefixlen} from {answer.server}"


async def resolve_gateway(scene: Scene) -> str:
    """By ARP: of the lease's router, or without a lease of the host's."""
    if scene.lease is None:
        return await _resolve_hosts_gateway(scene)
    gateway = scene.gateway4
    if gateway is None:
        raise Skipped(f"{scene.lease.answer.server} names no router")
    scene.listener.waits(f"{gateway} to answer ARP")
    mac = await scene.guest.resolve(gateway, scene.seconds)
    if mac is None:
        raise Failed(f"{gateway} does not answer ARP; {await scene.frames()}", one_mac_hint(scene))
    scene.macs[gateway] = mac
    return f"{gateway} is at {mac}"


async def _resolve_hosts_gateway(scene: Scene) -> str:
    """Does anything pass at all? A question that takes no address."""
    gateways = await scene.host.gateways4()
    if not gateways:
        raise Skipped(f"neither the guest nor the host has a gateway on {scene.host.name}")
    gateway = gateways[0]
    scene.listener.waits(f"{gateway}, the host's gateway, to answer ARP")
    mac = await scene.guest.resolve_unconfigured(gateway, scene.seconds)
    if mac is None:
        what = f"{gateway}, the host's gateway, does not answer ARP; {await scene.frames()}"
        raise Failed(what, one_mac_hint(scene))
    return f"{gateway}, the host's gateway, is at {mac}: frames do pass"


async def ping_gateway(scene: Scene) -> str:
    """One that resolves and does not answer pings is set up so: no failure."""
    gateway = scene.gateway4
    if scene.lease is None:
        raise Skipped("the guest has no IPv4 address")
    if gateway is None or gateway not in scene.macs:
        raise Skipped("no gateway is resolved")
    scene.listener.waits(f"{gateway} to answer a ping")
    echo = await scene.guest.ping(gateway, scene.seconds)
    return ping_result(str(gateway), echo.seconds)


def ping_result(gateway: str, seconds: float | None) -> str:
    if seconds is None:
        return f"{gateway} resolves but does not answer pings, as some are set to"
    return f"{gateway} answers in {seconds * 1000:.1f} ms"


def one_mac_hint(scene: Scene) -> str:
    """What may be amiss where nothing comes back."""
    host = scene.host
    if host.type == "wifi-station":
        return f"does the host itself get through on {host.name}?"
    if host.type == "bridge":
        return (
            f"do the ports of {host.name} lead to the LAN, and does that take any MAC? With STP on,"
            " a new port forwards after half a minute only: --timeout 60"
        )
    if scene.mac_nat:
        return f"does the host itself get through on {host.name}?"
    return (
        f"if the LAN takes one MAC only from {host.name} (port security, a rented server), set"
        ' macnat = "on" for it in airtap.toml'
    )

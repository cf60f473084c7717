"""IPv4: a lease, and the gateway."""

from . import gateway, lease
from .lease import NoLease
from .scene import Scene
from .steps import Failed, Skipped


async def get_lease(scene: Scene) -> str:
    """From the LAN's DHCP server, for the guest's MAC."""
    try:
        scene.lease = await lease.get(scene.guest, scene.seconds, scene.listener.waits)
    except NoLease as exc:
        raise Failed(f"{exc}; {await scene.frames()}", gateway.one_mac_hint(scene)) from exc
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
    if scene.gateway4 is None:
        raise Skipped(f"{scene.lease.answer.server} names no router")
    return await gateway.resolve(scene, scene.gateway4)


async def _resolve_hosts_gateway(scene: Scene) -> str:
    """Does anything pass at all? A question that takes no address."""
    gateways = await scene.host.gateways4()
    if not gateways:
        raise Skipped(f"neither the guest nor the host has a gateway on {scene.host.name}")
    told = f"{gateways[0]}, the host's gateway,"
    scene.listener.waits(f"{told} to answer ARP")
    mac = await scene.guest.resolve_unconfigured(gateways[0], scene.seconds)
    if mac is None:
        what = f"{told} does not answer ARP; {await scene.frames()}"
        raise Failed(what, gateway.one_mac_hint(scene))
    return f"{told} is at {mac}: frames do pass"


async def ping_gateway(scene: Scene) -> str:
    if scene.lease is None:
        raise Skipped("the guest has no IPv4 address")
    if scene.gateway4 is None or scene.gateway4 not in scene.macs:
        raise Skipped("no gateway is resolved")
    return await gateway.ping(scene, scene.gateway4)

"""Host and guest: each reaches the other, where host access is on."""

import asyncio

from ..ipc import aio
from ..kernel.addresses import Address
from .host import Interface
from .scene import Scene, resolution
from .steps import Failed, Skipped

# Guests on macvtaps without MAC NAT meet the host half a second after they came, plus what it takes
# to load the programs (macnat/children.py).
_SOON_S = 5.0
_LOOK_S = 0.1
_FIREWALL = "a firewall of this host may drop it: nft list ruleset"


async def guest_to_host(scene: Scene, family: int) -> str:
    """family: of their addresses, 4 or 6."""
    guest, host = await _ends(scene, family)
    how = resolution(host)
    scene.listener.waits(f"the host to answer {how} for {host}")
    mac = await scene.guest.resolve(host, scene.seconds)
    if mac is None:
        what = f"the host does not answer {how} for {host}; {await scene.frames()}"
        raise Failed(what, _FIREWALL)
    scene.listener.waits(f"the host to answer a ping at {host}")
    echo = await scene.guest.ping(host, scene.seconds)
    if echo.seconds is None:
        what = f"the host answers {how} for {host}, but no ping; {await scene.frames()}"
        raise Failed(what, _FIREWALL)
    return f"{guest} pings {host} in {echo.seconds * 1000:.1f} ms"


async def host_to_guest(scene: Scene, family: int) -> str:
    """family: of their addresses, 4 or 6."""
    guest, host = await _ends(scene, family)
    scene.listener.waits(f"the guest to answer the host's ping at {guest}")
    echo = await scene.host.ping(guest, scene.seconds)
    if echo.seconds is not None:
        return f"{host} pings {guest} in {echo.seconds * 1000:.1f} ms"
    if echo.refused:
        raise Failed(f"the host would not send to {guest}: {echo.refused}", _FIREWALL)
    heard = "no ping" if await scene.host.knows(guest) else f"neither {resolution(host)} nor ping"
    raise Failed(f"the host hears {heard} of {guest}; {await scene.frames()}", _FIREWALL)


async def _ends(scene: Scene, family: int) -> tuple[Address, Address]:
    """The guest's address and the host's, with no router between. Raises Skipped."""
    name = scene.host.name
    if not await _meets_host(scene):
        raise Skipped(
            f"host access is off on {name}: host_access = false in airtap.toml, or a mode other"
            " than bridge"
        )
    own = _own(scene, family)
    if not own:
        raise Skipped(f"the guest has no IPv{family} address")
    hosts = await scene.host.addresses(family)
    for mine in own:
        for theirs in hosts:
            near = mine.ip in theirs.network and mine.ip != theirs.ip
            if near and await scene.guest.is_on_link(theirs.ip):
                return mine.ip, theirs.ip
    raise Skipped(f"on {name} the host has no IPv{family} address on one link with the guest's")


def _own(scene: Scene, family: int) -> list[Interface]:
    if family == 6:
        return [each for each in (scene.own6, scene.link_local) if each]
    return [scene.lease.interface] if scene.lease else []


async def _meets_host(scene: Scene) -> bool:
    """Whether host access is on; asked for a while, as it may come a little later, but once."""
    if scene.meets_host is None and scene.trial.kind == "bridge":
        scene.meets_host = True
    loop = asyncio.get_running_loop()
    end = loop.time() + min(_SOON_S, scene.seconds)
    while scene.meets_host is None:
        uplink, _ = await aio.status(scene.host.name, scene.trial.device)
        if uplink.get("host_access") or loop.time() >= end:
            scene.meets_host = bool(uplink.get("host_access"))
        else:
            scene.listener.waits("airtapd to switch host access on")
            await asyncio.sleep(_LOOK_S)
    return scene.meets_host

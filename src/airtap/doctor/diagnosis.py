"""A diagnosis: read what is to be known of a target, and have every check look at it."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from .. import uplink as uplinks
from ..config import Config
from ..errors import Problem, reason
from ..kernel.links import FAMILY, Link, LinkNotFound, Links, open_links, rtnetlink
from ..names import device_name
from ..uris import SYSTEM
from . import contents
from .checks import libvirt as libvirt_checks
from .checks.kernel import Needs
from .checks.libvirt import Guests
from .checks.macnat import is_incomplete
from .checks.uplink import Scene
from .finding import Finding, problem
from .sources import daemon, hooks, kernel, kernel_log, libvirt, managers, netfilter, user
from .sources.netfilter import Chain
from .sources.uplinks import Reader, Uplink, names, surroundings

T = TypeVar("T")

# airtapd leaves others' macvtaps alone for two seconds, and takes a moment over anything.
_SETTLE_S = 3.0
_MOST_UPLINKS = 64
_ONLY_ROOT = (
    "what only root sees: nftables, containers' devices, who holds a tap, who manages devices,"
    " whether libvirt has found its hooks"
)


@dataclass(frozen=True)
class Target:
    """What is asked about: everything, a device, or a domain of libvirt by its UUID."""

    device: str = ""
    domain: str = ""


async def diagnose(name: str | None, uri: str | None) -> list[Finding]:
    """Look at this host, a device (or alias) of it, or a libvirt domain.

    uri: of the libvirt to ask; None for the system's, if that is in use.
    Raises Problem no-such-subject.
    """
    unseen: list[str] = [] if os.geteuid() == 0 else [_ONLY_ROOT]
    asked = daemon.read()
    settings = asked.config
    async with open_links() as netlink:
        links = await netlink.dump()
        target = await _target(name, settings, netlink)
        guests = None if target and target.device else _libvirt(uri, settings, links)
        if target is None:
            target = Target(domain=_domain(str(name), guests))
        if guests:
            proposed = _propose(links, settings)
            guests = replace(guests, only=target.domain, default_uplink=proposed)
        scene = await _scene(asked, guests, unseen)
        wanted = _names(target, links, settings, guests, asked)
        wanted = await _of_aliases(netlink, settings, wanted, everything=target == Target())
        found, failed = await _settled(netlink, wanted, target, scene, unseen)
    needs = _needs(found, settings, scene, target)
    there = {link.name for link in links}
    return [
        *_each(contents.KERNEL, await _kernel(found, needs), needs),
        *_each(contents.DAEMON, asked, scene.user),
        *(_each(contents.ACL, scene.user) if not asked.config_problem else []),
        *(_each(contents.NAMED, settings, there, len(found)) if target == Target() else []),
        *failed,
        *(finding for each in found for finding in _each(contents.UPLINK, each, scene)),
        *(_of_libvirt(guests, asked.systemd) if guests else []),
        *(await _of_system(scene.user, unseen) if not target.device else []),
        *_each(contents.UNSEEN, unseen),
    ]


def _each(checks: Iterable[Callable[..., Iterable[Finding]]], *facts: object) -> list[Finding]:
    return [finding for check in checks for finding in check(*facts)]


async def _scene(asked: daemon.Daemon, guests: Guests | None, unseen: list[str]) -> Scene:
    who = await user.read(asked.config.acl)
    if asked.config_problem:  # which ACL counts is not known
        who = replace(who, rules=asked.config_problem)
    return Scene(
        daemon=asked,
        user=who,
        managers=managers.read(),
        chains=_chains(unseen),
        wanted=libvirt_checks.wanted(guests) if guests else {},
        connect=guests.connect if guests else "",
    )


async def _settled(
    netlink: Links, wanted: set[str], target: Target, scene: Scene, unseen: list[str]
) -> tuple[list[Uplink], list[Finding]]:
    """_uplinks(), with time for airtapd to do what it may be about to."""
    read = partial(_uplinks, wanted, target, scene, unseen)
    found, failed = await read(await netlink.dump())
    if not scene.daemon.silence and any(map(is_incomplete, found)):
        await asyncio.sleep(_SETTLE_S)
        found, failed = await read(await netlink.dump())
    return found, failed


async def _kernel(found: Sequence[Uplink], needs: Needs) -> kernel.Kernel:
    """Programs that are attached need not be tried."""
    at_work = any(each.role and not is_incomplete(each) for each in found)
    load = bool(needs.programs) and os.geteuid() == 0 and not at_work
    machine = await kernel.read(load=load)
    return replace(machine, tried=load or at_work)


async def _of_system(who: user.User, unseen: list[str]) -> list[Finding]:
    own = await user.session(who)
    log = kernel_log.read()
    if log.unread:
        unseen.append(f"{log.source}: {log.unread}")
    return [*(_each(contents.SESSION, own) if own else []), *_each(contents.LOG, log)]


async def _target(name: str | None, settings: Config, netlink: Links) -> Target | None:
    """None if name is no device's, and so may be a domain's."""
    if name is None:
        return Target()
    device = await uplinks.choose(netlink, settings, name) if name in settings.aliases else name
    if device in {link.name for link in await netlink.dump()}:
        return Target(device=device)
    with suppress(Problem, OSError):  # an alternative name?
        return Target(device=(await netlink.by_name(device_name(device))).name)
    return None


def _domain(name: str, guests: Guests | None) -> str:
    """The UUID of a domain that was named."""
    where = "and libvirt does not run here"
    if guests:
        for domain in guests.libvirt.domains:
            if name in (domain.name, domain.uuid):
                return domain.uuid
        silence = guests.libvirt.silence
        where = f"and no domain at {guests.libvirt.uri}"
        where = f"and libvirt was not asked: {silence.message}" if silence else where
    what = f"there is no network device {name[:64]}, {where}"
    raise Problem("no-such-subject", what, "see: ip link, airtap domain list")


def _libvirt(uri: str | None, settings: Config, links: Sequence[Link]) -> Guests | None:
    """None where there is no libvirt."""
    if uri is None and not hooks.is_in_use():
        return None
    asked = libvirt.read(uri or SYSTEM, settings, [link.name for link in links])
    return Guests(asked, root=os.geteuid() == 0)


def _of_libvirt(guests: Guests, systemd: bool) -> list[Finding]:
    found = []
    if not guests.libvirt.session:
        found += [f for hook in hooks.read() for f in _each(contents.HOOK, hook, systemd)]
    return found + _each(contents.LIBVIRT, guests)


def _chains(unseen: list[str]) -> list[Chain] | None:
    try:
        if netfilter.has_legacy_rules():
            unseen.append("rules of iptables-legacy")
        return netfilter.read()
    except OSError as exc:
        if os.geteuid() == 0:
            unseen.append(f"nftables: {reason(exc)}")
        return None


def _names(
    target: Target,
    links: Sequence[Link],
    settings: Config,
    guests: Guests | None,
    asked: daemon.Daemon,
) -> set[str]:
    """The uplinks to look at."""
    if target.device:
        return {target.device}
    by_domain = {
        card.nic.name
        for domain in (guests.domains if guests else ())
        for card in domain.cards
        if card.nic.kind in ("macvtap", "ipvtap") or card.nic.connected
    }
    networks = guests.libvirt.networks if guests else ()
    if target.domain:
        assert guests
        on = {card.nic.name for domain in guests.domains for card in domain.cards}
        return by_domain | {n.network.parent for n in networks if n.network.name in on} | on
    found = names(links, settings) | {entry["name"] for entry in asked.report.uplinks}
    return found | by_domain | {each.network.parent for each in networks if each.network.ours}


async def _of_aliases(
    netlink: Links, settings: Config, wanted: set[str], *, everything: bool
) -> set[str]:
    """Names, and what those that are aliases stand for; everything: or any alias."""
    aliases = settings.aliases if everything else wanted & settings.aliases.keys()
    targets = {target for alias in aliases for target in settings.candidates(alias)}
    return wanted | set(await uplinks.devices(netlink, targets))


async def _uplinks(
    wanted: set[str],
    target: Target,
    scene: Scene,
    unseen: list[str],
    links: Sequence[Link],
) -> tuple[list[Uplink], list[Finding]]:
    """Those of the wanted that are there, and what kept others from being read."""
    found: list[Uplink] = []
    failed: list[Finding] = []
    there = [link for link in links if link.name in wanted][:_MOST_UPLINKS]
    async with rtnetlink() as ipr:
        around = await surroundings(ipr, links)
        if around.unseen and around.unseen not in unseen:
            unseen.append(around.unseen)
        settings, guarded = scene.daemon.config, not scene.daemon.silence
        reader = Reader(ipr, around, settings, scene.managers, guarded=guarded)
        for link in there:
            try:
                found.append(await reader.uplink(link, asked=link.name == target.device))
            except LinkNotFound:  # gone meanwhile
                continue
            except (Problem, OSError) as exc:
                code = exc.code if isinstance(exc, Problem) else "no-device"
                hint = exc.hint if isinstance(exc, Problem) else ""
                what = "it cannot be looked at, so guests cannot use it"
                failed.append(problem(code, link.name, what, str(exc), hint or "see: dmesg"))
    return found, failed


def _propose(links: Sequence[Link], settings: Config) -> str:
    """An uplink that a guest could be connected to."""
    there = {link.name for link in links}
    known = [*settings.parents, *sorted(names(links, settings))]
    return next((name for name in known if name in there), "")


def _needs(found: Sequence[Uplink], settings: Config, scene: Scene, target: Target) -> Needs:
    kinds = {FAMILY[each.child.kind]: each.name for each in found if each.child}
    if not target.device:
        wanted = [pair for pairs in scene.wanted.values() for pair in pairs]
        kinds |= {kind: who for who, kind in wanted}
    kinds |= {
        settings.parent(each.name).kind: f"airtap.toml for {each.name}"
        for each in found
        if settings.parent(each.name).kind != "auto"
    }
    kinds.setdefault("macvtap", next((e.name for e in found if e.inspected.type != "bridge"), ""))
    return Needs(
        {kind: who for kind, who in kinds.items() if who},
        taps=next((each.name for each in found if each.inspected.type == "bridge"), ""),
        programs=next((each.name for each in found if each.role or each.needs_macnat), ""),
    )


def run(name: str | None, uri: str | None) -> list[Finding]:
    """diagnose(), outside of a loop. Raises KeyboardInterrupt at once."""
    return asyncio.run(_interruptible(name, uri))


async def _interruptible(name: str | None, uri: str | None) -> list[Finding]:
    # asyncio.run() has made of SIGINT what cancels a task that waits in the loop, but sources
    # wait by themselves; and there is nothing to undo.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return await diagnose(name, uri)

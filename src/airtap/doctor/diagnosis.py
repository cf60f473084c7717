"""Makes a diagnosis: reads what is to be known of a target, and has every check look at it."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

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
from .checks.uplink import Context
from .finding import Finding, problem
from .sources import daemon, hooks, kernel, kernel_log, libvirt, managers, netfilter, user
from .sources.netfilter import Chain
from .sources.uplinks import UplinkSnapshot, make_reader, names

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
            guests = replace(guests, only=target.domain)
        context = await _context(asked, guests, unseen)
        wanted = _names(target, links, guests, asked)
        wanted = await _of_aliases(netlink, settings, wanted, everything=target == Target())
        found, failed = await _settled(netlink, wanted, target, context, unseen)
    needs = _needs(found, context, target)
    there = {link.name for link in links}
    return [
        *_each(contents.KERNEL, await _kernel(found, needs), needs),
        *_each(contents.DAEMON, asked, context.user),
        *(_each(contents.ACL, context.user) if asked.acl else []),
        *(_each(contents.NAMED, settings, there, len(found)) if target == Target() else []),
        *failed,
        *(finding for each in found for finding in _each(contents.UPLINK, each, context)),
        *(_of_libvirt(guests, asked.systemd) if guests else []),
        *(await _of_system(context.user, unseen) if not target.device else []),
        *_each(contents.UNSEEN, unseen),
    ]


def _each(checks: Iterable[Callable[..., Iterable[Finding]]], *facts: object) -> list[Finding]:
    return [finding for check in checks for finding in check(*facts)]


async def _context(
    asked: daemon.DaemonSnapshot, guests: Guests | None, unseen: list[str]
) -> Context:
    who = await user.read(asked.acl or asked.config.acl)
    if asked.config_problem and not asked.acl:  # which ACL counts is not known
        who = replace(who, rules=asked.config_problem)
    return Context(
        daemon=asked,
        user=who,
        managers=managers.read(),
        chains=await _chains(unseen),
        wanted=libvirt_checks.wanted(guests) if guests else {},
        connect=guests.connect if guests else "",
    )


async def _settled(
    netlink: Links, wanted: set[str], target: Target, context: Context, unseen: list[str]
) -> tuple[list[UplinkSnapshot], list[Finding]]:
    """Read the uplinks, and once more if airtapd may be about to do something to them."""
    read = partial(_uplinks, wanted, target, context, unseen)
    found, failed = await read(await netlink.dump())
    if not context.daemon.silence and any(map(is_incomplete, found)):
        await asyncio.sleep(_SETTLE_S)
        found, failed = await read(await netlink.dump())
    return found, failed


async def _kernel(found: Sequence[UplinkSnapshot], needs: Needs) -> kernel.Kernel:
    """Read what the kernel can do, without loading programs that are attached already."""
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
    """Return what a name stands for; None if it is no device's, and so may be a domain's."""
    if name is None:
        return Target()
    device = await uplinks.choose(netlink, settings, name) if name in settings.aliases else name
    if device in {link.name for link in await netlink.dump()}:
        return Target(device=device)
    with suppress(Problem, OSError):  # an alternative name?
        return Target(device=(await netlink.by_name(device_name(device))).name)
    return None


def _domain(name: str, guests: Guests | None) -> str:
    """Return the UUID of a domain that was named. Raises Problem no-such-subject."""
    for domain in guests.libvirt.domains if guests else ():
        if name in (domain.name, domain.uuid):
            return domain.uuid
    where = f"no domain at {guests.libvirt.uri}" if guests else "libvirt does not run here"
    if guests and guests.libvirt.silence:
        where = f"libvirt was not asked: {guests.libvirt.silence.message}"
    what = f"there is no network device {name[:64]}, and {where}"
    raise Problem("no-such-subject", what, "see: ip link, airtap domain list")


def _libvirt(uri: str | None, settings: Config, links: Sequence[Link]) -> Guests | None:
    """Ask libvirt; None where there is none."""
    if uri is None and not hooks.is_in_use():
        return None
    asked = libvirt.read(uri or SYSTEM, settings, [link.name for link in links])
    proposed = _propose(links, settings)
    return Guests(asked, default_uplink=proposed, root=os.geteuid() == 0)


def _of_libvirt(guests: Guests, systemd: bool) -> list[Finding]:
    files = [] if guests.libvirt.session else hooks.read()
    found = [finding for hook in files for finding in _each(contents.HOOK, hook, systemd)]
    return found + _each(contents.LIBVIRT, guests)


async def _chains(unseen: list[str]) -> list[Chain] | None:
    try:
        if netfilter.has_legacy_rules():
            unseen.append("rules of iptables-legacy")
        return await netfilter.read()
    except OSError as exc:
        if os.geteuid() == 0:
            unseen.append(f"nftables: {reason(exc)}")
        return None


def _names(
    target: Target, links: Sequence[Link], guests: Guests | None, asked: daemon.DaemonSnapshot
) -> set[str]:
    """Return the names of the uplinks to look at."""
    if target.device:
        return {target.device}
    by_domain = {
        checked.nic.name
        for domain in (guests.domains if guests else ())
        for checked in domain.nics
        if checked.nic.kind in ("macvtap", "ipvtap") or checked.nic.connected
    }
    networks = guests.libvirt.networks if guests else ()
    if target.domain:
        assert guests
        on = {checked.nic.name for domain in guests.domains for checked in domain.nics}
        return by_domain | {n.network.parent for n in networks if n.network.name in on} | on
    found = names(links, asked.config) | {entry["name"] for entry in asked.status.uplinks}
    return found | by_domain | {each.network.parent for each in networks if each.network.ours}


async def _of_aliases(
    netlink: Links, settings: Config, wanted: set[str], *, everything: bool
) -> set[str]:
    """Return names, and what those that are aliases stand for.

    everything: whether to add what any alias stands for.
    """
    aliases = settings.aliases if everything else wanted & settings.aliases.keys()
    targets = {target for alias in aliases for target in settings.candidates(alias)}
    return wanted | set(await uplinks.devices(netlink, targets))


async def _uplinks(
    wanted: set[str], target: Target, context: Context, unseen: list[str], links: Sequence[Link]
) -> tuple[list[UplinkSnapshot], list[Finding]]:
    """Read those of the wanted uplinks that are there, and what kept others from being read."""
    found: list[UplinkSnapshot] = []
    failed: list[Finding] = []
    there = [link for link in links if link.name in wanted][:_MOST_UPLINKS]
    async with rtnetlink() as ipr:
        settings, guarded = context.daemon.config, not context.daemon.silence
        reader = await make_reader(ipr, links, settings, context.managers, guarded=guarded)
        if reader.unseen and reader.unseen not in unseen:
            unseen.append(reader.unseen)
        for link in there:
            try:
                found.append(await reader.uplink(link, asked=link.name == target.device))
            except LinkNotFound:  # gone meanwhile
                continue
            except (Problem, OSError) as exc:
                known = exc if isinstance(exc, Problem) else Problem("no-device", "")
                what = "it cannot be looked at, so guests cannot use it"
                remedy = known.hint or "see: dmesg"
                bad = problem(known.code, link.name, what=what, evidence=str(exc), remedy=remedy)
                failed.append(bad)
    return found, failed


def _propose(links: Sequence[Link], settings: Config) -> str:
    """Return an uplink that a guest could be connected to, "" if there is none."""
    there = {link.name for link in links}
    known = [*settings.parents, *sorted(names(links, settings))]
    return next((name for name in known if name in there), "")


def _needs(found: Sequence[UplinkSnapshot], context: Context, target: Target) -> Needs:
    kinds = {FAMILY[each.child.kind]: each.name for each in found if each.child}
    if not target.device:
        wanted = [pair for pairs in context.wanted.values() for pair in pairs]
        kinds |= {kind: who for who, kind in wanted}
    chosen = [each for each in found if each.settings.kind != "auto"]
    kinds |= {each.settings.kind: f"airtap.toml for {each.name}" for each in chosen}
    kinds.setdefault("macvtap", next((e.name for e in found if e.inspected.type != "bridge"), ""))
    return Needs(
        {kind: who for kind, who in kinds.items() if who},
        taps=next((each.name for each in found if each.inspected.type == "bridge"), ""),
        programs=next((each.name for each in found if each.role or each.needs_macnat), ""),
    )


def run(name: str | None, uri: str | None) -> list[Finding]:
    """Run diagnose() to its end, outside of a loop. Raises KeyboardInterrupt at once."""
    return asyncio.run(_interruptible(name, uri))


async def _interruptible(name: str | None, uri: str | None) -> list[Finding]:
    # asyncio.run() has made of SIGINT what cancels a task that waits in the loop, but sources
    # wait by themselves; and there is nothing to undo.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return await diagnose(name, uri)

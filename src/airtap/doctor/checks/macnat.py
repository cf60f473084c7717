"""Whether the programs of MAC NAT and host access are where they belong, and come first."""

from collections.abc import Collection, Iterator, Sequence

from ...bpf.attach import EGRESS, HOOKS, Filter, Hook, Role
from ..finding import OK, PROBLEM, WARNING, Finding, ok, warning, word
from ..sources.uplinks import DeviceSnapshot, UplinkSnapshot
from .daemon import start
from .uplink import Context

_OURS = "airtap_"


def on_uplink(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell whether airtap's programs are attached to the uplink, and see frames first.

    Yields ok; problem macnat-not-attached, ingress-qdisc or foreign-filter; warning
    macnat-not-attached, ingress-qdisc or foreign-filter, where only the host misses its guests;
    warning filter-before-ours.
    """
    if uplink.role:
        yield from _attached(uplink, uplink.role.on_parent, uplink.role, context)
    elif uplink.needs_macnat:
        yield ok("macnat", uplink.name, what="MAC NAT goes on with the first guest")


def on_devices(uplink: UplinkSnapshot, context: Context) -> Iterator[Finding]:
    """Tell the same of guests' devices, with one ok for all that are well.

    Yields ok; problem macnat-not-attached, ingress-qdisc or foreign-filter; warning
    macnat-not-attached, ingress-qdisc or foreign-filter, where only the host misses its guests;
    warning filter-before-ours.
    """
    if uplink.role is None:
        return
    well = 0
    for device in _guarded(uplink):
        found = _attached(device, uplink.role.on_child, uplink.role, context)
        bad = [finding for finding in found if finding.level != OK]
        well += not bad
        yield from bad
    if well:
        yield ok("macnat", uplink.name, what=f"so they are on guests' devices: {well}")


def _guarded(uplink: UplinkSnapshot) -> list[DeviceSnapshot]:
    """Return the guests' devices to which airtap's programs are to be attached."""
    kind = uplink.role.kind if uplink.role else ""
    ours = [each for each in uplink.devices if each.owner is not None or kind == "macvtap"]
    return [each for each in ours if each.link.kind == kind]


def is_incomplete(uplink: UplinkSnapshot) -> bool:
    """Return whether a program is not attached, which airtapd may be about to do."""
    if uplink.role is None:
        return False
    on_child = uplink.role.on_child
    lacking = missing(uplink.role.on_parent, uplink.filters)
    return bool(lacking) or any(missing(on_child, each.filters) for each in _guarded(uplink))


def missing(wanted: Collection[str], filters: Collection[Filter]) -> list[Hook]:
    """Return the hooks of those of the wanted programs that are not attached."""
    there = {each.hook for each in filters}
    return [HOOKS[name] for name in wanted if HOOKS[name] not in there]


def _attached(
    place: UplinkSnapshot | DeviceSnapshot, wanted: Sequence[str], role: Role, context: Context
) -> Iterator[Finding]:
    name, filters = place.name, place.filters
    level = PROBLEM if role.translate else WARNING
    grave = "MAC NAT does not work there"
    what = grave if role.translate else "the host does not meet guests there"
    of_guest = isinstance(place, DeviceSnapshot)
    by = "libvirt's (by <inbound>) or somebody's" if of_guest else "somebody's"
    lacking = missing(wanted, filters)
    if lacking and place.qdisc == "ingress":
        yield Finding(
            level=level,
            id="ingress-qdisc",
            subject=name,
            what=f"{what}: {by} ingress qdisc is in the place of clsact",
            evidence=f"tc qdisc show dev {name}: ingress",
            remedy=f"tc qdisc del dev {word(name)} ingress",
        )
    elif lacking and (taken := _taken(lacking, filters)):
        yield Finding(
            level=level,
            id="foreign-filter",
            subject=name,
            what=f"{what}: somebody's filter has the priority of airtap's",
            evidence=_shown(taken),
            remedy=_deletion(name, taken),
        )
    elif lacking:
        names = ", ".join(hook.name for hook in lacking)
        yield Finding(
            level=level,
            id="macnat-not-attached",
            subject=name,
            what=f"{what}: airtap's programs are not attached",
            evidence=f"tc filter show dev {name}: no {names}",
            remedy=start(context.daemon, context.user)
            if context.daemon.silence
            else _look_again(context),
        )
    else:
        yield ok("macnat", name, what="airtap's programs are attached")
    yield from _shadowed(name, wanted, filters)


def _shadowed(name: str, wanted: Sequence[str], filters: Sequence[Filter]) -> Iterator[Finding]:
    hooks = [HOOKS[program] for program in wanted]
    for each in filters:
        ours = [hook.priority for hook in hooks if hook.direction == each.direction]
        if ours and each.priority < max(ours) and not each.name.startswith(_OURS):
            yield warning(
                "filter-before-ours",
                name,
                what="somebody's filter sees frames before airtap's, and may keep them from it",
                evidence=_shown(each),
                remedy=_deletion(name, each),
            )


def _taken(lacking: Collection[Hook], filters: Collection[Filter]) -> Filter | None:
    places = {(hook.direction, hook.priority) for hook in lacking}
    for each in filters:
        if (each.direction, each.priority) in places and not each.name.startswith(_OURS):
            return each
    return None


def _shown(each: Filter) -> str:
    return f"tc filter: {_direction(each)} pref {each.priority} {each.kind} {each.name}".rstrip()


def _deletion(name: str, each: Filter) -> str:
    return f"tc filter del dev {word(name)} {_direction(each)} pref {each.priority}"


def _direction(each: Filter) -> str:
    return "egress" if each.direction == EGRESS else "ingress"


def _look_again(context: Context) -> str:
    return "systemctl reload airtapd" if context.daemon.systemd else "see airtapd's log"

"""Whether libvirt can use airtap: hooks, networks, domains, and the user's own daemon."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ... import __version__
from ...uris import SYSTEM
from ..finding import Finding, ok, problem, warning, word
from ..sources.hooks import Hook
from ..sources.libvirt import Card, Domain, Libvirt
from ..sources.user import Session

_REINSTALL = "install airtap anew: apt install --reinstall airtap, or make install"
_LACKING = {"no-libvirt": "no-libvirt-python", "no-lxml": "no-libvirt-python"}
# Times of files and of processes come of different clocks.
_APART_S = 1.0


@dataclass(frozen=True)
class Guests:
    """libvirt, and the guests in it that are asked about: all, or one by its UUID.

    default_uplink: one that could be proposed, or "". root: asks.
    """

    libvirt: Libvirt
    only: str = ""
    default_uplink: str = ""
    root: bool = False

    @property
    def domains(self) -> list[Domain]:
        return [each for each in self.libvirt.domains if self.only in ("", each.uuid)]

    @property
    def connect(self) -> str:
        """What airtap's commands need beside, to mean this libvirt."""
        uri = self.libvirt.uri
        return "" if uri == SYSTEM else f" --connect {word(uri, 'URI')}"


def hook_file(hook: Hook, systemd: bool) -> Iterator[Finding]:
    """ok, problem hook-missing, hook-foreign, hook-not-executable, hook-broken,
    warning hook-not-a-file, hook-version."""
    if hook.hidden:
        yield ok("hook", hook.file, "only root may look at it", hook.error)
    elif hook.error:
        what = f"libvirt's {hook.name} hook of airtap is not there: its guests are not prepared"
        yield problem("hook-missing", hook.file, what, f"{hook.file}: {hook.error}", _REINSTALL)
    elif not hook.ours:
        what = "it is another program's, not airtap's hook"
        yield problem("hook-foreign", hook.file, what, "it does not run airtap.hook", _REINSTALL)
    elif not hook.executable:
        yield problem(
            "hook-not-executable",
            hook.file,
            "libvirt passes it over",
            "access(2): not executable",
            f"chmod 755 {word(hook.file)}",
        )
    elif not hook.version:
        what = "it does nothing: the airtap that it runs is not there"
        yield problem("hook-broken", hook.file, what, f"no airtap below {hook.tree}", _REINSTALL)
    elif not hook.regular:
        yield warning(
            "hook-not-a-file",
            hook.file,
            "it is a link, which AppArmor's profile of libvirtd does not let run",
            "lstat(2): no regular file",
            f'cp --remove-destination "$(realpath {word(hook.file)})" {word(hook.file)}',
        )
    elif hook.version != __version__:
        yield warning(
            "hook-version",
            hook.file,
            "it runs another version of airtap than this one",
            f"{hook.tree}: {hook.version}; this is {__version__}",
            _REINSTALL,
        )
    else:
        yield ok("hook", hook.file, "is in place")


def hook_active(hook: Hook, systemd: bool) -> Iterator[Finding]:
    """ok, warning hooks-inactive."""
    if hook.error or not hook.executable:
        return
    for daemon in hook.daemons:
        subject = f"{daemon.name}, pid {daemon.pid}"
        if daemon.started >= hook.since - _APART_S:
            yield ok("hooks-active", subject, f"has found the {hook.name} hook at its start")
        elif daemon.started >= hook.place_since - _APART_S:
            yield ok(
                "hooks-active",
                subject,
                f"cannot tell whether it has found the {hook.name} hook, which has changed since"
                " its start: after an upgrade it has; if not, restart it",
            )
        else:
            yield warning(
                "hooks-inactive",
                subject,
                f"it started before the {hook.name} hook was there, and looks for hooks then only;"
                " a reload since would not show here",
                f"running since {_clock(daemon.started)}, {hook.file} is there since"
                f" {_clock(hook.since)}",
                f"systemctl restart {daemon.name}"
                if systemd
                else f"end {daemon.name} (pid {daemon.pid}) and start it anew",
            )


def _clock(seconds: float) -> str:
    return time.strftime("%F %T", time.localtime(seconds))


def answers(guests: Guests) -> Iterator[Finding]:
    """ok, warning no-libvirt-python, no-connection, no-answer, bad-xml."""
    libvirt = guests.libvirt
    if libvirt.silence is None:
        yield ok("libvirt", libvirt.uri, "answers")
    elif libvirt.silence.code == "no-connection" and libvirt.uri == SYSTEM and not guests.root:
        yield ok(
            "libvirt", libvirt.uri, "was not asked: it cannot be reached", libvirt.silence.message
        )
    else:
        yield warning(
            _LACKING.get(libvirt.silence.code, libvirt.silence.code),
            libvirt.uri,
            "its networks and domains could not be looked at",
            libvirt.silence.message,
            libvirt.silence.hint or f"virsh --connect {word(libvirt.uri)} list --all",
        )


def networks(guests: Guests) -> Iterator[Finding]:
    """ok, problem network-parent-missing, network-inactive, warning network-not-autostarted."""
    devices = guests.libvirt.devices
    for entry in guests.libvirt.networks:
        network = entry.network
        if not network.ours:
            continue
        subject = f"network {network.name}"
        name = word(network.name)
        kind = "" if network.kind == "macvtap" else f" --kind {network.kind}"
        mode = f" --mode {network.mode}" if network.mode else ""
        options = f"--parent {word(network.parent)}{kind}{mode}{guests.connect}"
        again = f"airtap network define {name} {options}"
        if network.parent not in devices and network.kind != "session":
            other = word(guests.default_uplink or "DEV", "DEV")
            yield problem(
                "network-parent-missing",
                subject,
                f"there is no device {network.parent}, on which its guests are to be",
                f"ip link show {network.parent}",
                f"plug {network.parent} in; or airtap network undefine {name}{guests.connect},"
                f" and airtap network define {name} --parent {other}{guests.connect}",
            )
        elif not entry.active:
            what = "it is not started, so no guest on it starts"
            yield problem("network-inactive", subject, what, "virsh net-list --all", again)
        elif not entry.autostart:
            what = "libvirt does not start it by itself, after the next boot"
            yield warning("network-not-autostarted", subject, what, "virsh net-list --all", again)
        else:
            yield ok("network", subject, f"{network.kind} on {network.parent}")


def cards(guests: Guests) -> Iterator[Finding]:
    """ok, problem card-cannot-work (warning where airtap has no part in it)."""
    ours = {each.network.name for each in guests.libvirt.networks if each.network.ours}
    for domain in guests.domains:
        for card in domain.cards:
            subject = f"domain {domain.name}, card {card.nic.number}"
            where = f"{card.nic.kind} {card.nic.name}".rstrip()
            if card.works is not False:
                note = "" if card.works else "; whether it works cannot be told"
                yield ok("card", subject, f"{where}{note}", card.why)
                continue
            concerned = guests.only or card.nic.connected or card.nic.prepared
            level = problem if concerned or card.nic.name in ours else warning
            yield level(
                "card-cannot-work",
                subject,
                f"it cannot work on {where}: {card.why}",
                f"airtap domain list: {domain.name}",
                _reconnect(guests, domain, card),
            )


def _reconnect(guests: Guests, domain: Domain, card: Card) -> str:
    if card.nic.kind == "network" and "not active" in card.why:
        return f"virsh --connect {word(guests.libvirt.uri)} net-start {word(card.nic.name)}"
    nic = f" --nic {card.nic.number}" if len(domain.cards) > 1 else ""
    parent = word(guests.default_uplink or "DEV", "DEV")
    name = word(domain.name, domain.uuid)
    return f"airtap domain connect {name}{nic} --parent {parent}{guests.connect}"


def clones(guests: Guests) -> Iterator[Finding]:
    """problem device-cloned."""
    users: dict[str, list[tuple[Domain, Card]]] = defaultdict(list)
    for domain in guests.libvirt.domains:
        for card in domain.cards:
            if card.nic.device:
                users[card.nic.device].append((domain, card))
    for device, found in users.items():
        if len(found) < 2:
            continue
        domain, card = next((each for each in found if not each[1].nic.own), found[-1])
        if guests.only not in ("", *(each.uuid for each, _ in found)):
            continue
        nic = f" --nic {card.nic.number}" if len(domain.cards) > 1 else ""
        name = word(domain.name, domain.uuid)
        yield problem(
            "device-cloned",
            f"domain {domain.name}",
            f"it is a clone, and its card would take the device {device} of the original",
            f"{device} is noted by: {', '.join(each.name for each, _ in found[:8])}",
            f"airtap domain connect {name}{nic} --parent {word(card.nic.name)}"
            f" --kind {card.nic.kind}{guests.connect}",
        )


def wanted(guests: Guests) -> Mapping[str, list[tuple[str, str]]]:
    """Who wants which kind of device on which uplink: (guest or network, kind)."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for entry in guests.libvirt.networks:
        if entry.network.kind == "macvtap" and entry.network.parent:
            found[entry.network.parent].append((f"network {entry.network.name}", "macvtap"))
    for domain in guests.libvirt.domains:
        for card in domain.cards:
            if card.nic.kind in ("macvtap", "ipvtap") and card.nic.name:
                found[card.nic.name].append((domain.name, card.nic.kind))
    return found


def session(own: Session) -> Iterator[Finding]:
    """ok, problem session-helper."""
    if own.usable and own.helper.endswith("/airtap-bridge-helper"):
        yield ok("session-helper", own.file, f"bridge_helper is {own.helper}")
        return
    if not own.networks:
        yield ok(
            "session-helper", own.file, "bridge_helper is not airtap's, and nobody asks for it"
        )
        return
    yield problem(
        "session-helper",
        own.file,
        f"guests on the network {own.networks[0]} of qemu:///session get no device",
        f"bridge_helper = {own.helper!r}"
        if own.helper
        else "there is no bridge_helper, and libvirt's own cannot do it",
        f'{own.file}: bridge_helper = "{own.ours}"',
    )

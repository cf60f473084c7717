"""Whether libvirt can use airtap: hooks, networks, domains, and the user's own daemon."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ... import __version__
from ...uris import SYSTEM
from ..finding import PROBLEM, WARNING, Finding, ok, problem, warning, word
from ..sources.hooks import HookFile
from ..sources.libvirt import CheckedDomain, CheckedNic, Libvirt
from ..sources.user import Session

_REINSTALL = "install airtap anew: apt install --reinstall airtap, or make install"
_LACKING = {"no-libvirt": "no-libvirt-python", "no-lxml": "no-libvirt-python"}
# Times of files and of processes come of different clocks.
_APART_S = 1.0


@dataclass(frozen=True)
class Guests:
    """libvirt, and the guests in it that are asked about.

    only: the UUID of the one domain that is asked about, "" for all.
    default_uplink: an uplink that could be proposed, or "".
    root: whether root asks.
    """

    libvirt: Libvirt
    only: str = ""
    default_uplink: str = ""
    root: bool = False

    @property
    def domains(self) -> list[CheckedDomain]:
        return [each for each in self.libvirt.domains if self.only in ("", each.uuid)]

    @property
    def connect(self) -> str:
        """The option that airtap's commands need to mean this libvirt, or nothing."""
        uri = self.libvirt.uri
        return "" if uri == SYSTEM else f" --connect {word(uri, 'URI')}"


def hook_file(hook: HookFile, systemd: bool) -> Iterator[Finding]:
    """Tell whether a hook of libvirt is there, is airtap's, and can run.

    Yields ok; problem hook-missing, hook-foreign, hook-not-executable or hook-broken; warning
    hook-not-a-file or hook-version.
    """
    if hook.hidden:
        yield ok("hook", hook.file, what="only root may look at it", evidence=hook.error)
    elif hook.error:
        yield problem(
            "hook-missing",
            hook.file,
            what=f"libvirt's {hook.name} hook of airtap is not there: its guests are not prepared",
            evidence=f"{hook.file}: {hook.error}",
            remedy=_REINSTALL,
        )
    elif not hook.ours:
        yield problem(
            "hook-foreign",
            hook.file,
            what="it is another program's, not airtap's hook",
            evidence="it does not run airtap.hook",
            remedy=_REINSTALL,
        )
    elif not hook.executable:
        yield problem(
            "hook-not-executable",
            hook.file,
            what="libvirt passes it over",
            evidence="access(2): not executable",
            remedy=f"chmod 755 {word(hook.file)}",
        )
    elif not hook.version:
        yield problem(
            "hook-broken",
            hook.file,
            what="it does nothing: the airtap that it runs is not there",
            evidence=f"no airtap below {hook.tree}",
            remedy=_REINSTALL,
        )
    elif not hook.regular:
        yield warning(
            "hook-not-a-file",
            hook.file,
            what="it is a link, which AppArmor's profile of libvirtd does not let run",
            evidence="lstat(2): no regular file",
            remedy=f'cp --remove-destination "$(realpath {word(hook.file)})" {word(hook.file)}',
        )
    elif hook.version != __version__:
        yield warning(
            "hook-version",
            hook.file,
            what="it runs another version of airtap than this one",
            evidence=f"{hook.tree}: {hook.version}; this is {__version__}",
            remedy=_REINSTALL,
        )
    else:
        yield ok("hook", hook.file, what="is in place")


def hook_active(hook: HookFile, systemd: bool) -> Iterator[Finding]:
    """Tell whether the running libvirt daemons have found a hook, which they look for at their
    start.

    Yields ok; warning hooks-inactive.
    """
    if hook.error or not hook.executable:
        return
    for daemon in hook.daemons:
        subject = f"{daemon.name}, pid {daemon.pid}"
        if daemon.started >= hook.since - _APART_S:
            yield ok("hooks-active", subject, what=f"has found the {hook.name} hook at its start")
        elif daemon.started >= hook.place_since - _APART_S:
            yield ok(
                "hooks-active",
                subject,
                what=f"cannot tell whether it has found the {hook.name} hook, which has changed"
                " since its start: after an upgrade it has; if not, restart it",
            )
        else:
            yield warning(
                "hooks-inactive",
                subject,
                what=f"it started before the {hook.name} hook was there, and looks for hooks then"
                " only; a reload since would not show here",
                evidence=f"running since {_clock(daemon.started)}, {hook.file} is there since"
                f" {_clock(hook.since)}",
                remedy=f"systemctl restart {daemon.name}"
                if systemd
                else f"end {daemon.name} (pid {daemon.pid}) and start it anew",
            )


def _clock(seconds: float) -> str:
    return time.strftime("%F %T", time.localtime(seconds))


def answers(guests: Guests) -> Iterator[Finding]:
    """Tell whether libvirt answers.

    Yields ok; warning no-libvirt-python, no-connection, no-answer or bad-xml.
    """
    libvirt = guests.libvirt
    if libvirt.silence is None:
        yield ok("libvirt", libvirt.uri, what="answers")
    elif libvirt.silence.code == "no-connection" and libvirt.uri == SYSTEM and not guests.root:
        what = "was not asked: it cannot be reached"
        yield ok("libvirt", libvirt.uri, what=what, evidence=libvirt.silence.message)
    else:
        yield warning(
            _LACKING.get(libvirt.silence.code, libvirt.silence.code),
            libvirt.uri,
            what="its networks and domains could not be looked at",
            evidence=libvirt.silence.message,
            remedy=libvirt.silence.hint or f"virsh --connect {word(libvirt.uri)} list --all",
        )


def networks(guests: Guests) -> Iterator[Finding]:
    """Tell whether guests on airtap's networks can start.

    Yields ok; problem network-parent-missing or network-inactive; warning network-not-autostarted.
    """
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
        if network.parent not in guests.libvirt.devices and network.kind != "session":
            other = word(guests.default_uplink or "DEV", "DEV")
            yield problem(
                "network-parent-missing",
                subject,
                what=f"there is no device {network.parent}, on which its guests are to be",
                evidence=f"ip link show {network.parent}",
                remedy=f"plug {network.parent} in; or airtap network undefine {name}"
                f"{guests.connect}, and airtap network define {name} --parent {other}"
                f"{guests.connect}",
            )
        elif not entry.active:
            yield problem(
                "network-inactive",
                subject,
                what="it is not started, so no guest on it starts",
                evidence="virsh net-list --all",
                remedy=again,
            )
        elif not entry.autostart:
            yield warning(
                "network-not-autostarted",
                subject,
                what="libvirt does not start it by itself, after the next boot",
                evidence="virsh net-list --all",
                remedy=again,
            )
        else:
            yield ok("network", subject, what=f"{network.kind} on {network.parent}")


def cards(guests: Guests) -> Iterator[Finding]:
    """Tell which network cards of domains cannot work.

    Yields ok; problem card-cannot-work; warning card-cannot-work, where airtap has no part in it.
    """
    ours = {each.network.name for each in guests.libvirt.networks if each.network.ours}
    for domain in guests.domains:
        for checked in domain.nics:
            subject = f"domain {domain.name}, card {checked.nic.number}"
            where = f"{checked.nic.kind} {checked.nic.name}".rstrip()
            if checked.works is not False:
                note = "" if checked.works else "; whether it works cannot be told"
                yield ok("card", subject, what=f"{where}{note}", evidence=checked.why)
                continue
            concerned = guests.only or checked.nic.connected or checked.nic.prepared
            yield Finding(
                level=PROBLEM if concerned or checked.nic.name in ours else WARNING,
                id="card-cannot-work",
                subject=subject,
                what=f"it cannot work on {where}: {checked.why}",
                evidence=f"airtap domain list: {domain.name}",
                remedy=_reconnect(guests, domain, checked),
            )


def _reconnect(guests: Guests, domain: CheckedDomain, checked: CheckedNic) -> str:
    if checked.nic.kind == "network" and "not active" in checked.why:
        return f"virsh --connect {word(guests.libvirt.uri)} net-start {word(checked.nic.name)}"
    parent = word(guests.default_uplink or "DEV", "DEV")
    return f"{_connect(domain, checked)} --parent {parent}{guests.connect}"


def _connect(domain: CheckedDomain, checked: CheckedNic) -> str:
    nic = f" --nic {checked.nic.number}" if len(domain.nics) > 1 else ""
    return f"airtap domain connect {word(domain.name, domain.uuid)}{nic}"


def clones(guests: Guests) -> Iterator[Finding]:
    """Tell which domains are clones that would take the original's device.

    Yields problem device-cloned.
    """
    users: dict[str, list[tuple[CheckedDomain, CheckedNic]]] = defaultdict(list)
    for domain in guests.libvirt.domains:
        for checked in domain.nics:
            if checked.nic.device:
                users[checked.nic.device].append((domain, checked))
    for device, found in users.items():
        if len(found) < 2:
            continue
        domain, checked = next((each for each in found if not each[1].nic.own), found[-1])
        if guests.only not in ("", *(each.uuid for each, _ in found)):
            continue
        yield problem(
            "device-cloned",
            f"domain {domain.name}",
            what=f"it is a clone, and its card would take the device {device} of the original",
            evidence=f"{device} is noted by: {', '.join(each.name for each, _ in found[:8])}",
            remedy=f"{_connect(domain, checked)} --parent {word(checked.nic.name)}"
            f" --kind {checked.nic.kind}{guests.connect}",
        )


def wanted(guests: Guests) -> Mapping[str, list[tuple[str, str]]]:
    """Return by uplink who wants which kind of device on it: (guest or network, kind)."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for entry in guests.libvirt.networks:
        if entry.network.kind == "macvtap" and entry.network.parent:
            found[entry.network.parent].append((f"network {entry.network.name}", "macvtap"))
    for domain in guests.libvirt.domains:
        for checked in domain.nics:
            if checked.nic.kind in ("macvtap", "ipvtap") and checked.nic.name:
                found[checked.nic.name].append((domain.name, checked.nic.kind))
    return found


def session(own: Session) -> Iterator[Finding]:
    """Tell whether the user's own libvirt runs airtap's bridge helper.

    Yields ok; problem session-helper.
    """
    if own.usable and own.helper.endswith("/airtap-bridge-helper"):
        yield ok("session-helper", own.file, what=f"bridge_helper is {own.helper}")
    elif not own.networks:
        what = "bridge_helper is not airtap's, and nobody asks for it"
        yield ok("session-helper", own.file, what=what)
    else:
        yield problem(
            "session-helper",
            own.file,
            what=f"guests on the network {own.networks[0]} of qemu:///session get no device",
            evidence=f"bridge_helper = {own.helper!r}"
            if own.helper
            else "there is no bridge_helper, and libvirt's own cannot do it",
            remedy=f'{own.file}: bridge_helper = "{own.ours}"',
        )

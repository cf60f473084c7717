"""airtap.toml: what an administrator may choose. Everything has a default."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from .errors import Problem, reason
from .names import device_name, mac_address

Network = IPv4Network | IPv6Network

DEFAULT_PATH = "/etc/airtap/airtap.toml"

# The modes of each kind of child device: drivers/net/macvlan.c, drivers/net/ipvlan/.
MODES = {
    "macvtap": ("bridge", "vepa", "private", "passthru"),
    "ipvtap": ("bridge", "vepa", "private"),
}
# In place of a device's name: the device that the host's default route leads through.
DEFAULT_ROUTE = "default-route"
_MAX_TARGETS = 16
_MAX_ROUTES = 256
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Parent:
    """How one uplink is to be used ([parents.NAME]).

    gateway: the MAC of the guest that may be a router and DHCP server for the host; "" for none.
    routes: the MACs of the guests behind which the addresses of prefixes are.
    """

    kind: str = "auto"
    mode: str = "bridge"
    macnat: str = "auto"
    host_access: bool = True
    dhcp: str = "auto"
    gateway: str = ""
    routes: Mapping[Network, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """How many devices may exist at once ([limits])."""

    devices_per_user: int = 32
    devices: int = 512


@dataclass(frozen=True)
class Config:
    """A whole airtap.toml.

    qmp_sockets: patterns of the paths where guests' QEMUs listen for QMP ([qmp]).
    path: where it was read.
    """

    acl: str = "/etc/airtap/bridge.conf"
    parents: Mapping[str, Parent] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limits: Limits = Limits()
    qmp_sockets: tuple[str, ...] = ("/run/user/*/qemu/*.qmp",)
    path: str = field(default=DEFAULT_PATH, compare=False)

    def parent(self, name: str) -> Parent:
        """Return the settings of an uplink, or defaults if the file has none."""
        return self.parents.get(name, Parent())

    def candidates(self, name: str) -> tuple[str, ...]:
        """Return what a user may mean by name, in order: devices, and DEFAULT_ROUTE for its device.

        That is not repeated: an alias names devices, never another alias. uplink.choose() takes
        one.
        """
        return self.aliases.get(name, (name,))

    def is_choice(self, name: str) -> bool:
        """Return whether the device that name stands for is chosen anew for each guest."""
        targets = self.candidates(name)
        return len(targets) > 1 or DEFAULT_ROUTE in targets


def choose(path: str | None) -> str:
    """Return the path of the configuration file: path, else $AIRTAP_CONFIG, else the default."""
    return os.path.abspath(path or os.environ.get("AIRTAP_CONFIG") or DEFAULT_PATH)


def load(path: str | None) -> Config:
    """Read the configuration file that choose() says.

    Only at the default path it may be absent. Raises Problem config-unreadable or config-invalid,
    which name the file and the key.
    """
    chosen = choose(path)
    try:
        with open(chosen, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as exc:
        if chosen == DEFAULT_PATH and isinstance(exc, FileNotFoundError):
            return Config()
        raise Problem("config-unreadable", f"cannot read {chosen}: {reason(exc)}") from exc
    if len(content) > _MAX_BYTES:
        raise Problem("config-invalid", f"{chosen} is larger than {_MAX_BYTES} bytes")
    try:
        return replace(parse(tomllib.loads(content.decode())), path=chosen)
    except (ValueError, RecursionError) as exc:  # TOML, UTF-8, or a number of 5,000 digits
        raise Problem("config-invalid", f"{chosen} is not TOML: {exc}") from exc
    except Problem as problem:
        raise Problem(problem.code, f"{chosen}: {problem.message}", problem.hint) from problem


def parse(document: Mapping[str, Any]) -> Config:
    """Make a Config of a parsed TOML document. Raises Problem config-invalid."""
    _known(document, "", {"acl", "parents", "aliases", "limits", "qmp"})
    acl = _string(document, "acl", "acl", Config.acl)
    if not os.path.isabs(acl) or "\0" in acl:
        raise _invalid(f"acl = {acl!r} is not an absolute path")
    parents = {
        _name(name, f"parents.{name}"): _parent(_table(value, f"parents.{name}"), name)
        for name, value in _table(document.get("parents", {}), "parents").items()
    }
    aliases = {
        _name(alias, f"aliases.{alias}"): _targets(value, f"aliases.{alias}")
        for alias, value in _table(document.get("aliases", {}), "aliases").items()
    }
    for alias, targets in aliases.items():
        for target in targets:
            if target in aliases:
                raise _invalid(
                    f"aliases.{alias}: {target!r} is another alias",
                    f"name what that stands for: {', '.join(aliases[target])}",
                )
    limits = _table(document.get("limits", {}), "limits")
    defaults = vars(Limits())
    _known(limits, "limits.", set(defaults))
    counts = {key: _count(limits, key, default) for key, default in defaults.items()}
    sockets = _patterns(_table(document.get("qmp", {}), "qmp"))
    return Config(acl, parents, aliases, Limits(**counts), sockets)


def _parent(table: Mapping[str, Any], name: str) -> Parent:
    where = f"parents.{name}."
    keys = {"kind", "mode", "macnat", "host_access", "dhcp", "gateway", "routes"}
    _known(table, where, keys)
    kind = _choice(table, where, "kind", ("auto", *MODES), Parent.kind)
    modes = MODES.get(kind, MODES["macvtap"])
    mode = _choice(table, where, "mode", modes, Parent.mode)
    macnat = _choice(table, where, "macnat", ("auto", "on", "off"), Parent.macnat)
    host_access = table.get("host_access", Parent.host_access)
    if not isinstance(host_access, bool):
        raise _invalid(f"{where}host_access = {_shown(host_access)} is neither true nor false")
    dhcp = _choice(table, where, "dhcp", ("auto", "keep", "uplink"), Parent.dhcp)
    gateway = _string(table, "gateway", f"{where}gateway", Parent.gateway)
    gateway = gateway and _mac(gateway, f"{where}gateway")
    meet = host_access and mode == "bridge" and (kind, macnat) != ("ipvtap", "off")
    if gateway and not meet:
        hint = 'it takes host_access = true, mode = "bridge", and on ipvtaps MAC NAT'
        raise _invalid(f"{where}gateway: the host does not meet its guests there", hint)
    routes = _routes(_table(table.get("routes", {}), f"{where}routes"), f"{where}routes")
    return Parent(kind, mode, macnat, host_access, dhcp, gateway, routes)


def _routes(table: Mapping[str, Any], where: str) -> dict[Network, str]:
    if len(table) > _MAX_ROUTES:
        raise _invalid(f"{where} has {len(table)} prefixes", f"{_MAX_ROUTES} are the most")
    found: dict[Network, str] = {}
    for text in table:
        at = f"{where}.{text}"
        network = _network(text, at)
        if network in found:
            raise _invalid(f"{where} names {network} twice")
        found[network] = _mac(_string(table, text, at, ""), at)
    return found


def _network(text: str, where: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError as exc:
        raise _invalid(f"{where}: {exc}", 'write a prefix, as in "10.8.0.0/16"') from exc
    if network.is_multicast or network.is_loopback or network.is_link_local:
        raise _invalid(f"{where}: nobody routes for {network}")
    return network


def _targets(value: object, where: str) -> tuple[str, ...]:
    """Return what an alias stands for: one device, or a list of them in order."""
    names = value if isinstance(value, list) else [value]
    if not 0 < len(names) <= _MAX_TARGETS:
        raise _invalid(f"{where} is a list of {len(names)} devices", f"name 1 to {_MAX_TARGETS}")
    targets = tuple(_name(name, where) for name in names)
    for number, target in enumerate(targets):
        if target in targets[:number]:
            raise _invalid(f"{where} names {target!r} twice")
    return targets


def _patterns(table: Mapping[str, Any]) -> tuple[str, ...]:
    _known(table, "qmp.", {"sockets"})
    patterns = table.get("sockets", list(Config.qmp_sockets))
    if not isinstance(patterns, list) or len(patterns) > _MAX_TARGETS:
        raise _invalid("qmp.sockets is no list of paths", f"{_MAX_TARGETS} are the most")
    for path in patterns:
        if not isinstance(path, str) or not os.path.isabs(path) or "\0" in path:
            raise _invalid(f"qmp.sockets: {_shown(path)} is not an absolute path")
    return tuple(patterns)


def _known(table: Mapping[str, Any], where: str, keys: set[str]) -> None:
    for key in table:
        if key not in keys:
            raise _invalid(f"unknown key {where}{key}", f"known here: {', '.join(sorted(keys))}")


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(f"{where} = {_shown(value)} is not a table", f"write [{where}]")
    return value


def _string(table: Mapping[str, Any], key: str, where: str, default: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise _invalid(f"{where} = {_shown(value)} is not a string")
    return value


def _choice(
    table: Mapping[str, Any], where: str, key: str, choices: tuple[str, ...], default: str
) -> str:
    value = _string(table, key, where + key, default)
    if value not in choices:
        raise _invalid(f"{where}{key} = {_shown(value)} is not one of {', '.join(choices)}")
    return value


def _count(table: Mapping[str, Any], key: str, default: int) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        raise _invalid(f"limits.{key} = {_shown(value)} is not a number from 0 to 65535")
    return value


def _name(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _invalid(f"{where} = {_shown(value)} is not the name of a device")
    try:
        return device_name(value)
    except Problem as problem:
        raise _invalid(f"{where}: {problem.message}") from problem


def _mac(value: str, where: str) -> str:
    try:
        return mac_address(value)
    except Problem as problem:
        raise _invalid(f"{where}: {problem.message}", problem.hint) from problem


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a very large number"


def _invalid(what: str, hint: str = "") -> Problem:
    return Problem("config-invalid", what, hint)

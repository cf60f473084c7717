"""airtap network: libvirt networks whose guests are on the LAN."""

import argparse
import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ... import config
from ...config import Config
from ...errors import Problem
from ...libvirt import connectivity, networks, session_conf
from ...libvirt.connection import connected
from ...libvirt.network_xml import Network, network_name, network_xml
from ...libvirt.networks import ListedNetwork
from ...libvirt.subnets import choose_subnets
from ...libvirt.xml import validate
from ...names import device_name
from ...uris import SESSION, SYSTEM, expect_local, is_session
from ..columns import aligned
from ..common import echo, libvirt_mode, notice, uri
from .change import hold_against_schema

Json = dict[str, Any]

_COLUMNS = ("NAME", "KIND", "PARENT", "STATE", "AUTOSTART")


def define(arguments: argparse.Namespace) -> None:
    _refuse_unfit(arguments)
    settings = config.load(None)
    network = _wanted(arguments, settings)
    one_mac = _inspect_parent(network, settings, fatal=not arguments.print)
    if network.kind != "session" and settings.is_choice(arguments.parent):
        notice(
            f"{arguments.parent} stands for {network.parent} now, and the network stays there;"
            f" with airtap domain connect --parent {arguments.parent} a guest follows it"
        )
    if arguments.print:
        xml = network_xml(_with_subnets(network, None))
        validate(xml, "network")
        print(xml, end="", flush=True)
        return
    if network.kind == "session":
        network_xml(network)  # a template that does not do leaves qemu.conf alone
        _offer_bridge_helper(arguments.write_config)
    default = SESSION if network.kind == "session" else SYSTEM
    with connected(arguments.connect or default) as connection:
        network = _with_subnets(network, connection)
        hold_against_schema(network_xml(network), "network")
        new = networks.define(connection, network)
    echo(_outcome(network, new, one_mac))


def _refuse_unfit(arguments: argparse.Namespace) -> None:
    """End on a command line that makes no sense; raise Problem for one that cannot work."""
    if arguments.mode and arguments.kind != "macvtap":
        arguments.parser.error(f"--mode is of macvtaps, and kind {arguments.kind} has none")
    if arguments.write_config and arguments.kind != "session":
        arguments.parser.error("--write-config goes with --kind session only")
    if arguments.kind == "ipvtap":
        raise Problem(
            "not-supported",
            "libvirt has no network whose guests get an ipvtap, so nothing is defined",
            "an ipvtap belongs to a guest's own definition, which is for `airtap domain connect`;"
            " a macvtap network also works on Wi-Fi",
        )
    wanted = arguments.connect or ""
    expect_local(wanted)
    if urlsplit(wanted).scheme and is_session(wanted) != (arguments.kind == "session"):
        what = f"a network of kind {arguments.kind} does not work at {arguments.connect}"
        hint = f"kind session belongs to {SESSION}, the others to {SYSTEM}"
        raise Problem("bad-uri", what, hint)


def _wanted(arguments: argparse.Namespace, settings: Config) -> Network:
    """Return the network of a command line, without subnets. Raises Problem bad-name."""
    name = network_name(arguments.name)
    parent = device_name(arguments.parent)
    if arguments.kind == "session":  # airtapd resolves aliases when the guest starts
        return Network(name, "session", parent)
    parent = connectivity.choose(parent, settings)
    if arguments.kind == "nat":
        return Network(name, "nat", parent)
    mode = arguments.mode or settings.parent(parent).mode
    return Network(name, "macvtap", parent, libvirt_mode(mode))


def _inspect_parent(network: Network, settings: Config, *, fatal: bool) -> bool:
    """Check that the parent is there and fit; return whether it takes one MAC only.

    fatal: raise Problems. Otherwise they are notes, for XML that may be meant for elsewhere.
    """
    try:
        device = connectivity.choose(network.parent, settings)
        parent = connectivity.inspect(device)
        if network.kind == "macvtap":
            instead = (
                f'guests join the bridge itself as "Bridge device..." {device}, no network is'
                " needed; for qemu:///session: --kind session"
            )
            connectivity.expect_parent(parent, "macvtap", instead)
        if network.mode == "passthrough" and parent.keeps_its_mac:
            what = f"{device} cannot take the MAC of a guest, as mode passthrough wants"
            raise Problem("bad-mode", what, "on Wi-Fi, guests share it in mode bridge")
    except Problem as problem:
        if fatal:
            raise
        notice(str(problem))
        return False
    return connectivity.takes_one_mac(parent, settings)


def _with_subnets(network: Network, connection: Any) -> Network:
    """Return a network with subnets that it needs. connection: None to look at no others'."""
    if network.kind != "nat":
        return network
    ipv4, ipv6 = choose_subnets(networks.subnets(connection) if connection else [])
    return replace(network, ipv4=ipv4, ipv6=ipv6)


def _outcome(network: Network, new: bool, one_mac: bool) -> str:
    done = "defined, started and set to start" if new else "there already, started and set to start"
    lines = [f"network {network.name}: {done} with libvirt"]
    if one_mac and network.kind != "nat":
        lines.append(f"{network.parent} takes one MAC only: airtapd has to run when guests start")
    return "\n".join(lines)


def _offer_bridge_helper(write: bool) -> None:
    """Show what a session's libvirt needs to know; write it if asked to."""
    file = session_conf.path()
    line = session_conf.setting(session_conf.helper())
    if not write:
        if not session_conf.is_set(file, line):
            print(f"{file} needs this line (--write-config writes it):\n    {line}")
            print(_RESTART)
    elif session_conf.write(file, line):
        print(f"{file} now has: {line}\n{_RESTART}")


_RESTART = (
    "a libvirt daemon of yours that runs already has to be started anew for it: it ends by"
    " itself when unused for two minutes"
)


def list_all(arguments: argparse.Namespace) -> None:
    with connected(uri(arguments), read_only=True) as connection:
        found = networks.entries(connection)
    shown = [entry for entry in found if arguments.all or entry.network.ours]
    text = json.dumps({"networks": [_json(e) for e in shown]}, indent=2)
    echo(text if arguments.json else table(shown))


def table(entries: list[ListedNetwork]) -> str:
    """Networks for people: a line each."""
    if not entries:
        return "no networks"
    return "\n".join(aligned([_COLUMNS, *(_row(entry) for entry in entries)]))


def _row(entry: ListedNetwork) -> tuple[str, ...]:
    network = entry.network
    state = "active" if entry.active else "inactive"
    autostart = "yes" if entry.autostart else "no"
    return network.name, network.kind, network.parent or "-", state, autostart


def _json(entry: ListedNetwork) -> Json:
    network = entry.network
    return {
        "name": network.name,
        "uuid": entry.uuid,
        "kind": network.kind,
        "mode": network.mode or None,
        "parent": network.parent or None,
        "ipv4": str(network.ipv4) if network.ipv4 else None,
        "ipv6": str(network.ipv6) if network.ipv6 else None,
        "active": entry.active,
        "autostart": entry.autostart,
        "ours": network.ours,
    }


def undefine(arguments: argparse.Namespace) -> None:
    with connected(uri(arguments)) as connection:
        users = networks.users(connection, arguments.name)
        networks.undefine(connection, arguments.name)
    if users:
        notice(f"still in use by {', '.join(users)} when it was removed")
    echo(f"network {arguments.name}: removed")

"""airtap network: libvirt networks whose guests are on the LAN."""

import argparse
import asyncio
import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .. import config
from ..config import Config
from ..errors import Problem
from ..names import device_name
from ..uris import SESSION, SYSTEM, expect_local, is_session
from .columns import aligned
from .common import MODES, add_parent, add_uri, hold_against_schema, libvirt_mode, note, say, uri

# lxml, libvirt and netlink are imported where they are needed: airtap status needs none of them.
if TYPE_CHECKING:
    from ..libvirt.network_xml import Network
    from ..libvirt.networks import Entry

Json = dict[str, Any]

_KINDS = ("macvtap", "ipvtap", "nat", "session")
_COLUMNS = ("NAME", "KIND", "PARENT", "STATE", "AUTOSTART")

_KINDS_EXPLAINED = """\
kinds:
  macvtap  each guest gets a macvtap on DEV: its own MAC and lease on the LAN. On an uplink that
           takes one MAC only, a Wi-Fi station for one, airtapd has to run when guests start
  session  the same for guests of an ordinary user, by way of airtap-bridge-helper
  nat      a network of the host's own, forwarded to DEV: for uplinks that refuse all else
  ipvtap   libvirt has no such networks: refused, with what to do instead
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "network",
        help="make libvirt networks that bring guests to the LAN",
        description="Make, list and remove libvirt networks. They appear in virt-manager's list; "
        "those that airtap did not make are never changed.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_define(actions)
    _add_list(actions)
    _add_undefine(actions)


def _add_define(actions: Any) -> None:
    parser = actions.add_parser(
        "define",
        help="define, start and autostart a network",
        description="Define a libvirt network, start it, and let it start with libvirt from then "
        "on. To repeat a definition changes nothing.",
        epilog=_KINDS_EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="as virt-manager will show it")
    add_parent(parser, required=True)
    parser.add_argument("--kind", choices=_KINDS, default="macvtap", help="default: macvtap")
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="of macvtaps; default: DEV's mode in airtap.toml, and that is bridge if not set",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--print", action="store_true", help="print the XML and do nothing; needs no libvirt"
    )
    output.add_argument(
        "--write-config",
        action="store_true",
        help="kind session: write bridge_helper into your libvirt's qemu.conf",
    )
    add_uri(parser, f"{SYSTEM}, or {SESSION} for kind session")
    parser.set_defaults(run=partial(_define, parser))


def _add_list(actions: Any) -> None:
    parser = actions.add_parser(
        "list", help="show networks", description="Show the networks that airtap made."
    )
    parser.add_argument("--all", action="store_true", help="also those that others made")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_uri(parser)
    parser.set_defaults(run=_list)


def _add_undefine(actions: Any) -> None:
    parser = actions.add_parser(
        "undefine",
        help="stop and remove a network that airtap made",
        description="Stop and remove a network that airtap made, also while guests use it: they "
        "are named. A running guest keeps its macvtap; one behind NAT is cut off.",
    )
    parser.add_argument("name", metavar="NAME")
    add_uri(parser)
    parser.set_defaults(run=_undefine)


def _define(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    _refuse_unfit(parser, arguments)
    from ..libvirt import networks
    from ..libvirt.connection import connected
    from ..libvirt.network_xml import network_xml
    from ..libvirt.xml import validate

    settings = config.load(None)
    network = _wanted(arguments, settings)
    one_mac = _inspect_parent(network, settings, fatal=not arguments.print)
    if network.kind != "session" and settings.is_choice(arguments.parent):
        note(
            f"{arguments.parent} stands for {network.parent} now, and the network stays there;"
            f" with airtap domain connect --parent {arguments.parent} a guest follows it"
        )
    if arguments.print:
        xml = network_xml(_with_subnets(network, []))
        validate(xml, "network")
        print(xml, end="", flush=True)
        return
    if network.kind == "session":
        _offer_bridge_helper(arguments.write_config)
    default = SESSION if network.kind == "session" else SYSTEM
    with connected(arguments.connect or default) as connection:
        network = _with_subnets(network, networks.subnets(connection))
        hold_against_schema(network_xml(network), "network")
        new = networks.define(connection, network)
    say(_outcome(network, new, one_mac))


def _refuse_unfit(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End on a command line that makes no sense; raise Problem for one that cannot work."""
    if arguments.mode and arguments.kind != "macvtap":
        parser.error(f"--mode is of macvtaps, and kind {arguments.kind} has none")
    if arguments.write_config and arguments.kind != "session":
        parser.error("--write-config goes with --kind session only")
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
        raise Problem(
            "bad-uri",
            f"a network of kind {arguments.kind} does not work at {arguments.connect}",
            f"kind session belongs to {SESSION}, the others to {SYSTEM}",
        )


def _wanted(arguments: argparse.Namespace, settings: Config) -> "Network":
    """The network of a command line, without subnets. Raises Problem bad-name."""
    from ..libvirt.network_xml import Network, network_name

    name = network_name(arguments.name)
    parent = device_name(arguments.parent)
    if arguments.kind == "session":  # airtapd resolves aliases when the guest starts
        return Network(name, "session", parent)
    from ..libvirt import parents

    parent = asyncio.run(parents.choose(parent, settings))
    if arguments.kind == "nat":
        return Network(name, "nat", parent)
    mode = arguments.mode or settings.parent(parent).mode
    return Network(name, "macvtap", parent, libvirt_mode(mode))


def _inspect_parent(network: "Network", settings: Config, *, fatal: bool) -> bool:
    """Check that the parent is there and fit; return whether it takes one MAC only.

    fatal: raise Problems. Otherwise they are notes, for XML that may be meant for elsewhere.
    """
    from ..libvirt import parents

    try:
        device = asyncio.run(parents.choose(network.parent, settings))
        parent = asyncio.run(parents.inspect(device))
        if network.kind == "macvtap":
            parents.expect_macvtap(parent)
    except Problem as problem:
        if fatal:
            raise
        note(str(problem))
        return False
    return parents.takes_one_mac(parent, settings)


def _with_subnets(network: "Network", taken: Any) -> "Network":
    if network.kind != "nat":
        return network
    from ..libvirt import parents

    ipv4, ipv6 = asyncio.run(parents.choose_subnets(taken))
    return replace(network, ipv4=ipv4, ipv6=ipv6)


def _outcome(network: "Network", new: bool, one_mac: bool) -> str:
    done = "defined, started and set to start" if new else "there already, started and set to start"
    lines = [f"network {network.name}: {done} with libvirt"]
    if one_mac and network.kind != "nat":
        lines.append(f"{network.parent} takes one MAC only: airtapd has to run when guests start")
    return "\n".join(lines)


def _offer_bridge_helper(write: bool) -> None:
    """Show what a session's libvirt needs to know; write it if asked to."""
    from ..libvirt import session_conf

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


def _list(arguments: argparse.Namespace) -> None:
    from ..libvirt import networks
    from ..libvirt.connection import connected

    with connected(uri(arguments), read_only=True) as connection:
        found = networks.entries(connection)
    shown = [entry for entry in found if arguments.all or entry.network.ours]
    text = json.dumps({"networks": [_json(e) for e in shown]}, indent=2)
    say(text if arguments.json else table(shown))


def table(entries: "list[Entry]") -> str:
    """Networks for people: a line each."""
    if not entries:
        return "no networks"
    return "\n".join(aligned([_COLUMNS, *(_row(entry) for entry in entries)]))


def _row(entry: "Entry") -> tuple[str, ...]:
    network = entry.network
    state = "active" if entry.active else "inactive"
    autostart = "yes" if entry.autostart else "no"
    return network.name, network.kind, network.parent or "-", state, autostart


def _json(entry: "Entry") -> Json:
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


def _undefine(arguments: argparse.Namespace) -> None:
    from ..libvirt import networks
    from ..libvirt.connection import connected

    with connected(uri(arguments)) as connection:
        users = networks.users(connection, arguments.name)
        networks.undefine(connection, arguments.name)
    if users:
        note(f"still in use by {', '.join(users)} when it was removed")
    say(f"network {arguments.name}: removed")

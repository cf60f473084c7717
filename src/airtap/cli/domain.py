"""airtap domain: the network cards of libvirt's domains, brought to the LAN and back."""

import argparse
import asyncio
import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import config
from ..config import Config
from ..errors import Problem
from ..names import device_name
from ..uris import expect_local, is_session
from . import cards
from .change import diff, is_idle, left_out, redefine
from .common import MODES, add_parent, add_uri, libvirt_mode, note, say, uri
from .domain_table import table, to_json, told
from .nic import add_card, chosen_card, chosen_mark

# lxml, libvirt and netlink are imported where they are needed: airtap status needs none of them.
if TYPE_CHECKING:
    from ..libvirt.domain_xml import Wanted
    from ..libvirt.reader import Domain, Interface


_KINDS = ("macvtap", "ipvtap")
_HOOK = "/etc/libvirt/hooks/qemu.d/50-airtap"

_KINDS_EXPLAINED = """\
kinds:
  macvtap  libvirt makes a macvtap on DEV. On an uplink that takes one MAC only, a Wi-Fi station
           for one, airtapd has to run when the guest starts. Where DEV is an alias of several
           devices, or of default-route, airtapd makes it, on the first of them that is then up
  ipvtap   airtapd makes an ipvtap on DEV when the guest starts, asked by libvirt's hook: for
           uplinks that carry ipvlans, or whose driver cannot filter for more MACs than its own
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "domain",
        help="bring guests that libvirt knows to the LAN",
        description="Show how the network cards of libvirt's domains are attached, attach them to "
        "the LAN, and undo that.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_connect(actions)
    _add_disconnect(actions)
    _add_list(actions)
    cards.add_parsers(actions)


def _add_connect(actions: Any) -> None:
    parser = actions.add_parser(
        "connect",
        help="attach a network card to a network or an uplink",
        description="Rewrite the definition of a domain so that a network card of it is on a "
        "libvirt network or an uplink of this host, and show the change as a diff. All else "
        "stays, and the card of before is kept in the domain's metadata for disconnect.",
        epilog=_KINDS_EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_card(parser)
    link = parser.add_mutually_exclusive_group(required=True)
    link.add_argument("--network", metavar="NAME", help="a network of the same libvirt")
    add_parent(link)
    parser.add_argument("--kind", choices=_KINDS, help="with --parent; default: macvtap")
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="of a macvtap; default: DEV's mode in airtap.toml, and that is bridge if not set. Not"
        " with an alias of several devices, where the mode is always that of airtap.toml",
    )
    _add_common(parser)
    parser.set_defaults(run=partial(_connect, parser))


def _add_disconnect(actions: Any) -> None:
    parser = actions.add_parser(
        "disconnect",
        help="undo connect",
        description="Give a network card the definition back that it had before it was connected, "
        "and show the change as a diff.",
    )
    add_card(parser)
    _add_common(parser)
    parser.set_defaults(run=_disconnect)


def _add_list(actions: Any) -> None:
    parser = actions.add_parser(
        "list",
        help="show network cards",
        description="Show the network cards of all domains as their definitions have them, so as "
        "they will be at the next start, and whether guests get through by them.",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_uri(parser)
    parser.set_defaults(run=_list)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show the change, do nothing")
    add_uri(parser)


def _connect(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.parent is None and (arguments.kind or arguments.mode):
        parser.error("--kind and --mode go with --parent only")
    if arguments.mode and arguments.kind == "ipvtap":
        parser.error("--mode is of macvtaps; that of ipvtaps is set in airtap.toml")
    from ..libvirt import domain_xml, domains
    from ..libvirt.connection import connected
    from ..libvirt.reader import scan_domain

    settings = config.load(None)
    with connected(uri(arguments)) as connection:
        handle = domains.find(connection, arguments.domain)
        name = handle.name()
        wanted = _wanted(connection, arguments, settings)
        xml = domains.definition(handle, secrets=False)
        card = chosen_card(scan_domain(xml.encode()), name, arguments.nic)
        rewrite = partial(domain_xml.connect, nic=card, wanted=wanted)
        after = rewrite(xml)
        target = f"{wanted.kind} {wanted.name}"
        if is_idle(xml, after, card.mac):
            say(f"domain {name}: network card {card.mac} is on {target} already")
            return
        say(diff(xml, after, name, "connected"))
        if arguments.dry_run:
            return
        handle = redefine(connection, handle, rewrite, xml)
        say(f"domain {name}: network card {card.mac} is now on {target}")
        kept = scan_domain(domains.definition(handle, secrets=False).encode())
        _tell(connection, handle, kept, card, settings)


def _disconnect(arguments: argparse.Namespace) -> None:
    from ..libvirt import domain_xml, domains
    from ..libvirt.connection import connected
    from ..libvirt.reader import scan_domain

    with connected(uri(arguments)) as connection:
        handle = domains.find(connection, arguments.domain)
        name = handle.name()
        xml = domains.definition(handle, secrets=False)
        before = scan_domain(xml.encode())
        mac = chosen_mark(before, name, arguments.nic)
        rewrite = partial(domain_xml.disconnect, mac=mac)
        say(diff(xml, rewrite(xml), name, "disconnected"))
        if arguments.dry_run:
            return
        handle = redefine(connection, handle, rewrite, xml)
        if any(card.mac == mac for card in before.interfaces):
            say(f"domain {name}: network card {mac} is as it was before")
        else:
            say(f"domain {name}: network card {mac} is gone, and now airtap's note of it too")
        if delay := domains.delays(handle):
            say(delay)


def _wanted(connection: Any, arguments: argparse.Namespace, settings: Config) -> "Wanted":
    """What to connect to, if it is there and fit. Raises Problem."""
    from ..libvirt import networks, parents
    from ..libvirt.domain_xml import Wanted

    if arguments.parent is None:
        known = {entry.network.name for entry in networks.entries(connection)}
        if arguments.network not in known:
            raise Problem(
                "no-network",
                f"there is no network {arguments.network} at {connection.getURI()}",
                "see: airtap network list --all",
            )
        return Wanted("network", arguments.network)
    kind = arguments.kind or "macvtap"
    expect_local(connection.getURI())
    if is_session(connection.getURI()):
        raise Problem(
            "bad-uri",
            f"the libvirt of a session makes no {kind}, nor can it have one made",
            f"airtap network define NAME --parent {arguments.parent} --kind session, and then"
            " --network NAME",
        )
    asked = device_name(arguments.parent)
    parent = asyncio.run(parents.choose(asked, settings))
    parents.expect_parent(asyncio.run(parents.inspect(parent)), kind)
    if settings.is_choice(asked):
        if arguments.mode:
            raise Problem(
                "bad-mode",
                f"the device for {asked} is chosen at each start, and each has its own mode",
                "set mode in airtap.toml, in [parents.NAME] of each",
            )
        return Wanted(kind, asked, alias=True)
    mode = arguments.mode or settings.parent(parent).mode
    return Wanted(kind, parent, libvirt_mode(mode))


def _tell(
    connection: Any, handle: Any, kept: "Domain", before: "Interface", settings: Config
) -> None:
    """Say when a new connection counts, whether it works, and what went with the old one."""
    from ..libvirt import domains
    from ..libvirt.connectivity import look_around, verdict

    if delay := domains.delays(handle):
        say(delay)
    [nic] = [nic for nic in domains.nics(kept) if nic.mac == before.mac]
    works, why = verdict(nic, look_around(connection, [nic], settings))
    if works is False:
        note(f"it cannot work so: {why}")
    elif why:
        say(f"does it work? {told((works, why))}")
    [now] = [card for card in kept.interfaces if card.mac == before.mac]
    if lost := left_out(before, now):
        note(f"not on {nic.kind} {nic.name}, and so left out: {', '.join(lost)}")
    if nic.prepared:
        # libvirt sets its rules up, for ports of bridges (nwfilter_ebiptables_driver.c), and a
        # guest whose filter drops everything gets its lease.
        if now.element.all("filterref"):
            note("libvirt's <filterref> does nothing on an ipvtap or macvtap of airtapd's")
        if not os.path.exists(_HOOK):
            note(f"without libvirt's hook {_HOOK}, the guest will not start")


def _list(arguments: argparse.Namespace) -> None:
    from ..libvirt import domains
    from ..libvirt.connection import connected
    from ..libvirt.connectivity import look_around, verdict

    with connected(uri(arguments), read_only=True) as connection:
        found = domains.entries(connection)
        cards = [nic for entry in found for nic in entry.nics]
        host = look_around(connection, cards, config.load(None))
    rows = [(entry, [(nic, verdict(nic, host)) for nic in entry.nics]) for entry in found]
    text = json.dumps({"domains": [to_json(*row) for row in rows]}, indent=2)
    say(text if arguments.json else table(rows))

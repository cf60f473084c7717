"""The command lines of airtap network and airtap domain."""

import argparse
from typing import Any

from ..uris import SESSION, SYSTEM
from .options import MODES, add_parent, add_uri, seconds

_NETWORK_KINDS = ("macvtap", "ipvtap", "nat", "session")
_NIC_KINDS = ("macvtap", "ipvtap")
_TIMEOUT_S = 10.0

_NETWORK_KINDS_EXPLAINED = """\
kinds:
  macvtap  each guest gets a macvtap on DEV: its own MAC and lease on the LAN. On an uplink that
           takes one MAC only, a Wi-Fi station for one, airtapd has to run when guests start
  session  the same for guests of an ordinary user, by way of airtap-bridge-helper
  nat      a network of the host's own, forwarded to DEV: for uplinks that refuse all else
  ipvtap   libvirt has no such networks: refused, with what to do instead
"""

_NIC_KINDS_EXPLAINED = """\
kinds:
  macvtap  libvirt makes a macvtap on DEV. On an uplink that takes one MAC only, a Wi-Fi station
           for one, airtapd has to run when the guest starts. Where DEV is an alias of several
           devices, or of default-route, airtapd makes it, on the first of them that is then up
  ipvtap   airtapd makes an ipvtap on DEV when the guest starts, asked by libvirt's hook: for
           uplinks that carry ipvlans, or whose driver cannot filter for more MACs than its own
"""

_RELEASING = """\
To take a card out, a guest's operating system has to release it: a guest that is still booting, or
has none, does not, until it is reset. What is to come in its place is noted in the live metadata of
the domain meanwhile, and airtap domain replug completes it.
"""


def add_network(commands: Any) -> None:
    parser = commands.add_parser(
        "network",
        help="make libvirt networks that bring guests to the LAN",
        description="Make, list and remove libvirt networks. They appear in virt-manager's list; "
        "those that airtap did not make are never changed.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_network_define(actions)
    _add_network_list(actions)
    _add_network_undefine(actions)


def _add_network_define(actions: Any) -> None:
    parser = actions.add_parser(
        "define",
        help="define, start and autostart a network",
        description="Define a libvirt network, start it, and let it start with libvirt from then "
        "on. To repeat a definition changes nothing.",
        epilog=_NETWORK_KINDS_EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="as virt-manager will show it")
    add_parent(parser, required=True)
    parser.add_argument(
        "--kind", choices=_NETWORK_KINDS, default="macvtap", help="default: macvtap"
    )
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
    parser.set_defaults(run=("network", "define"), parser=parser)


def _add_network_list(actions: Any) -> None:
    parser = actions.add_parser(
        "list", help="show networks", description="Show the networks that airtap made."
    )
    parser.add_argument("--all", action="store_true", help="also those that others made")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_uri(parser)
    parser.set_defaults(run=("network", "list_all"))


def _add_network_undefine(actions: Any) -> None:
    parser = actions.add_parser(
        "undefine",
        help="stop and remove a network that airtap made",
        description="Stop and remove a network that airtap made, also while guests use it: they "
        "are named. A running guest keeps its macvtap; one behind NAT is cut off.",
    )
    parser.add_argument("name", metavar="NAME")
    add_uri(parser)
    parser.set_defaults(run=("network", "undefine"))


def add_domain(commands: Any) -> None:
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
    _add_renew(actions)
    _add_replug(actions)
    _add_move(actions)


def _add_connect(actions: Any) -> None:
    parser = actions.add_parser(
        "connect",
        help="attach a network card to a network or an uplink",
        description="Rewrite the definition of a domain so that a network card of it is on a "
        "libvirt network or an uplink of this host, and show the change as a diff. All else "
        "stays, and the card of before is kept in the domain's metadata for disconnect.",
        epilog=_NIC_KINDS_EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_nic(parser)
    link = parser.add_mutually_exclusive_group(required=True)
    link.add_argument("--network", metavar="NAME", help="a network of the same libvirt")
    add_parent(link)
    parser.add_argument("--kind", choices=_NIC_KINDS, help="with --parent; default: macvtap")
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="of a macvtap; default: DEV's mode in airtap.toml, and that is bridge if not set. Not"
        " with an alias of several devices, where the mode is always that of airtap.toml",
    )
    _add_common(parser)
    parser.set_defaults(run=("domain", "connect"), parser=parser)


def _add_disconnect(actions: Any) -> None:
    parser = actions.add_parser(
        "disconnect",
        help="undo connect",
        description="Give a network card the definition back that it had before it was connected, "
        "and show the change as a diff.",
    )
    _add_nic(parser)
    _add_common(parser)
    parser.set_defaults(run=("domain", "disconnect"))


def _add_list(actions: Any) -> None:
    parser = actions.add_parser(
        "list",
        help="show network cards",
        description="Show the network cards of all domains as their definitions have them, so as "
        "they will be at the next start, and whether guests get through by them.",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_uri(parser)
    parser.set_defaults(run=("domain", "list_all"))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show the change, do nothing")
    add_uri(parser)


def _add_renew(actions: Any) -> None:
    parser = actions.add_parser(
        "renew",
        help="have running guests ask for new leases",
        description="Take the links of running guests' network cards down for a second, and up"
        " again: their operating systems then ask for new leases, as after a cable was plugged into"
        " another socket. Cards whose link is set down stay down.",
    )
    parser.add_argument("domain", metavar="DOMAIN", nargs="?", help="its name or UUID only")
    _add_only_parent(parser)
    add_uri(parser)
    parser.set_defaults(run=("live", "renew"))


def _add_replug(actions: Any) -> None:
    parser = actions.add_parser(
        "replug",
        help="give running guests their cards back whose uplink went and came back",
        description="Unplug the network cards of running guests whose device has vanished with its"
        " uplink, and plug them in again where the uplink is there: with the same MAC and PCI"
        " address.",
        epilog=_RELEASING,
    )
    _add_only_parent(parser)
    _add_timeout(parser)
    add_uri(parser)
    parser.set_defaults(run=("live", "replug"))


def _add_move(actions: Any) -> None:
    parser = actions.add_parser(
        "move",
        help="bring a running guest to another uplink",
        description="Unplug a network card of a running guest, and plug it in again on another"
        " uplink, with the same MAC and PCI address. If airtap connected the card to an uplink, its"
        " next start uses the new one; otherwise that stays as it is defined.",
        epilog=_RELEASING,
    )
    _add_nic(parser)
    add_parent(parser, required=True)
    parser.add_argument(
        "--config", action="store_true", help="its next start too, as by airtap domain connect"
    )
    _add_timeout(parser)
    add_uri(parser)
    parser.set_defaults(run=("live", "move"))


def _add_only_parent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parent", metavar="DEV", help="only cards on this uplink, or alias of it")


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds(0, 3600),
        default=_TIMEOUT_S,
        help=f"how long a guest may take to release a card; default: {_TIMEOUT_S:g}",
    )


def _add_nic(parser: argparse.ArgumentParser) -> None:
    """Let a command name one network card of a domain."""
    parser.add_argument("domain", metavar="DOMAIN", help="its name or UUID")
    parser.add_argument(
        "--nic",
        metavar="MAC|N",
        help="which network card, by MAC address or by number from 1; needed if there are several",
    )

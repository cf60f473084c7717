"""The command line of airtap. It imports nothing that only a command needs.

The manual page and the shell completions are held against it. Each command names the module of
commands/ and its function that run it, so that `airtap status` loads neither lxml nor netlink.
"""

import argparse
from typing import Any

from .. import __version__
from .options import add_uri, seconds
from .parser_libvirt import add_domain, add_network

_COLOURS = ("auto", "always", "never")
_INTERVAL_S = 2.0

_TRACE = """\
A line for each frame: when, from whom to whom, what it is, and what was done to it:

    19:05:31.120  guest -> LAN   ARP who-has 192.0.2.1 tell 192.0.2.50 | source MAC ... -> ...

Frames of the guest's are told of, and those for it. Where MAC NAT is off, those that the LAN
sends to it pass no program of airtap's and are not shown. On a macvtap, what a sibling sends to
the guest is not either.
"""

_TRY = """\
A guest in a network namespace is put on DEV by way of airtapd, as QEMU's would be, with a MAC of
its own. It asks for a lease, resolves and pings the gateway over IPv4 and IPv6, and meets the
host; first on a macvtap, then on an ipvtap, or on whichever DEV carries already. The host's own
network is left as it is, and all is undone at the end, the lease included.

Exit status: 0 if every step passed, 1 if one failed or nothing could be tried.
"""

_EXIT = """\
exit status:
  0  all is well
  1  there is a problem, or this command could not do its work
  2  wrong command line
  3  warnings only

A device's name wins over a domain's. With DEV, libvirt is not looked at. As an ordinary user it
says what that user can see. docs/troubleshooting.md has every id.
"""

_4ADDR = """\
With 4-address frames (WDS) a Wi-Fi station may send for other MACs than its own: guests then need
no MAC NAT, and the station may be the port of a bridge. The access point has to take such frames.
Whether it does is tried out from a MAC of no station. Without an answer everything is set back,
and the exit status is 1. That takes up to a minute, in which the host may be off the network.
To switch it off, the station may have to associate anew, for a few seconds.
"""


def build() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="airtap", description="QEMU and libvirt guests straight on the LAN."
    )
    parser.add_argument("--version", action="version", version=f"airtap {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parser.set_defaults(needs_daemon=False, needs_root=False)
    for add in (
        *(_add_status, _add_trace, _add_doctor, _add_try),
        *(add_network, add_domain, _add_parent, _add_renew, _add_release),
    ):
        add(commands)
    return parser


def _add_status(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="show uplinks and guests",
        description="Show the uplinks that carry guests or stand in airtap.toml, and the "
        "guests behind them: all of them for root, for others their own.",
    )
    parser.add_argument("--json", action="store_true", help="for programs: see docs/status.md")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=seconds(0.1, 86400),
        const=_INTERVAL_S,
        help=f"again every so many seconds, until Ctrl-C; default: {_INTERVAL_S:g}",
    )
    parser.add_argument(
        "--color",
        choices=_COLOURS,
        default="auto",
        help="auto: on a terminal, unless NO_COLOR is set",
    )
    parser.set_defaults(run=("status", "run"), needs_daemon=True)


def _add_trace(commands: Any) -> None:
    parser = commands.add_parser(
        "trace",
        help="show what is done to a guest's frames, live",
        description="Show what MAC NAT and host access do to a guest's frames, until Ctrl-C. Root"
        " may trace any guest, others their own.",
        epilog=_TRACE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "guest", metavar="GUEST", help="its device, its libvirt domain, or its MAC address"
    )
    parser.add_argument(
        "--pcap",
        metavar="FILE",
        help="also write the frames to FILE (pcapng, the first 384 bytes of each), as interface"
        " 'before' and, unless they were refused, 'after' translation",
    )
    parser.add_argument("--count", metavar="N", type=_count, help="end after N frames")
    parser.set_defaults(run=("trace", "run"), needs_daemon=True)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what is wrong, and what to do about it",
        description="Look at this host, at the uplinks of airtap and at libvirt's guests on them, "
        "and say what is wrong, why, and what to type. Nothing is changed.",
        epilog=_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "subject",
        metavar="DEV|DOMAIN",
        nargs="?",
        help="only this uplink (or alias), or only this guest of libvirt and its uplinks",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_uri(parser)
    parser.set_defaults(run=("doctor", "run"))


def _add_try(commands: Any) -> None:
    parser = commands.add_parser(
        "try",
        help="see whether guests work on a device, with a throw-away one",
        description="See whether guests work on DEV, before there is one. For root.",
        epilog=_TRY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("device", metavar="DEV", help="an interface, a bridge, or an alias")
    parser.add_argument(
        "--kind", choices=("macvtap", "ipvtap"), help="try this only; default: both, one by one"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds(0, 3600, above=True),
        default=10.0,
        help="for each step (10)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=("trial", "run"), needs_root=True)


def _add_parent(commands: Any) -> None:
    parser = commands.add_parser(
        "parent", help="set up an uplink itself", description="Set up what guests stand on."
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    parser = actions.add_parser(
        "4addr",
        help="switch a Wi-Fi station's 4-address mode, and check that frames pass",
        description="Switch a Wi-Fi station's 4-address mode, and check that frames pass.",
        epilog=_4ADDR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("device", metavar="DEV", help="the station, or an alias in airtap.toml")
    parser.add_argument("mode", choices=("on", "off"))
    parser.set_defaults(run=("parent", "switch_4addr"))


def _add_renew(commands: Any) -> None:
    parser = commands.add_parser(
        "renew",
        help="have a user's running guests ask for new leases",
        description="Take the links of your running guests' network cards down for a second, and"
        " up again: their operating systems then ask for new leases. Those of qemu:///session are"
        " told by libvirt, others by their QEMU, if it listens for QMP where airtap.toml says."
        " For guests of the system's libvirt there is airtap domain renew.",
    )
    parser.add_argument("--parent", metavar="DEV", help="only those on this uplink")
    parser.add_argument("--user", metavar="USER", help="those of a user: a name or uid, for root")
    parser.set_defaults(run=("renew", "run"))


def _add_release(commands: Any) -> None:
    parser = commands.add_parser(
        "release",
        help="remove a guest device, also while its guest runs",
        description="Remove a device that airtap made, also while its guest runs: the guest "
        "is then without a network. Devices otherwise go by themselves with their guest.",
    )
    parser.add_argument("device", metavar="DEVICE", help="as airtap status shows it")
    parser.set_defaults(run=("release", "run"), needs_daemon=True)

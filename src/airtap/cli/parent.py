"""airtap parent: what an uplink itself is set to."""

import argparse
import asyncio
import signal
from typing import Any

from .. import config
from ..names import device_name
from .common import end_orderly, note, say

# netlink is imported where it is needed: airtap status needs none of it.

_4ADDR_EXPLAINED = """\
With 4-address frames (WDS) a Wi-Fi station may send for other MACs than its own: guests then need
no MAC NAT, and the station may be the port of a bridge. The access point has to take such frames.
Whether it does is tried out from a MAC of no station. Without an answer everything is set back,
and the exit status is 1. That takes up to a minute, in which the host may be off the network.
To switch it off, the station may have to associate anew, for a few seconds.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "parent", help="set up an uplink itself", description="Set up what guests stand on."
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    parser = actions.add_parser(
        "4addr",
        help="switch a Wi-Fi station's 4-address mode, and check that frames pass",
        description="Switch a Wi-Fi station's 4-address mode, and check that frames pass.",
        epilog=_4ADDR_EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("device", metavar="DEV", help="the station, or an alias in airtap.toml")
    parser.add_argument("mode", choices=("on", "off"))
    parser.set_defaults(run=_switch_4addr)


def _switch_4addr(arguments: argparse.Namespace) -> None:
    from .. import four_address

    name = device_name(arguments.device)
    settings = config.load(None)
    # Whoever is logged in through the station may lose that connection here.
    end_orderly(signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    say(asyncio.run(four_address.switch(name, arguments.mode == "on", settings, note)))

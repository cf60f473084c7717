"""airtap parent: what an uplink itself is set to."""

import argparse
import asyncio
import signal

from ... import config, four_address
from ...names import device_name
from ..common import echo, end_orderly, notice


def switch_4addr(arguments: argparse.Namespace) -> None:
    name = device_name(arguments.device)
    settings = config.load(None)
    # Whoever is logged in through the station may lose that connection here.
    end_orderly(signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    echo(asyncio.run(four_address.switch(name, arguments.mode == "on", settings, notice)))

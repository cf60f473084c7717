"""Takes off this network namespace what airtapd leaves when it ends, for the removal of airtap.

Guests go on without airtapd, and so do the programs on their uplinks, with nobody to tell them of
the uplink's next MAC address. Who stops airtapd for good has to take them off.
"""

import logging

from ..bpf import pins
from ..errors import Problem
from ..ipc.listen import answers
from ..kernel.links import open_links, rtnetlink
from ..macnat.uplink import detach_all
from .registry import Registry

log = logging.getLogger(__name__)


async def clean_up(path: str) -> None:
    """Take MAC NAT and host access off, and remove devices that no guest holds.

    path: where airtapd would listen. A guest that runs keeps its device, and its network where its
    own MAC address gets through. Raises Problem already-running, LinkError, OSError.
    """
    if answers(path):
        hint = "systemctl stop airtapd.socket airtapd.service, or end it otherwise"
        raise Problem("already-running", f"an airtapd answers at {path}", hint)
    async with open_links() as links, rtnetlink() as ipr:
        registry = Registry(links)
        try:
            for guest in await registry.recover():
                log.warning(
                    "%(name)s stays while its guest runs; later: ip link delete %(name)s",
                    {"name": guest.name},
                )
        finally:
            await registry.close()
        await pins.adopt_former(ipr)
        for index, directory in list(pins.pinned()):
            await detach_all(links, ipr, index)
            pins.remove_pins(directory)
            log.info("MAC NAT and host access are off for device %d", index)

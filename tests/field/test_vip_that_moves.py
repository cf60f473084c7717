"""After a failover the virtual address is dead for half a minute: the guest that takes it over has
announced it five times in a second, while the other one still had it, and says no more.

acassen/keepalived#160, #1769, #2459; ClusterLabs/resource-agents#1131; metallb/metallb#571, #253.
"""

import time

import pytest

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import SLOWNESS, Lan, wait_for
from lab.traffic import two_guests

VIPS = {4: "192.0.2.88/24", 6: "2001:db8::88/64"}


@BOTH_KINDS
@pytest.mark.parametrize("family", VIPS)
def test_a_virtual_address_moves_within_seconds(lan: Lan, airtapd: Airtapd, family: int) -> None:
    address = VIPS[family].partition("/")[0]
    own = ["address", "add", VIPS[family], "dev", "eth0"]
    with two_guests(airtapd) as (master, backup):
        master.run("ip", *own)
        wait_for(lambda: lan.ping(address), 10, "the first to have it")
        master.run("ip", "address", "del", VIPS[family], "dev", "eth0")
        began = time.monotonic()
        backup.run("ip", *own)  # of IPv6 its detection of duplicates is all that it says
        if family == 4:
            backup.run("arping", "-q", "-U", "-c", "2", "-w", "1", "-I", "eth0", address)
        wait_for(lambda: lan.ping(address), 20, "the second to have it")
        assert time.monotonic() - began < 8 * SLOWNESS

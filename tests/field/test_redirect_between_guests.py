"""Two guests ping each other, and stop after the first answer: their router redirects one to the
other, at the MAC at which it has both.

NetworkConfiguration/dhcpcd#506 (a client that routes its own prefix by the router), and
systemd/systemd#31438; prefixes that are not on the link do the same.
"""

import re

from lab.adversary.world import ROUTER_LL
from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import Lan
from lab.pump import PumpGuest
from lab.traffic import GUEST6, SIBLING6, two_guests


def know_the_router_only(guest: PumpGuest, address: str) -> None:
    guest.run("ip", "-6", "address", "flush", "dev", "eth0", "scope", "global")
    guest.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=0")
    guest.run("ip", "address", "add", f"{address}/128", "dev", "eth0", "nodad")
    guest.run("ip", "-6", "route", "replace", "default", "via", ROUTER_LL, "dev", "eth0")


@BOTH_KINDS
def test_guests_that_their_router_redirects_go_on(lan: Lan, airtapd: Airtapd) -> None:
    lan.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    with two_guests(airtapd) as (guest, sibling):
        for each, address in ((guest, GUEST6), (sibling, SIBLING6)):
            know_the_router_only(each, address)
            assert lan.ping(address, timeout=5)
        argv = ["ping", "-n", "-q", "-i", "0.1", "-c", "40", SIBLING6]
        said = guest.run(*argv, check=False, timeout=30).stdout
    sent = re.search(r"Icmp6OutRedirects\s+(\d+)", lan.run("cat", "/proc/net/snmp6").stdout)
    assert sent and int(sent[1])
    answered = re.search(r"(\d+) received", said)
    assert answered and int(answered[1]) >= 38, said

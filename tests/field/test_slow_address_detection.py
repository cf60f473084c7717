"""All IPv6 addresses of a guest are "dadfailed", its link-local one too: its router has everybody
wait long between two solicitations, and airtap has asked for them before the guest was done.

opnsense/core#5933 (detection lasts DupAddrDetectTransmits times RetransTimer), and
systemd/systemd#31041, since which networkd takes RetransTimer from advertisements.
"""

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import Lan, wait_for
from lab.traffic import GUEST6, GUEST_MAC, pump

SLOWLY = {"dad_transmits": 2, "accept_dad": 1}


@BOTH_KINDS
def test_a_guest_that_takes_eight_seconds_has_its_addresses(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, GUEST_MAC) as guest:
        guest.run("sysctl", "-qw", "net.ipv6.neigh.eth0.retrans_time_ms=4000")
        for name, value in SLOWLY.items():
            guest.run("sysctl", "-qw", f"net.ipv6.conf.eth0.{name}={value}")
        guest.run("ip", "address", "add", f"{GUEST6}/64", "dev", "eth0")

        def shown() -> str:
            return guest.run("ip", "-6", "address", "show", "dev", "eth0", "to", GUEST6).stdout

        wait_for(lambda: "tentative" not in shown(), 20, "the guest to be done")
        assert GUEST6 in shown() and "dadfailed" not in shown()
        wait_for(lambda: lan.ping(GUEST6), 10, "the guest to be reached")

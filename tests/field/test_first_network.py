"""Guests that were started before there was a network stay without an address: they have asked, and
ask again in minutes.

mynodebtc/mynode#708 and oracle/oracle-linux#91 (autostart at boot).
"""

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import Lan, wait_for
from lab.traffic import GUEST4, GUEST_MAC, configure, pump


@BOTH_KINDS
def test_guests_that_waited_for_it_have_their_leases_renewed(lan: Lan, airtapd: Airtapd) -> None:
    """Those of nobody whom airtapd can tell are named until they are heard; and only once."""

    def stranded() -> list[str]:
        return [each["device"] for each in airtapd.guests() if each["stranded"]]

    lan.run("ip", "link", "set", lan.far, "down")
    with pump(airtapd, GUEST_MAC) as guest:
        wait_for(lambda: airtapd.guests()[0]["mac"] == GUEST_MAC, 5, "the guest to be known")
        airtapd.stop()
        airtapd.start()  # as at boot
        assert not stranded()
        lan.run("ip", "link", "set", lan.far, "up")
        wait_for(stranded, 10, "airtapd to notice the network")
        configure(guest, GUEST4, None)
        guest.ping("192.0.2.1")
        wait_for(lambda: not stranded(), 10, "airtapd to have heard the guest")
        for way in ("down", "up"):  # now it is no first network
            lan.run("ip", "link", "set", lan.far, way)
        assert lan.ping(GUEST4, timeout=5)
        assert not stranded()
        assert airtapd.log().count("its first network") == 1

"""A guest that routes for others (a VPN, Thread) drops out after a while: each source that it
forwards takes one of its places.

home-assistant/home-assistant.io#44823, home-assistant/addons#4613 (a Thread border router, a /64
behind it), hassio-addons/app-tailscale#415.
"""

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import ROUTER4, ROUTER6, Lan, wait_for
from lab.routing_guest import machine_behind
from lab.traffic import GUEST4, GUEST6, GUEST_MAC, known, pump


@BOTH_KINDS
def test_it_keeps_its_own_addresses(lan: Lan, airtapd: Airtapd) -> None:
    with pump(airtapd, GUEST_MAC, GUEST4, GUEST6) as guest, machine_behind(guest) as behind:
        for address in (GUEST4, GUEST6):
            assert lan.ping(address, timeout=5)
        behind.say_from([f"10.8.1.{n}" for n in range(1, 25)], ROUTER4)
        behind.say_from([f"2001:db8:8::1:{n:x}" for n in range(1, 41)], ROUTER6)
        last = {"10.8.1.24", "2001:db8:8::1:28"}
        wait_for(lambda: last < known(airtapd, GUEST_MAC), 10, "what is forwarded to be known")
        assert {"10.8.1.1", "2001:db8:8::1:1"}.isdisjoint(known(airtapd, GUEST_MAC))
        for address in (GUEST4, GUEST6):
            assert lan.ping(address, timeout=5), f"{address} is known no more"

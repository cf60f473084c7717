"""The host is the LAN's DHCP server, and its own guests get no lease: it logs DISCOVER and OFFER
again and again, and the guest hears nothing.

NixOS/nixpkgs#271453, containers/netavark#690, pi-hole/docker-pi-hole#546; also NetworkManager's
"shared" and hotspots.
"""

from functools import partial
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.dhcp_clients import each_client, leased
from lab.kinds import BOTH_KINDS
from lab.lan import HOST4, Lan, wait_for
from lab.traffic import pump

MAC = "52:54:00:00:02:01"


@BOTH_KINDS
@pytest.mark.parametrize("options", [[], ["-B"]], ids=["unicast", "broadcast"])
def test_guests_of_the_server_get_leases(lan: Lan, airtapd: Airtapd, options: list[str]) -> None:
    served(lan, airtapd, options)


def test_on_a_wire_that_takes_any_mac() -> None:
    with Lan() as lan, Airtapd() as airtapd:
        served(lan, airtapd, [])


def served(lan: Lan, airtapd: Airtapd, options: list[str]) -> None:
    lan.serve_from_host()
    with pump(airtapd, MAC) as guest:
        address = guest.dhcp(5, *options)
        assert lan.leases()[guest.mac] == address
        assert guest.ping(HOST4)
        assert lan.ping(address)


def test_whichever_client_they_run(lan: Lan, airtapd: Airtapd, tmp_path: Path) -> None:
    lan.serve_from_host()
    with each_client(airtapd, tmp_path, broadcast=False) as guests:
        for guest, process in guests.items():
            wait_for(partial(leased, guest, process), 20, f"the address of {guest.namespace}")
            assert lan.leases()[guest.mac] == guest.addresses()[0]

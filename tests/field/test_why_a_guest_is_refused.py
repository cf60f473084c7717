"""A guest has no network, and what airtap says about it helps: a remedy for each cause.

Clones with one machine-id, and so one lease: systemd/systemd#9609, canonical/lxd#7180,
utmapp/UTM#6980. Two cards of one guest: corosync/corosync#750. A guest that changes its MAC:
cockpit-project/cockpit-machines#1968. A guest that is the host's router: IceWhaleTech/ZimaOS#574.
"""

import pytest
from scapy.packet import Packet

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.lan import HOST4, ROUTER4, Lan
from lab.traffic import GUEST4, ROGUE4, ROGUE_MAC, claim, pump, raw_guest

CHANGED_MAC = "52:54:00:00:0c:0c"


@pytest.mark.parametrize(
    ("frame", "evidence", "remedy"),
    [
        (claim(GUEST4, ROGUE_MAC), "another guest's address", "/etc/machine-id"),
        (claim(ROGUE4, CHANGED_MAC), "another source MAC", "trustGuestRxFilters"),
        (claim(HOST4, ROGUE_MAC), "of the host", f'gateway = "{ROGUE_MAC}"'),
    ],
    ids=["clone", "changed-mac", "router"],
)
def test_the_cause_has_its_remedy(
    lan: Lan, airtapd: Airtapd, frame: Packet, evidence: str, remedy: str
) -> None:
    with pump(airtapd, ipv4=GUEST4) as guest, raw_guest(airtapd) as rogue:
        assert guest.ping(ROUTER4)
        rogue.send(frame)
        rogue.mark()
        doctor = Doctor.of(airtapd)
        finding = doctor.only("guest-refused", "up0")
        assert evidence in finding["evidence"]
        assert remedy in finding["remedy"]

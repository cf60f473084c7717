"""A guest has no network, and what airtap says about it helps: a remedy for each cause.

Clones with one machine-id, and so one lease: systemd/systemd#9609, canonical/lxd#7180,
utmapp/UTM#6980. Two cards of one guest: corosync/corosync#750. A guest that changes its MAC:
cockpit-project/cockpit-machines#1968. A guest that is the host's router: IceWhaleTech/ZimaOS#574.
"""

import pytest
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.lan import HOST4, ROUTER4, Lan
from lab.traffic import BROADCAST, GUEST4, ROGUE4, ROGUE_MAC, pump, raw_guest

CHANGED_MAC = "52:54:00:00:0c:0c"


def announcement(mac: str, address: str) -> Packet:
    arp = ARP(op=1, hwsrc=mac, psrc=address, hwdst="00:00:00:00:00:00", pdst=ROUTER4)
    return Ether(src=mac, dst=BROADCAST) / arp


@pytest.mark.parametrize(
    ("frame", "evidence", "remedy"),
    [
        (announcement(ROGUE_MAC, GUEST4), "another guest's address", "/etc/machine-id"),
        (announcement(CHANGED_MAC, ROGUE4), "another source MAC", "trustGuestRxFilters"),
        (announcement(ROGUE_MAC, HOST4), "of the host", "bridge"),
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
        doctor = Doctor({**airtapd.env, "AIRTAP_CONFIG": str(airtapd.config)})
        finding = doctor.only("guest-refused", "up0")
        assert evidence in finding["evidence"]
        assert remedy in finding["remedy"]

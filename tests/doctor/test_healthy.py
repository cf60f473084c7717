"""The doctor has nothing to say of what is well. tests/wifi repeats it with ipvtap."""

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.lan import ROUTER4, Lan, wait_for
from lab.traffic import GUEST4, GUEST_MAC, pump


def test_one_mac_wire(lan: Lan, airtapd: Airtapd) -> None:
    doctor = Doctor({**airtapd.env, "AIRTAP_CONFIG": str(airtapd.config)})
    with pump(airtapd, GUEST_MAC, GUEST4) as guest:
        wait_for(lambda: guest.ping(ROUTER4), 10, "the guest to be on the LAN")
        findings = doctor.findings()
        assert {f["level"] for f in findings} == {"ok"}, findings
        assert "so they are on guests' devices: 1" in [f["what"] for f in findings]

"""The doctor has nothing to say of what is well."""

import pytest

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.kinds import BOTH_KINDS
from lab.lan import ROUTER4, wait_for
from lab.traffic import GUEST4, GUEST_MAC, pump
from tests.doctor.conftest import MACNAT_ON


@pytest.fixture
def device_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(device_kind: str) -> str:
    return f'{MACNAT_ON}kind = "{device_kind}"\n'


@BOTH_KINDS
def test_one_mac_wire(airtapd: Airtapd, doctor: Doctor) -> None:
    with pump(airtapd, GUEST_MAC, GUEST4) as guest:
        wait_for(lambda: guest.ping(ROUTER4), 10, "the guest to be on the LAN")
        findings = doctor.findings()
        assert {f["level"] for f in findings} == {"ok"}, findings
        assert "so they are on guests' devices: 1" in [f["what"] for f in findings]

"""airtap doctor on a Wi-Fi station, with guests on macvtaps and on ipvtaps."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.lan import ROUTER4, wait_for
from tests.doctor.conftest import Doctor
from tests.macnat.traffic import GUEST4
from tests.wifi.wireless import UPLINK, pump

# Nothing in it is the kernel's.
KERNELS = ("6.12",)


@pytest.fixture
def doctor(airtapd: Airtapd) -> Iterator[Doctor]:
    """Of a host with another airtap.toml than the daemon's, where a test writes one."""
    file = Path("/run/doctor.toml")
    file.write_text(airtapd.config.read_text())
    yield Doctor({**airtapd.env, "AIRTAP_CONFIG": str(file)})
    file.unlink()


def test_healthy_then_misconfigured(airtapd: Airtapd, doctor: Doctor, kind: str) -> None:
    config = Path(doctor.env["AIRTAP_CONFIG"])
    other = {"macvtap": "ipvtap", "ipvtap": "macvtap"}[kind]
    with pump(airtapd, ipv4=GUEST4) as guest:
        wait_for(lambda: guest.ping(ROUTER4), 10, "the guest to be on the LAN")
        findings = doctor.findings(UPLINK)
        assert {f["level"] for f in findings} == {"ok"}, findings
        assert "wifi-station: takes one MAC only" in str(findings)
        config.write_text(config.read_text().replace(f'kind = "{kind}"', f'kind = "{other}"'))
        found = doctor.bad(UPLINK)["parent-busy"]
        assert f'kind = "{kind}"' in found["remedy"]
    config.write_text(f'[parents.{UPLINK}]\nkind = "macvtap"\nmacnat = "off"\n')
    assert 'macnat = "auto"' in doctor.bad(UPLINK)["macnat-off-station"]["remedy"]

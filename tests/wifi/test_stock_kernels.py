"""What only a stock kernel can show: it takes the programs, finds its modules, and carries guests.

The README's commands are in test_wifi_readme.py. `make test-slow` has all of tests/wifi on them.
"""

from contextlib import closing
from pathlib import Path

from airtap.bpf.attach import HOOKS
from airtap.bpf.macnat import open_macnat
from lab.airtap import Airtapd
from lab.wifi import Station
from tests.wifi.test_wifi_guests import test_qemu_guest_and_another  # noqa: F401
from tests.wifi.wireless import UPLINK

KERNELS = ("6.12", "6.1")


def test_the_verifier_takes_every_program() -> None:
    with closing(open_macnat(None)) as macnat:
        for name in (*HOOKS, "inject"):
            assert macnat.programs[name].info().id


def test_modules_by_their_names(airtapd: Airtapd, station: Station, kind: str) -> None:
    """The kernel loads them when airtapd asks for a guest's device; nobody else has."""
    with airtapd.attach(UPLINK):
        for name in (kind, "sch_ingress", "cls_bpf"):
            assert Path("/sys/module", name).is_dir(), name

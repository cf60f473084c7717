"""The README's way to a guest on Wi-Fi: a newcomer's commands, as they are printed there.

wlan0 is the station here, as in the README. To install the package takes many minutes in the
machine: tests/docs/scenes.py does it, as printed, on the one-MAC wire. Here lab/programs.py has the
programs where it puts them, and libvirt's hook starts airtapd.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.lan import wait_for
from lab.libvirt import Libvirtd
from lab.programs import Programs
from lab.wifi import AccessPoint, Radios, Station
from tests.docs.examples import REPOSITORY, examples
from tests.docs.host import ISO

KERNELS = ("6.12",)
SECTION = "virt-manager, on a laptop with Wi-Fi"
# What a newcomer types, from a checkout of airtap to a guest on the Wi-Fi, and what comes later.
COMMANDS = [
    command
    for example in examples(REPOSITORY / "README.md")
    if example.section == SECTION
    for command in example.commands
]
INSTALLING = ["make deb", "apt install ./dist/airtap_*.deb", "systemctl reload libvirtd"]


@pytest.fixture(scope="module")
def lan(radios: Radios) -> Iterator[AccessPoint]:
    with AccessPoint(link="wlan1") as lan:
        yield lan


@pytest.fixture(scope="module")
def station(lan: AccessPoint) -> Iterator[Station]:
    with Station([lan], link="wlan0") as station:
        yield station


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the newcomer is, with an image to start: one that boots from the network."""
    with tempfile.TemporaryDirectory(prefix="newcomer-", dir="/run") as path:
        os.chmod(path, 0o755)
        shutil.copy(ISO, Path(path, "live.iso"))
        yield Path(path)


def test_five_commands_or_fewer(lan: AccessPoint, station: Station, directory: Path) -> None:
    *install, define, start = COMMANDS[:5]
    assert install == INSTALLING
    assert [command.split()[:3] for command in COMMANDS[5:]] == [["airtap", "domain", "connect"]]
    with Programs(), Libvirtd() as libvirtd:
        typed(define, directory)
        typed(start, directory)
        with contextlib.closing(libvirtd.connect()) as connection:
            web = connection.lookupByName("web")
            [(mac, address)] = wait_for(lambda: list(lan.leases().items()), 60, "a lease") or []
            assert mac in web.XMLDesc()
            wait_for(lambda: lan.fetched(address), 60, "the guest to boot")
            assert lan.stations() == {station.mac}
            web.destroy()
            web.undefine()


def typed(command: str, directory: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(directory)},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    print(f"# {command}\n{done.stdout}")
    assert done.returncode == 0

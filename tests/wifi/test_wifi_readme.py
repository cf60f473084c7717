"""The README's way to a guest on Wi-Fi: a newcomer's commands, each as it is printed there.

The newcomer's laptop is a Debian 12 in the machine (lab/debian.py), under systemd, with libvirt and
QEMU and without airtap. wlan0 is its station, as in the README.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.debian import System
from lab.examples import COMMANDS
from lab.guest import ISO
from lab.kernels import REPOSITORY
from lab.lan import wait_for
from lab.roots import LAPTOP
from lab.sandbox import command
from lab.wifi import AccessPoint, Radios, Station

KERNELS = ("6.12",)
TEST_S = 1200
# Five of them to a guest, and one for a guest that is defined already.
*INSTALL, START, CONNECT = COMMANDS
NOT_COPIED = ("./.*", "./build", "./dist", "__pycache__", "*.bpf.o*")


@pytest.fixture(scope="module")
def lan(radios: Radios) -> Iterator[AccessPoint]:
    with AccessPoint(link="wlan1") as lan:
        yield lan


@pytest.fixture(scope="module")
def station(lan: AccessPoint) -> Iterator[Station]:
    with Station([lan], link="wlan0") as station:
        yield station


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A fresh one, with an image to start: one that boots from the network."""
    with tempfile.TemporaryDirectory(prefix="checkout-", dir="/run") as path:
        Path(path).chmod(0o755)
        without = [f"--exclude={name}" for name in NOT_COPIED]
        archive = f"{path}.tar"
        command("tar", *without, "-C", str(REPOSITORY), "-cf", archive, ".")
        command("tar", "-C", path, "--no-same-owner", "-xf", archive)
        Path(archive).unlink()
        shutil.copy(ISO, Path(path, "live.iso"))
        yield Path(path)


@pytest.fixture(scope="module")
def laptop(station: Station, checkout: Path) -> Iterator[System]:
    """libvirtd runs there; /run/shared is the checkout."""
    with System(LAPTOP, checkout) as laptop:
        laptop.run("systemctl", "start", "libvirtd")
        yield laptop
        print(laptop.run("journalctl", "--no-pager", "--lines=100", check=False).stdout)
        # wlan0 is another module's next.
        laptop.run("systemctl", "stop", "airtapd.socket", "airtapd.service", check=False)
        laptop.run("airtapd", "--clean-up", check=False)
    assert "clsact" not in command("tc", "qdisc", "show", "dev", "wlan0")


def typed(laptop: System, command: str) -> str:
    """What a command prints; apt asks whether to go on."""
    return laptop.run("bash", "-c", f"cd /run/shared\n{command}", text="y\n").stdout


def test_five_commands_or_fewer() -> None:
    assert len([*INSTALL, START]) <= 5


@pytest.mark.parametrize("number", range(len(INSTALL)))
def test_install(laptop: System, number: int) -> None:
    """Each in a test of its own: building takes minutes here."""
    print(typed(laptop, INSTALL[number]))


def test_doctor_has_nothing_to_say(laptop: System) -> None:
    print(laptop.run("airtap", "doctor").stdout)


def test_a_guest_on_the_wifi(laptop: System, lan: AccessPoint, station: Station) -> None:
    print(typed(laptop, START))
    [(mac, address)] = wait_for(lambda: list(lan.leases().items()), 60, "a lease") or []
    assert mac in laptop.run("virsh", "dumpxml", "web").stdout
    wait_for(lambda: lan.fetched(address), 60, "the guest to boot")
    assert lan.stations() == {station.mac}
    assert address in laptop.run("airtap", "status").stdout
    laptop.run("virsh", "destroy", "web")


def test_a_guest_that_is_defined_already(laptop: System) -> None:
    defined = laptop.run("virsh", "dumpxml", "--inactive", "web").stdout
    other = defined.replace("network='wifi'", "network='default'")
    laptop.run("virsh", "define", "/dev/stdin", text=other)
    assert "+      <source network='wifi'/>" in typed(laptop, CONNECT)

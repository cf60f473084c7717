"""The README's way to a guest on Wi-Fi: each command of a newcomer's, as it is printed there.

wlan0 is the station here, as in the README. apt and dpkg are the machine's, with this system's
database, as are the Python, libvirt and lxml that airtap then runs with. `make test` has run `make
deb` before. There is no systemd, so libvirtd is sent the signal of `systemctl reload` from here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.lan import wait_for
from lab.libvirt import Libvirtd
from lab.overlay import Overlay
from lab.sandbox import children
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
MAKE_DEB, INSTALL, RELOAD, DEFINE, START, *LATER = COMMANDS

# The machine has memory file systems over /var/lib/apt and /var/cache.
FOR_APT = ("/var/lib/apt/lists/partial", "/var/cache/apt/archives/partial", "/var/log/apt")


@pytest.fixture(scope="module")
def lan(radios: Radios) -> Iterator[AccessPoint]:
    with AccessPoint(link="wlan1") as lan:
        yield lan


@pytest.fixture(scope="module")
def station(lan: AccessPoint) -> Iterator[Station]:
    with Station([lan], link="wlan0") as station:
        yield station


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """As on a laptop without airtap: it runs, and there are no hooks."""
    libvirtd = Libvirtd()
    shutil.rmtree("/etc/libvirt/hooks")
    with libvirtd:
        yield libvirtd
        print(libvirtd.log())


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """Where the newcomer is: the package, and an image that boots from the network."""
    with tempfile.TemporaryDirectory(prefix="checkout-", dir="/run") as path:
        os.chmod(path, 0o755)
        Path(path, "dist").symlink_to(REPOSITORY / "dist")
        shutil.copy(ISO, Path(path, "live.iso"))
        yield Path(path)


@pytest.fixture(scope="module")
def packages() -> Iterator[None]:
    """This system's packages, in a state that can be changed."""
    for path in FOR_APT:
        os.makedirs(path, exist_ok=True)
    with Overlay("/usr", "/var/lib/dpkg"):
        yield


def test_five_commands_or_fewer() -> None:
    assert len(COMMANDS) - len(LATER) <= 5
    assert [command.split()[:3] for command in LATER] == [["airtap", "domain", "connect"]]


def test_install(libvirtd: Libvirtd, packages: None, checkout: Path) -> None:
    assert MAKE_DEB == "make deb" and list((REPOSITORY / "dist").glob("airtap_*.deb"))
    typed(INSTALL, checkout)
    assert RELOAD == "systemctl reload libvirtd"
    libvirtd.reload()
    assert Path("/etc/libvirt/hooks/network.d/50-airtap").exists()


def test_a_guest_on_wifi(
    lan: AccessPoint, station: Station, libvirtd: Libvirtd, packages: None, checkout: Path
) -> None:
    before = children()
    typed(DEFINE, checkout)
    typed(START, checkout)
    with contextlib.closing(libvirtd.connect()) as connection:
        web = connection.lookupByName("web")
        [(mac, address)] = wait_for(lambda: list(lan.leases().items()), 60, "a lease") or []
        assert mac in web.XMLDesc()
        wait_for(lambda: lan.fetched(address), 60, "the guest to boot")
        assert lan.stations() == {station.mac}
        web.destroy()
        web.undefine()
    for pid in children() - before:  # airtapd, which the hook has started
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


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

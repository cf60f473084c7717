"""The second card's address does not answer: Linux sends from it by the first card, and answers for
both on both.

corosync/corosync#750, cockpit-project/cockpit#14676, IceWhaleTech/ZimaOS#574.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.host_access import reaches
from lab.kinds import BOTH_KINDS
from lab.lan import ROUTER4, ROUTER6, Lan, wait_for
from lab.pump import PumpGuest
from lab.sandbox import command
from lab.traffic import (
    GUEST4,
    GUEST6,
    GUEST_MAC,
    ROGUE4,
    ROGUE6,
    ROGUE_MAC,
    SIBLING4,
    SIBLING6,
    SIBLING_MAC,
    known,
    pump,
    refused,
    status_of,
)

Owned = Callable[[Path], AbstractContextManager[str]]
# As airtapd notes it when libvirt's hook says whose a device is.
DOMAINS = [f"pid=0 uuid=0c0ffee0-0000-4000-8000-00000000000{n} domain=web" for n in (1, 2)]


@contextmanager
def of_libvirt(_directory: Path) -> Iterator[str]:
    yield DOMAINS[0]


@contextmanager
def of_qemu(directory: Path) -> Iterator[str]:
    """As airtapd notes who has asked for a device, while that is QEMU."""
    name = directory / "qemu-system-x86_64"
    name.symlink_to(shutil.which("sleep") or "")
    with subprocess.Popen(["sleep", "600"], executable=name) as process:
        try:
            yield f"pid={process.pid}"
        finally:
            process.kill()


@contextmanager
def two_cards(airtapd: Airtapd, *owners: str) -> Iterator[PumpGuest]:
    """A guest with an address on each of two cards, of which airtapd knows these owners."""
    with pump(airtapd, GUEST_MAC) as guest, pump(airtapd, ROGUE_MAC, name="second") as second:
        for mac, owner in zip((GUEST_MAC, ROGUE_MAC), owners, strict=True):
            device = status_of(airtapd, mac)["device"]
            command("ip", "link", "set", device, "alias", f"airtap uid=0 {owner} mac={mac}")
        ip = ["ip", "-n", second.namespace, "link", "set", "eth0"]
        command(*ip, "down")
        command(*ip, "name", "eth1", "netns", guest.namespace)
        guest.run("ip", "link", "set", "eth1", "up")
        for device, ipv4, ipv6 in (("eth0", GUEST4, GUEST6), ("eth1", ROGUE4, ROGUE6)):
            guest.run("ip", "address", "add", f"{ipv4}/24", "dev", device)
            guest.run("ip", "address", "add", f"{ipv6}/64", "dev", device, "nodad")
            for router in (ROUTER4, ROUTER6):  # as a client for a lease does, by that card
                guest.run("ping", "-c1", "-w5", "-I", device, router)
        assert {ROGUE4, ROGUE6} <= known(airtapd, ROGUE_MAC)
        yield guest


@BOTH_KINDS
@pytest.mark.parametrize("owned", [of_libvirt, of_qemu])
def test_both_addresses_answer(lan: Lan, airtapd: Airtapd, tmp_path: Path, owned: Owned) -> None:
    addresses = (GUEST4, ROGUE4, GUEST6, ROGUE6)
    sibling = pump(airtapd, SIBLING_MAC, SIBLING4, SIBLING6, name="sibling")
    with owned(tmp_path) as owner, two_cards(airtapd, owner, owner), sibling as other:
        for address in addresses:
            wait_for(partial(lan.ping, address), 10, f"the LAN to reach {address}")
            wait_for(partial(other.ping, address), 10, f"a sibling to reach {address}")
            wait_for(partial(reaches, address), 10, f"the host to reach {address}")
        assert all(lan.ping(address) for address in addresses)
        assert Doctor.of(airtapd).bad("up0") == {}
        other.run("ip", "address", "add", f"{ROGUE4}/24", "dev", "eth0")
        other.run("ping", "-c1", "-w1", "-I", ROGUE4, ROUTER4, check=False)
        assert refused(airtapd, SIBLING_MAC)["guest_address"], "it is no card of that guest"


@BOTH_KINDS
def test_cards_of_two_guests_are_told(lan: Lan, airtapd: Airtapd) -> None:
    """Who asks for devices in several guests' names gets no more than before, and a remedy."""
    with two_cards(airtapd, *DOMAINS):
        wait_for(partial(lan.ping, GUEST4), 10, "the first address to answer")
        assert not lan.ping(ROGUE4, timeout=3)
        remedies = Doctor.of(airtapd).only("guest-refused", "up0")["remedy"]
        assert "arp_announce=2" in remedies

"""libvirt's hooks: guests on a one-MAC uplink through their whole lives, by a real libvirtd."""

import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from airtap.ipc import protocol
from lab import sandbox
from lab.airtap import Airtapd
from lab.domains import (
    GUEST_MAC,
    booted,
    connected,
    defined,
    direct_card,
    guest_on,
    lease,
    network_card,
)
from lab.lan import Lan, slaac_address, wait_for
from lab.libvirt import Libvirtd, domain_xml
from lab.sandbox import command, host_links
from lab.traffic import undisturbed
from tests.libvirt.conftest import CONFIG

IDLE = {"lo", "up0"}
NAMESPACE = "urn:airtap:libvirt:1"
DEVICE = "airtap-0badcafe"
UUID = "0c0ffee0-0000-4000-8000-000000000001"


def define_wifi(libvirtd: Libvirtd) -> None:
    done = libvirtd.airtap("network", "define", "wifi", "--parent", "up0")
    assert done.returncode == 0, done.stderr


def prepared_card(parent: str = "up0", device: str = DEVICE) -> tuple[str, str]:
    """An interface of which airtap makes the device, and the mark in the metadata that says so.

    A macvtap: this kernel may lack ipvlan. tests/wifi has the same with an ipvtap.
    """
    interface = f'<interface type="ethernet"><target dev="{device}" managed="no"/></interface>'
    mark = (
        f'<metadata><a:domain xmlns:a="{NAMESPACE}"><a:nic mac="{GUEST_MAC}" device="{device}"'
        f' parent="{parent}" kind="macvtap">&lt;interface/&gt;</a:nic></a:domain></metadata>'
    )
    return interface, mark


def marked_xml(libvirtd: Libvirtd, interface: str, mark: str, uuid: str = "") -> str:
    xml = domain_xml("guest", GUEST_MAC, libvirtd.serial_file("guest"), interface)
    uuid = f"<uuid>{uuid}</uuid>" if uuid else ""
    return xml.replace("</name>", f"</name>{uuid}{mark}", 1)


def reached(lan: Lan, address: str) -> None:
    assert lan.ping(address)
    assert lan.ping(slaac_address(GUEST_MAC))


@pytest.mark.parametrize("card", [network_card("wifi"), direct_card("up0")])
def test_a_guests_life(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd, card: str) -> None:
    """Start, restart, managedsave, restore, destroy; libvirtd and airtapd start anew meanwhile."""
    define_wifi(libvirtd)
    with undisturbed(0.1), defined(libvirtd, card) as domain:
        domain.create()
        address = booted(lan, libvirtd)
        assert lan.fetched(address)
        reached(lan, address)
        [shown] = airtapd.guests()
        assert (shown["mac"], shown["owner"]["domain"]) == (GUEST_MAC, "guest")
        assert shown["owner"]["uuid"] == domain.UUIDString()
        assert address in shown["addresses"]
        airtapd.kill()
        reached(lan, address)
        airtapd.start()
        assert airtapd.guests()[0]["owner"] == shown["owner"]
        reached(lan, address)
        domain.managedSave()
        assert host_links() == IDLE
        domain.create()
        wait_for(lambda: lan.ping(address), 10, "the restored guest to answer")
        domain.destroy()
        assert host_links() == IDLE
        domain.create()
        assert booted(lan, libvirtd) == address
        reached(lan, address)
    assert host_links() == IDLE
    assert airtapd.guests() == []


def test_libvirtd_restarts(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """The reconnect hook leaves guests alone, and their end is seen to as before."""
    define_wifi(libvirtd)
    xml = domain_xml("guest", GUEST_MAC, libvirtd.serial_file("guest"), network_card("wifi"))
    with connected(libvirtd) as connection:
        connection.createXML(xml)
    address = booted(lan, libvirtd)
    libvirtd.restart()
    reached(lan, address)
    assert airtapd.guests()[0]["owner"]["domain"] == "guest"
    with connected(libvirtd) as connection:
        connection.lookupByName("guest").destroy()
    assert host_links() == IDLE


def test_virt_install(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """As virt-manager does: createXML first, then defineXML."""
    define_wifi(libvirtd)
    argv = [
        *("virt-install", "--connect", libvirtd.uri, "--name", "guest", "--memory", "64"),
        *("--virt-type", "qemu", "--vcpus", "1", "--osinfo", "detect=off,require=off"),
        *("--network", f"network=wifi,model=virtio,mac={GUEST_MAC}", "--disk", "none"),
        *("--graphics", "none", "--noautoconsole", "--pxe", "--boot", "network,bios.useserial=on"),
        *("--serial", f"file,path={libvirtd.serial_file('guest')}", "--console", "none"),
    ]
    home = {**os.environ, "HOME": str(libvirtd.directory)}
    done = subprocess.run(argv, env=home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    with connected(libvirtd) as connection:
        domain = connection.lookupByName("guest")
        address = lease(lan, libvirtd)
        wait_for(lambda: lan.fetched(address), 30, "the guest to boot")
        reached(lan, address)
        domain.destroy()
        domain.undefine()
    assert host_links() == IDLE


@pytest.mark.parametrize("card", [network_card("wifi"), direct_card("up0")])
def test_hot_plug(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd, card: str) -> None:
    define_wifi(libvirtd)
    root = etree.fromstring(
        domain_xml("guest", GUEST_MAC, libvirtd.serial_file("guest"), "<interface/>")
    )
    [nic] = root.findall("devices/interface")
    nic.getparent().remove(nic)
    plugged = etree.fromstring(card)
    plugged.extend(nic)
    with connected(libvirtd) as connection:
        domain = connection.createXML(etree.tostring(root, encoding="unicode"))
        try:
            given_up = "No bootable device"
            wait_for(lambda: given_up in libvirtd.serial("guest"), 30, "the firmware to give up")
            domain.attachDevice(etree.tostring(plugged, encoding="unicode"))
            domain.reset()
            reached(lan, booted(lan, libvirtd))
            assert [guest["mac"] for guest in airtapd.guests()] == [GUEST_MAC]
        finally:
            domain.destroy()
    assert host_links() == IDLE


def test_a_device_made_by_airtap(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    xml = marked_xml(libvirtd, *prepared_card())
    with connected(libvirtd) as connection:
        for _ in range(2):
            domain = connection.createXML(xml)
            address = booted(lan, libvirtd)
            reached(lan, address)
            [shown] = airtapd.guests()
            assert (shown["device"], shown["mac"]) == (DEVICE, GUEST_MAC)
            assert shown["owner"] == {
                **{"uid": 0, "pid": None},
                **{"domain": "guest", "uuid": domain.UUIDString()},
            }
            airtapd.kill()
            airtapd.start()
            reached(lan, address)
            domain.destroy()
            assert host_links() == IDLE
    assert airtapd.guests() == []


# Without a capability, without a network, and without a place to write to.
NO_RIGHTS = """
for place in / /run /etc; do mount -o remount,bind,ro $place || exit; done
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""


def test_a_hook_changes_nothing_by_itself(lan: Lan, airtapd: Airtapd) -> None:
    """All that happens is airtapd's doing."""
    interface, mark = prepared_card()
    interface = interface.replace("<target", f'<mac address="{GUEST_MAC}"/><target')
    name = f"<name>guest</name><uuid>{UUID}</uuid>"
    xml = f"<domain>{name}{mark}<devices>{interface}</devices></domain>"

    def run(operation: str) -> set[str]:
        hook = [str(sandbox.TREE / "hooks/qemu"), "guest", operation, "begin", "-"]
        argv = ["unshare", "--mount", "--net", "sh", "-c", NO_RIGHTS, "sh", *hook]
        done = subprocess.run(argv, input=xml, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return host_links() - IDLE

    assert run("prepare") == run("started") == {DEVICE}
    assert [guest["owner"]["uuid"] for guest in airtapd.guests()] == [UUID]
    assert run("release") == set()


def test_leftovers_make_room(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """libvirtd has lost all memory of a guest that ended, and so its release hook never ran."""
    xml = marked_xml(libvirtd, *prepared_card(), uuid=UUID)
    with connected(libvirtd) as connection:
        connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
    libvirtd.stop()
    shutil.rmtree("/run/libvirt/qemu")
    assert DEVICE in host_links()
    libvirtd.start()
    copy = xml.replace(UUID, UUID[:-1] + "2").replace(GUEST_MAC, GUEST_MAC[:-1] + "2")
    with connected(libvirtd) as connection:
        with pytest.raises(libvirt.libvirtError, match=f"{DEVICE} is in use by domain guest"):
            connection.createXML(copy)
        assert DEVICE in host_links()
        connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED).destroy()
    assert host_links() == IDLE


@pytest.mark.parametrize(
    ("parent", "config", "why"),
    [
        ("nothere", "", "there is no network device nothere for airtap-0badcafe to stand on"),
        ("lo", "", "lo carries no Ethernet frames for guests"),
        ("up0", "[limits]\ndevices = 0\n", "the limit for this host"),
    ],
)
def test_refusals_reach_the_user(
    lan: Lan, libvirtd: Libvirtd, parent: str, config: str, why: str
) -> None:
    with Airtapd(config=config, socket=protocol.DEFAULT_SOCKET), connected(libvirtd) as connection:
        with pytest.raises(libvirt.libvirtError, match=f"airtap: .*{why}"):
            connection.createXML(marked_xml(libvirtd, *prepared_card(parent)))
        assert host_links() == IDLE


def test_without_a_daemon() -> None:
    """As with systemd, where no client starts one: only who needs airtapd is refused."""
    Path("/run/systemd/system").mkdir(parents=True)
    try:
        with Lan(), Libvirtd() as libvirtd, connected(libvirtd) as connection:
            with pytest.raises(libvirt.libvirtError, match="airtap: airtapd does not answer"):
                connection.createXML(marked_xml(libvirtd, *prepared_card()))
            define_wifi(libvirtd)
            with guest_on(libvirtd, "wifi"):
                pass
            assert host_links() == IDLE
    finally:
        Path("/run/systemd/system").rmdir()
        Path("/run/systemd").rmdir()


def test_the_daemon_dies_while_a_hook_waits(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    os.kill(airtapd.pid, signal.SIGSTOP)
    killing = threading.Timer(2, airtapd.kill)
    killing.start()
    with connected(libvirtd) as connection:
        began = time.monotonic()
        with pytest.raises(
            libvirt.libvirtError, match=r"airtap: airtapd at .* ended the connection"
        ):
            connection.createXML(marked_xml(libvirtd, *prepared_card()))
        assert time.monotonic() - began < 20
    killing.join()
    airtapd.start()
    assert host_links() == IDLE


def test_fifty_at_once(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """Half of them on macvtaps of libvirt's, half on devices that airtap makes."""
    define_wifi(libvirtd)

    def started(number: int) -> Any:
        mac = f"{GUEST_MAC[:-2]}{number:02x}"
        device = f"airtap-{number:08x}"
        if number % 2:
            interface, mark = prepared_card(device=device)
        else:
            interface, mark = network_card("wifi"), ""
        name = f"guest{number}"
        xml = domain_xml(name, mac, libvirtd.serial_file(name), interface)
        return connection.createXML(
            xml.replace("</name>", f"</name>{mark.replace(GUEST_MAC, mac)}", 1),
            libvirt.VIR_DOMAIN_START_PAUSED,
        )

    with connected(libvirtd) as connection:
        with ThreadPoolExecutor(50) as pool:
            domains = list(pool.map(started, range(50)))
        guests = {guest["owner"]["domain"]: guest["mac"] for guest in airtapd.guests()}
        assert guests == {f"guest{n}": f"{GUEST_MAC[:-2]}{n:02x}" for n in range(50)}
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(lambda domain: domain.destroy(), domains))
    assert host_links() == IDLE
    assert airtapd.guests() == []


def test_saved_on_a_bridge_restored_behind_one_mac(tmp_path: Path) -> None:
    """A real `virsh save` on one host, restored on another where there is no br0.

    The LAN has the guest at its own MAC still. iPXE announces nothing, so QEMU sends RARP.
    """
    saved = str(tmp_path / "guest.save")
    with Lan(bridge="br0") as lan, Libvirtd() as libvirtd:
        card = '<interface type="bridge"><source bridge="br0"/></interface>'
        xml = domain_xml("guest", GUEST_MAC, libvirtd.serial_file("guest"), card)
        with connected(libvirtd) as connection:
            domain = connection.createXML(xml)
            address = booted(lan, libvirtd)
            domain.save(saved)
            serial = etree.fromstring(connection.saveImageGetXMLDesc(saved))
    with (
        Lan(one_mac=True) as lan,
        Airtapd(config=CONFIG, socket=protocol.DEFAULT_SOCKET),
        Libvirtd() as libvirtd,
        connected(libvirtd) as connection,
    ):
        argv = ["ip", "neigh", "replace", address, "lladdr", GUEST_MAC, "dev", lan.far]
        lan.run(*argv, "nud", "reachable")
        serial.find("devices/serial/source").set("path", str(libvirtd.serial_file("guest")))
        connection.restoreFlags(saved, etree.tostring(serial, encoding="unicode"))
        domain = connection.lookupByName("guest")
        try:
            wait_for(lambda: lan.ping(address), 10, "the guest to answer on the other LAN")
            assert "macvtap" in command("ip", "-d", "link", "show", "type", "macvtap")
            assert lan.foreign_frames() == 0
        finally:
            domain.destroy()
        assert host_links() == IDLE

"""airtap network against a real libvirtd, and guests that boot on what it defines."""

import os
import subprocess
import sys
from pathlib import Path

import libvirt
import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
from scapy.layers.l2 import Ether

from lab.airtap import Airtapd
from lab.domains import GUEST_MAC, booted, guest_on, networks
from lab.guest import GUEST_UID
from lab.lan import Lan, slaac_address, wait_for
from lab.libvirt import Libvirtd
from lab.sandbox import command, dying_with_us, host_links, netns_exec_prefix

DEFINE_WIFI = ("network", "define", "wifi", "--parent", "up0")
# Else, besides a bridge's learning, a DHCP server waits for a ping's answer, and iPXE for another.
AT_ONCE = """
<options xmlns="http://libvirt.org/schemas/network/dnsmasq/1.0">
  <option value="no-ping"/><option value="dhcp-option=encap:175,176,1b"/>
</options>
"""
FOREIGN = "<network><name>theirs</name><forward mode='bridge'/><bridge name='br7'/></network>"


def test_macvtap_on_the_one_mac_wire(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """The very first boot is on the LAN, with no frame of another MAC."""
    done = libvirtd.airtap(*DEFINE_WIFI)
    assert (done.returncode, done.stderr) == (0, "")
    assert networks(libvirtd)["wifi"] == {
        "name": "wifi",
        "uuid": networks(libvirtd)["wifi"]["uuid"],
        **{"kind": "macvtap", "mode": "bridge", "parent": "up0", "ipv4": None, "ipv6": None},
        **{"active": True, "autostart": True, "ours": True},
    }
    with guest_on(libvirtd, "wifi"):
        address = booted(lan, libvirtd)
        assert lan.fetched(address)
        assert lan.ping(address)
        assert lan.ping(slaac_address(GUEST_MAC))
        assert airtapd.status()["uplinks"][0]["macnat"]
        [shown] = airtapd.guests()
        assert (shown["mac"], shown["owner"]["domain"]) == (GUEST_MAC, "guest")
        done = libvirtd.airtap("network", "undefine", "wifi")
        assert done.returncode == 0
        assert done.stderr == "airtap: note: still in use by guest when it was removed\n"
        assert lan.ping(address)  # a macvtap needs its network at the start only
    assert networks(libvirtd, "--all") == {}
    assert host_links() == {"lo", "up0"}


def test_defining_twice(lan: Lan, libvirtd: Libvirtd) -> None:
    assert "set to start" in libvirtd.airtap(*DEFINE_WIFI).stdout
    first = networks(libvirtd)
    connection = libvirtd.connect()
    connection.networkLookupByName("wifi").destroy()
    assert networks(libvirtd)["wifi"]["active"] is False
    done = libvirtd.airtap(*DEFINE_WIFI)
    assert (done.returncode, done.stderr) == (0, "")
    assert "there already" in done.stdout
    assert networks(libvirtd) == first
    connection.close()


@pytest.mark.parametrize("mode", ["private", "vepa", "passthrough"])
def test_modes(lan: Lan, libvirtd: Libvirtd, mode: str) -> None:
    assert libvirtd.airtap(*DEFINE_WIFI, "--mode", mode).returncode == 0
    assert networks(libvirtd)["wifi"]["mode"] == mode
    other = libvirtd.airtap(*DEFINE_WIFI, "--mode", "bridge")
    assert other.returncode == 1
    assert "kind macvtap on up0 in mode " + mode in other.stderr
    assert networks(libvirtd)["wifi"]["mode"] == mode


def test_a_foreign_network_is_left_alone(lan: Lan, libvirtd: Libvirtd) -> None:
    connection = libvirtd.connect()
    theirs = connection.networkDefineXML(FOREIGN)
    before = theirs.XMLDesc()
    refusals = (
        libvirtd.airtap("network", "define", "theirs", "--parent", "up0"),
        libvirtd.airtap("network", "undefine", "theirs"),
    )
    for refusal in refusals:
        assert refusal.returncode == 1
        assert refusal.stderr.startswith("airtap: ")
        assert len(refusal.stderr.splitlines()) == 1
    assert networks(libvirtd) == {}
    assert networks(libvirtd, "--all")["theirs"]["ours"] is False
    assert theirs.XMLDesc() == before
    theirs.undefine()
    connection.close()


def test_what_cannot_be_defined(lan: Lan, libvirtd: Libvirtd) -> None:
    command("ip", "link", "add", "br9", "type", "bridge")
    try:
        for argv, why in (
            (("--parent", "nothere"), "there is no network device nothere; see: ip link"),
            (("--parent", "br9"), "br9 is a bridge"),
            (("--parent", "lo"), "lo carries no Ethernet frames"),
            (("--parent", "up0", "--kind", "ipvtap"), "airtap domain connect"),
            (("--parent", "up0", "--kind", "session"), "belongs to qemu:///session"),
        ):
            done = libvirtd.airtap("network", "define", "no", *argv, "--connect", libvirtd.uri)
            assert done.returncode == 1
            assert why in done.stderr
            assert len(done.stderr.splitlines()) == 1
    finally:
        command("ip", "link", "delete", "br9")
    gone = libvirtd.airtap("network", "undefine", "no")
    assert gone.returncode == 1
    assert "there is no network no at qemu" in gone.stderr
    assert networks(libvirtd, "--all") == {}


def test_nat(lan: Lan, libvirtd: Libvirtd) -> None:
    """A lease of libvirt's dnsmasq, and a file fetched from beyond the uplink, as the host.

    The wire takes one MAC, and no airtapd runs.
    """
    assert libvirtd.airtap("network", "define", "gate", "--parent", "up0", "--kind", "nat").stdout
    boot_from_beyond(libvirtd, "gate")
    assert networks(libvirtd)["gate"]["ipv6"].startswith("fd")
    assert (
        "there already"
        in libvirtd.airtap("network", "define", "gate", "--parent", "up0", "--kind", "nat").stdout
    )
    argv = [*netns_exec_prefix(lan.namespace), sys.executable, "-u", "-m", "http.server", "80"]
    server = subprocess.Popen(
        dying_with_us([*argv, "--directory", str(lan.tftp_root)]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr
    try:
        with guest_on(libvirtd, "gate"):
            told = f"AIRTAP-GUEST {GUEST_MAC} 192.168."
            wait_for(lambda: told in libvirtd.hurry("guest"), 60, "the guest to boot")
            assert "net0: fd" in libvirtd.serial("guest")
    finally:
        server.terminate()
        _, seen = server.communicate(timeout=10)
    assert "192.0.2.10 - - " in seen
    assert '"GET /boot.ipxe HTTP/1.1" 200' in seen
    assert libvirtd.airtap("network", "undefine", "gate").returncode == 0
    assert host_links() == {"lo", "up0"}


def boot_from_beyond(libvirtd: Libvirtd, name: str) -> None:
    """Let a network's DHCP server name a boot file on the far side, as virsh net-edit would."""
    connection = libvirtd.connect()
    network = connection.networkLookupByName(name)
    beyond = '<bootp file="http://192.0.2.1/boot.ipxe"/></dhcp>'
    xml = network.XMLDesc().replace("</dhcp>", beyond).replace("stp='on'", "stp='off'")
    connection.networkDefineXML(xml.replace("</network>", f"{AT_ONCE}</network>"))
    network.destroy()
    network.create()
    connection.close()


def test_nat_beside_autoconfigured_routes(lan: Lan, libvirtd: Libvirtd) -> None:
    """libvirt forwards no IPv6 where the host would lose its own: the network is without it."""
    Path("/proc/sys/net/ipv6/conf/up0/accept_ra").write_text("1")
    advertised(lan)
    define = ("network", "define", "gate", "--parent", "up0", "--kind", "nat")
    assert libvirtd.airtap(*define).stderr == ""
    assert networks(libvirtd)["gate"]["ipv6"] is None
    connection = libvirtd.connect()
    network = connection.networkLookupByName("gate")
    network.destroy()
    with_ipv6 = '<ip family="ipv6" address="fd00::1" prefix="64"/></network>'
    connection.networkDefineXML(network.XMLDesc().replace("</network>", with_ipv6))
    with pytest.raises(libvirt.libvirtError, match="accept_ra"):
        network.create()
    connection.close()
    assert networks(libvirtd)["gate"]["active"] is False
    done = libvirtd.airtap("network", "undefine", "gate")
    assert (done.returncode, done.stderr) == (0, "")


def advertised(lan: Lan) -> None:
    """Have the kernel take a route from a router advertisement."""
    frame = (
        Ether(src=lan.far_mac, dst="33:33:00:00:00:01")
        / IPv6(src="fe80::1", dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(routerlifetime=1800)
    )
    with lan.frames() as wire:

        def taken() -> bool:
            wire.send(bytes(frame))
            return "via fe80::1 " in command("ip", "-6", "route", "show", "proto", "ra")

        wait_for(taken, 10, "a route of a router advertisement", interval=0.2)


def test_session(lan: Lan, airtapd: Airtapd) -> None:
    """An unprivileged user's own libvirtd starts a guest on the LAN, by way of our helper."""
    with Libvirtd(uid=GUEST_UID, env=airtapd.env) as libvirtd:
        define = (*DEFINE_WIFI, "--kind", "session", "--connect", libvirtd.uri)
        shown = libvirtd.airtap(*define)
        assert 'bridge_helper = "' in shown.stdout
        assert "--write-config" in shown.stdout
        assert not libvirtd.qemu_conf.exists()
        libvirtd.qemu_conf.parent.mkdir(exist_ok=True)
        os.chown(libvirtd.qemu_conf.parent, GUEST_UID, GUEST_UID)
        libvirtd.qemu_conf.write_text("# mine\nlog_level = 3\n")
        for _ in range(2):
            assert libvirtd.airtap(*define, "--write-config").returncode == 0
        text = libvirtd.qemu_conf.read_text()
        assert text.startswith("# mine\nlog_level = 3\nbridge_helper = ")
        assert text.count("bridge_helper") == 1
        assert "needs this line" not in libvirtd.airtap(*define).stdout
        libvirtd.stop()
        libvirtd.start()
        assert networks(libvirtd)["wifi"]["active"]  # autostarted
        with guest_on(libvirtd, "wifi"):
            address = booted(lan, libvirtd)
            assert lan.ping(address)
            (guest,) = airtapd.guests()
            assert (guest["mac"], guest["owner"]["uid"]) == (GUEST_MAC, GUEST_UID)
        wait_for(lambda: host_links() == {"lo", "up0"}, 10, "the guest's device to go")
        assert libvirtd.airtap("network", "undefine", "wifi").returncode == 0
        assert networks(libvirtd, "--all") == {}
        print(libvirtd.log())

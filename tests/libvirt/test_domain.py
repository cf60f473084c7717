"""airtap domain against a real libvirtd, and a guest that boots on what it connects."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab.airtap import Airtapd
from lab.domains import GUEST_MAC, booted, connected, defined, network_card
from lab.guest import GUEST_UID
from lab.lan import Lan, slaac_address, wait_for
from lab.libvirt import Libvirtd
from lab.sandbox import command, host_links

MAC = "52:54:00:cc:00:02"
INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE
SECURE = INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
LOOPED = "<network><name>{}</name><forward mode='bridge'/><bridge name='br7'/></network>"

# What a network card can have that is not of the network, and should stay.
PARTS = """\
      <bandwidth>
        <inbound average='1000' peak='5000' burst='1024'/>
        <outbound average='128'/>
      </bandwidth>
      <model type='virtio'/>
      <driver name='vhost' txmode='iothread' queues='4' rx_queue_size='512'>
        <host csum='off'/>
      </driver>
      <link state='down'/>
      <boot order='1'/>
      <alias name='ua-net'/>
      <rom bar='off'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x07' function='0x0'/>
"""
FILTER = """\
      <filterref filter='clean-traffic'>
        <parameter name='IP' value='192.0.2.20'/>
      </filterref>
"""
DOMAIN = """\
<domain type='qemu'>
  <name>full</name>
  <metadata><other:it xmlns:other='urn:other'>of  others</other:it></metadata>
  <memory unit='MiB'>64</memory>
  <vcpu>4</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {}
    <graphics type='vnc' port='-1' passwd='secret99'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


NO = "airtap: note: it cannot work so: libvirt starts no guest on {} here\n"
NO_OUTBOUND = NO.format("ipvtap with <outbound>")
NO_INBOUND = NO.format("macvtap with <inbound>")  # beside MAC NAT


def interface(kind: str, link: str, mac: str = MAC, more: str = PARTS) -> str:
    return f"<interface type='{kind}'><mac address='{mac}'/>{link}{more}</interface>"


BRIDGED = interface("bridge", "<source bridge='br7'/>")
SECOND = interface("user", "", GUEST_MAC, "")


@pytest.fixture
def connection(libvirtd: Libvirtd) -> Iterator[Any]:
    with connected(libvirtd) as connection:
        yield connection


def define(connection: Any, *interfaces: str) -> Any:
    xml = DOMAIN.format("".join(interfaces))
    return connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def airtap(libvirtd: Libvirtd, *argv: str) -> str:
    """What a command that succeeds without a note says."""
    done = libvirtd.airtap("domain", *argv)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refusal(libvirtd: Libvirtd, *argv: str) -> str:
    """The one line with which a command fails."""
    done = libvirtd.airtap("domain", *argv)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    return line


def the_card(xml: str) -> list[str]:
    """The lines of the first network card."""
    [card, *_] = re.findall(r"<interface .*?</interface>", xml, re.DOTALL)
    return str(card).splitlines()


TO_NETWORK = (("--network", "wifi"), "<source network='wifi'/>")
TO_MACVTAP = (("--parent", "up0"), "<source dev='up0' mode='bridge'/>")
TO_PASSTHRU = ((*TO_MACVTAP[0], "--mode", "passthru"), "<source dev='up0' mode='passthrough'/>")
TO_IPVTAP = ((*TO_MACVTAP[0], "--kind", "ipvtap"), "<target dev='airtap-XXXXXXXX' managed='no'/>")


@pytest.mark.parametrize(
    ("before", "to", "link"),
    [
        ("bridge", *TO_NETWORK),
        ("bridge", *TO_MACVTAP),
        ("bridge", *TO_PASSTHRU),
        ("bridge", *TO_IPVTAP),
        ("network", *TO_IPVTAP),
        ("direct", *TO_IPVTAP),
        ("user", *TO_IPVTAP),
    ],
)
def test_there_and_back(
    libvirtd: Libvirtd, connection: Any, before: str, to: tuple[str, ...], link: str
) -> None:
    """Every part of a card is still there in what libvirt has; and then it is as it was."""
    links = {
        "bridge": "<source bridge='br7'/><target dev='mytap'/>",
        "network": "<source network='theirs' portgroup='staff'/>",
        "direct": "<source dev='up0' mode='vepa'/>",
        "user": "",
    }
    assert libvirtd.airtap("network", "define", "wifi", "--parent", "up0").returncode == 0
    domain = define(connection, interface(before, links[before]))
    xml, whole = domain.XMLDesc(INACTIVE), domain.XMLDesc(SECURE)
    assert "secret99" in whole
    dry = airtap(libvirtd, "connect", "full", *to, "--dry-run")
    assert domain.XMLDesc(SECURE) == whole
    done = libvirtd.airtap("domain", "connect", domain.UUIDString(), *to)
    assert done.returncode == 0
    assert done.stderr == ("" if to != TO_IPVTAP[0] else NO_OUTBOUND)
    assert done.stdout.startswith(dry)
    now = domain.XMLDesc(SECURE)
    assert set(PARTS.splitlines()) <= set(the_card(now))
    device = re.search(r"airtap-[0-9a-f]{8}", now)
    assert link.replace("airtap-XXXXXXXX", device[0] if device else "") in "\n".join(the_card(now))
    assert "secret99" in now
    assert "secret99" not in done.stdout
    assert "of  others</other:it>" in now
    again = airtap(libvirtd, "connect", "full", *to)
    assert again.endswith("already\n") and len(again.splitlines()) == 1
    assert domain.XMLDesc(SECURE) == now
    dry = airtap(libvirtd, "disconnect", "full", "--dry-run")
    assert domain.XMLDesc(SECURE) == now
    assert airtap(libvirtd, "disconnect", "full").startswith(dry)
    assert domain.XMLDesc(SECURE) == whole
    assert domain.XMLDesc(INACTIVE) == xml


def test_from_one_to_the_other(libvirtd: Libvirtd, connection: Any) -> None:
    """disconnect goes back to what was before the first connect, whatever came since."""
    connection.networkDefineXML(LOOPED.format("theirs"))
    domain = define(connection, BRIDGED, SECOND)
    xml = domain.XMLDesc(INACTIVE)
    for to in (
        ("--parent", "up0", "--kind", "ipvtap"),
        ("--parent", "up0", "--mode", "vepa"),
        ("--network", "theirs"),
        ("--parent", "up0", "--kind", "ipvtap"),
    ):
        done = libvirtd.airtap("domain", "connect", "full", "--nic", MAC.upper(), *to)
        assert done.returncode == 0
    airtap(libvirtd, "connect", "full", "--nic", "2", "--parent", "up0")
    assert "several" not in refusal(libvirtd, "disconnect", "full")
    airtap(libvirtd, "disconnect", "full", "--nic", "1")
    airtap(libvirtd, "disconnect", "full")
    assert domain.XMLDesc(INACTIVE) == xml


def test_filters(lan: Lan, libvirtd: Libvirtd, connection: Any) -> None:
    """libvirt keeps a filter on all but type direct, and the user is told where it ends."""
    connection.networkDefineXML(LOOPED.format("theirs")).create()
    assert libvirtd.airtap("network", "define", "wifi", "--parent", "up0").returncode == 0
    connection.nwfilterDefineXML("<filter name='clean-traffic'/>")
    more = f"<model type='virtio'/>{FILTER}"
    domain = define(connection, interface("bridge", "<source bridge='br7'/>", more=more))
    xml = domain.XMLDesc(INACTIVE)
    for to, stays, told in (
        (("--network", "theirs"), True, "cannot work so: there is no bridge br7"),
        (("--network", "wifi"), True, "starts no guest on macvtap with <filterref>"),
        (("--parent", "up0"), False, "left out: <filterref>"),
        (("--parent", "up0", "--kind", "ipvtap"), True, "<filterref> does nothing on an ipvtap"),
    ):
        done = libvirtd.airtap("domain", "connect", "full", *to)
        assert done.returncode == 0
        [line] = done.stderr.splitlines()
        assert told in line
        assert (set(FILTER.splitlines()) <= set(the_card(domain.XMLDesc(INACTIVE)))) is stays
        if to == ("--network", "wifi"):
            with pytest.raises(libvirt.libvirtError, match="filterref is not supported"):
                domain.create()
        airtap(libvirtd, "disconnect", "full")
        assert domain.XMLDesc(INACTIVE) == xml


def test_an_mtu_has_no_place_on_a_macvtap(libvirtd: Libvirtd, connection: Any) -> None:
    """libvirt would refuse the definition."""
    more = f"{PARTS}<mtu size='1400'/>"
    domain = define(connection, interface("bridge", "<source bridge='br7'/>", more=more))
    xml = domain.XMLDesc(INACTIVE)
    done = libvirtd.airtap("domain", "connect", "full", "--parent", "up0")
    assert done.returncode == 0
    assert done.stderr == "airtap: note: not on macvtap up0, and so left out: <mtu>\n"
    airtap(libvirtd, "disconnect", "full")
    assert domain.XMLDesc(INACTIVE) == xml


def test_refusals(lan: Lan, libvirtd: Libvirtd, connection: Any) -> None:
    hostdev = (
        f"<interface type='hostdev' managed='yes'><mac address='{GUEST_MAC}'/><source>"
        "<address type='pci' domain='0x0000' bus='0x05' slot='0x10' function='0x1'/></source>"
        "</interface>"
    )
    domain = define(connection, BRIDGED, hostdev)
    xml = domain.XMLDesc(SECURE)
    command("ip", "link", "add", "br9", "type", "bridge")
    try:
        for argv, why in (
            (("connect", "full", "--parent", "up0"), f"--nic takes: {MAC}, {GUEST_MAC}"),
            (("connect", "full", "--nic", "3", "--parent", "up0"), "has no network card 3"),
            (("connect", "full", "--nic", "2", "--parent", "up0"), "is of type 'hostdev'"),
            (("connect", "nothere", "--parent", "up0"), "there is no domain nothere at qemu"),
            (("connect", "full", "--nic", "1", "--network", "no"), "there is no network no at"),
            (("connect", "full", "--nic", "1", "--parent", "no"), "no network device no"),
            (("connect", "full", "--nic", "1", "--parent", "br9"), "br9 is a bridge"),
            (("connect", "full", "--nic", "1", "--parent", "lo"), "lo carries no Ethernet"),
            (
                ("connect", "full", "--nic", "1", "--parent", "br9", "--kind", "ipvtap"),
                "no ipvtap can reach",
            ),
            (("disconnect", "full"), "no network card of domain full was connected"),
            (("disconnect", "nothere"), "there is no domain nothere"),
        ):
            assert why in refusal(libvirtd, *argv)
    finally:
        command("ip", "link", "delete", "br9")
    assert domain.XMLDesc(SECURE) == xml


def test_a_domain_that_is_not_valid_already(libvirtd: Libvirtd, connection: Any) -> None:
    """libvirt itself takes what its schema forbids, unless asked to look."""
    odd = interface("direct", "<source dev='a b' mode='vepa'/>", GUEST_MAC, "")
    domain = connection.defineXML(DOMAIN.format(BRIDGED + odd))
    xml = domain.XMLDesc(SECURE)
    done = libvirtd.airtap("domain", "connect", "full", "--nic", "1", "--parent", "up0")
    assert done.returncode == 1
    assert "domain full is left alone, as it is not valid already: " in done.stderr
    assert done.stderr.endswith("; virsh edit full can mend it\n")
    assert domain.XMLDesc(SECURE) == xml


def test_a_transient_domain(lan: Lan, libvirtd: Libvirtd, connection: Any) -> None:
    domain = connection.createXML(DOMAIN.format(SECOND), libvirt.VIR_DOMAIN_START_PAUSED)
    try:
        assert "domain full is transient" in refusal(libvirtd, "connect", "full", "--parent", "up0")
        [shown] = json.loads(airtap(libvirtd, "list", "--json"))["domains"]
        assert (shown["state"], shown["persistent"]) == ("paused", False)
    finally:
        domain.destroy()


def test_a_saved_domain(lan: Lan, libvirtd: Libvirtd, connection: Any) -> None:
    domain = define(connection, SECOND)
    domain.create()
    domain.managedSave()
    assert "it is saved and resumes" in airtap(libvirtd, "connect", "full", "--parent", "up0")
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


def test_a_parent_by_its_alias(lan: Lan, libvirtd: Libvirtd, connection: Any) -> None:
    """Its device goes into the XML: libvirt knows of no aliases, nor do marks."""
    domain = define(connection, BRIDGED)
    config = Path("/etc/airtap/airtap.toml")
    config.parent.mkdir()
    config.write_text('[aliases]\nbr0 = "up0"\n[parents.up0]\nmode = "private"\n')
    try:
        airtap(libvirtd, "connect", "full", "--parent", "br0")
        assert "<source dev='up0' mode='private'/>" in domain.XMLDesc(INACTIVE)
        argv = ("connect", "full", "--parent", "br0", "--kind", "ipvtap")
        assert libvirtd.airtap("domain", *argv).stderr == NO_OUTBOUND
        assert 'parent="up0" kind="ipvtap"' in domain.XMLDesc(INACTIVE)
        config.write_text('[parents.up0]\nmacnat = "on"\n')
        done = libvirtd.airtap("domain", "connect", "full", "--parent", "up0")
        assert (done.returncode, done.stderr) == (0, NO_INBOUND)
    finally:
        config.unlink()
        config.parent.rmdir()


def test_session(lan: Lan) -> None:
    """No macvtap for an ordinary user; a network of their own is fine."""
    with Libvirtd(uid=GUEST_UID) as libvirtd, connected(libvirtd) as connection:
        domain = define(connection, SECOND)
        xml = domain.XMLDesc(SECURE)
        for kind in ("macvtap", "ipvtap"):
            told = refusal(libvirtd, "connect", "full", "--parent", "up0", "--kind", kind)
            assert f"makes no {kind}," in told and "--kind session" in told
        connection.networkDefineXML(LOOPED.format("mine").replace("br7", "up0")).create()
        airtap(libvirtd, "connect", "full", "--network", "mine")
        [shown] = json.loads(airtap(libvirtd, "list", "--json"))["domains"]
        [nic] = shown["nics"]
        assert (nic["kind"], nic["works"], nic["why"]) == ("network", True, "with airtapd")
        airtap(libvirtd, "disconnect", "full")
        assert domain.XMLDesc(SECURE) == xml


def test_list(lan: Lan, libvirtd: Libvirtd, connection: Any) -> None:
    define(
        connection,
        BRIDGED,
        SECOND,
        interface("network", "<source network='no'/>", "52:54:00:cc:00:03", ""),
    )
    airtap(libvirtd, "connect", "full", "--nic", "2", "--parent", "up0", "--kind", "ipvtap")
    command("ip", "link", "add", "br7", "type", "bridge")
    try:
        [shown] = json.loads(airtap(libvirtd, "list", "--json"))["domains"]
        text = airtap(libvirtd, "list")
    finally:
        command("ip", "link", "delete", "br7")
    keys = ("number", "mac", "kind", "name", "mode", "connected", "works", "why")
    assert {key: shown[key] for key in ("name", "state", "persistent")} == {
        **{"name": "full", "state": "shut off", "persistent": True},
    }
    assert [tuple(nic[key] for key in keys) for nic in shown["nics"]] == [
        (1, MAC, "bridge", "br7", None, False, None, "br7 has no uplink"),
        (2, GUEST_MAC, "ipvtap", "up0", None, True, True, "with airtapd"),
        (3, "52:54:00:cc:00:03", "network", "no", None, False, False, "there is no network no"),
    ]
    assert [line.split()[:3] for line in text.splitlines()][1:] == [
        ["full", "shut", "off"],
        ["full", "shut", "off"],
        ["full", "shut", "off"],
    ]


def test_a_guest_that_is_connected_boots_on_the_lan(
    lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd
) -> None:
    with defined(libvirtd, network_card("nowhere")) as domain:
        xml = domain.XMLDesc(INACTIVE)
        airtap(libvirtd, "connect", "guest", "--parent", "up0")
        domain.create()
        address = booted(lan, libvirtd)
        assert lan.ping(address)
        assert lan.ping(slaac_address(GUEST_MAC))
        [shown] = json.loads(airtap(libvirtd, "list", "--json"))["domains"]
        assert (shown["state"], shown["nics"][0]["connected"]) == ("running", True)
        told = airtap(libvirtd, "disconnect", "guest")
        assert "it runs: this counts from its next start" in told
        assert domain.XMLDesc(INACTIVE) == xml
        assert lan.ping(address)
        domain.destroy()
    wait_for(lambda: host_links() == {"lo", "up0"}, 10, "the guest's device to go")

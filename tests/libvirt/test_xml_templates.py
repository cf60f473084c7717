"""xml-templates/ as people use it: placeholders replaced, and what virsh would do with the file."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt
import pytest

from airtap.libvirt.templates import ADMINISTRATORS
from lab.airtap import Airtapd
from lab.domains import booted, connected, defined, direct_card, networks
from lab.guest import GUEST_UID
from lab.kernels import REPOSITORY
from lab.lan import Lan
from lab.libvirt import Libvirtd

MAC = "52:54:00:12:34:56"
FIRST = "52:54:00:12:34:57"
NAT = {
    **{"ADDRESS": "192.168.140.1", "PREFIX": "24", "START": "192.168.140.2"},
    **{"END": "192.168.140.254", "ADDRESS6": "fd00:1:2::1", "PREFIX6": "64"},
}
CONFIG, LIVE = libvirt.VIR_DOMAIN_AFFECT_CONFIG, libvirt.VIR_DOMAIN_AFFECT_LIVE


def filled(name: str, **values: str) -> str:
    text = (REPOSITORY / f"xml-templates/{name}.xml").read_text()
    for placeholder, value in values.items():
        text = text.replace(f"@{placeholder}@", value)
    return text


@contextmanager
def network(connection: Any, name: str, **values: str) -> Iterator[Any]:
    """virsh net-define, by the name wifi."""
    made = connection.networkDefineXML(filled(name, NAME="wifi", PARENT="up0", **values))
    try:
        yield made
    finally:
        if made.isActive():
            made.destroy()
        made.undefine()


@pytest.mark.parametrize(
    ("kind", "values"),
    [("macvtap", {"MODE": "bridge"}), ("nat", NAT), ("session", {})],
)
def test_networks(lan: Lan, libvirtd: Libvirtd, kind: str, values: dict[str, str]) -> None:
    """airtap knows them for its own, and defining them again by its command changes nothing."""
    with connected(libvirtd) as connection, network(connection, f"network-{kind}", **values) as it:
        shown = networks(libvirtd)["wifi"]
        assert (shown["kind"], shown["parent"], shown["ours"]) == (kind, "up0", True)
        if kind == "macvtap":
            it.create()
            before = it.XMLDesc()
            again = libvirtd.airtap("network", "define", "wifi", "--parent", "up0")
            assert (again.returncode, again.stderr) == (0, "")
            assert "there already" in again.stdout and it.XMLDesc() == before


def test_nics_of_the_system(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """In a definition by virsh attach-device, and into a guest that runs."""
    macvtap = filled("interface-macvtap", MAC=MAC, PARENT="up0", MODE="bridge")
    on_network = filled("interface-network", MAC=MAC, NETWORK="wifi")
    ipvtap = filled("interface-ipvtap", MAC=MAC, DEVICE="airtap-web0", PARENT="up0")
    with (
        connected(libvirtd) as connection,
        network(connection, "network-macvtap", MODE="bridge") as wifi,
        defined(libvirtd, direct_card("up0"), FIRST, linux=True) as guest,
    ):
        wifi.create()
        for nic in (macvtap, on_network, ipvtap):
            guest.attachDeviceFlags(nic, CONFIG)
            assert MAC in guest.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            guest.detachDeviceFlags(nic, CONFIG)
        guest.create()
        guest.attachDeviceFlags(macvtap, LIVE)
        other = filled("interface-network", MAC="52:54:00:12:34:58", NETWORK="wifi")
        guest.attachDeviceFlags(other, LIVE)
        assert {nic["mac"] for nic in airtapd.guests()} >= {MAC, FIRST}


def test_a_nic_by_its_metadata(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """The domain of the template and of its comment boots on what the hook has made.

    As a macvtap, for not every machine has ipvtap.
    """
    text = filled("interface-ipvtap", MAC=MAC, DEVICE="airtap-web0", PARENT="up0")
    text = text.replace('kind="ipvtap"', 'kind="macvtap"')
    head, _end, nic = text.partition("-->")
    metadata = head[head.index("<airtap:domain") :].partition("</airtap:domain>")
    with defined(libvirtd, direct_card("up0"), FIRST) as guest:
        xml = guest.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        before, _, rest = xml.partition("<interface ")
        after = rest.partition("</interface>")[2]
        before = before.replace("<memory", f"<metadata>{''.join(metadata[:2])}</metadata><memory")
        with connected(libvirtd) as connection:
            guest = connection.defineXML(before + nic + after)
            guest.create()
            booted(lan, libvirtd, MAC)
        [shown] = airtapd.guests()
        assert (shown["device"], shown["mac"]) == ("airtap-web0", MAC)
        assert airtapd.status()["uplinks"][0]["kind"] == "macvtap"


def test_a_nic_of_a_session(lan: Lan) -> None:
    with (
        Libvirtd(uid=GUEST_UID) as session,
        defined(session, "<interface type='user'/>", FIRST) as guest,
    ):
        nic = filled("interface-session", MAC=MAC, PARENT="up0")
        guest.attachDeviceFlags(nic, CONFIG)
        assert "<source bridge='up0'/>" in guest.XMLDesc()


def test_an_administrators_bad_copy_defines_nothing(
    lan: Lan, libvirtd: Libvirtd, copies: Any
) -> None:
    """The Problem names the file, and neither network nor domain has changed."""
    for name in ("network-macvtap", "interface-macvtap"):
        (copies / f"{name}.xml").write_text(filled(name).replace("@PARENT@", "eth9"))
    done = libvirtd.airtap("network", "define", "wifi", "--parent", "up0")
    assert done.returncode == 1
    assert done.stderr.startswith(f"airtap: {copies}/network-macvtap.xml cannot be used: ")
    assert networks(libvirtd, "--all") == {}
    with defined(libvirtd, "<interface type='user'/>") as guest:
        before = guest.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        done = libvirtd.airtap("domain", "connect", "guest", "--parent", "up0")
        assert done.returncode == 1
        assert f"{copies}/interface-macvtap.xml cannot be used: @PARENT@" in done.stderr
        assert guest.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == before


@pytest.fixture
def copies() -> Iterator[Any]:
    """/etc/airtap/xml-templates, in the sandbox's own /etc."""
    ADMINISTRATORS.mkdir(parents=True)
    yield ADMINISTRATORS
    shutil.rmtree(ADMINISTRATORS)
    ADMINISTRATORS.parent.rmdir()

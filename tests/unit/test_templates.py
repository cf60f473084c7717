"""The XML templates: as shipped, filled by hand as their heads say, and administrators' copies."""

import re
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from airtap.errors import Problem
from airtap.libvirt import templates
from airtap.libvirt.domain_xml import Attachment, connect
from airtap.libvirt.network_xml import Network, network_xml
from airtap.libvirt.reader import scan_domain
from airtap.libvirt.xml import SCHEMAS, parse, serialize, validate
from lab.kernels import REPOSITORY

SHIPPED = REPOSITORY / "xml-templates"
NETWORKS = sorted(path.stem for path in SHIPPED.glob("network-*.xml"))
INTERFACES = sorted(path.stem for path in SHIPPED.glob("interface-*.xml"))
VALUES = {
    **{"NAME": "wifi", "NETWORK": "wifi", "PARENT": "wlan0", "MODE": "bridge"},
    **{"MAC": "52:54:00:12:34:56", "DEVICE": "airtap-web0"},
    **{"ADDRESS": "192.168.140.1", "PREFIX": "24", "START": "192.168.140.2"},
    **{"END": "192.168.140.254", "ADDRESS6": "fd00:1:2::1", "PREFIX6": "64"},
}
WIFI = Network("wifi", "macvtap", "wlan0", "bridge")
GATE = Network("gate", "nat", "wlan0", ipv4=IPv4Network("192.168.140.0/24"))
DOMAIN = """\
<domain type='qemu'>
  <name>vm</name>
  <uuid>8f5c2a70-1b7e-4d0a-9c55-0b3f6f1e2a06</uuid>
  <memory>1024</memory>
  <os><type>hvm</type></os>
  <devices>
    {}
  </devices>
</domain>
"""
CARD = "<interface type='bridge'><mac address='52:54:00:12:34:56'/><source bridge='b'/></interface>"


def by_hand(name: str) -> str:
    """A template as sed fills it."""
    text = (SHIPPED / f"{name}.xml").read_text()
    return re.sub("@([A-Z0-9]+)@", lambda found: VALUES[found[1]], text)


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an administrator's copies, which is empty."""
    monkeypatch.setattr(templates, "ADMINISTRATORS", tmp_path)
    return tmp_path


def test_there_are_those_that_the_documentation_names() -> None:
    assert [*INTERFACES, *NETWORKS] == [
        *("interface-ipvtap", "interface-macvtap", "interface-network", "interface-session"),
        *("network-macvtap", "network-nat", "network-session"),
    ]


@pytest.mark.parametrize("name", [*NETWORKS, *INTERFACES])
def test_every_placeholder_is_explained(name: str) -> None:
    """In the comment that a template begins with."""
    head, _end, body = (SHIPPED / f"{name}.xml").read_text().partition("-->")
    used = set(re.findall("@([A-Z0-9]+)@", body))
    explained = re.findall(r"^    ([A-Z0-9]+(?:, [A-Z0-9]+)*)  ", head, re.MULTILINE)
    assert used <= {word for line in explained for word in line.split(", ")}


@pytest.mark.skipif(not Path(SCHEMAS).is_dir(), reason="libvirt's schemas are not installed")
@pytest.mark.parametrize("name", [*NETWORKS, *INTERFACES])
def test_libvirts_schema(name: str) -> None:
    filled = by_hand(name)
    if name in NETWORKS:
        assert validate(filled, "network")
    else:
        root = parse(filled.encode(), comments=False)
        assert validate(DOMAIN.format(serialize(root)), "domain")


@pytest.mark.parametrize("name", INTERFACES)
def test_the_metadata_in_a_comment_is_what_the_hooks_read(name: str) -> None:
    found = re.search(r"<airtap:domain.*</airtap:domain>", by_hand(name), re.DOTALL)
    assert bool(found) == (name == "interface-ipvtap")
    if found:
        devices = parse(by_hand(name).encode(), comments=False)
        xml = DOMAIN.format(serialize(devices))
        xml = xml.replace("  <memory>", f"<metadata>{found[0]}</metadata><memory>")
        domain = scan_domain(xml.encode())
        mark = domain.metadata_of(domain.interfaces[0])
        assert mark and (mark.parent, mark.kind, mark.device) == ("wlan0", "ipvtap", "airtap-web0")


def test_an_administrators_copy_counts(copies: Path) -> None:
    xml = (SHIPPED / "network-nat.xml").read_text()
    (copies / "network-nat.xml").write_text(
        xml.replace("<bridge ", "<domain name='lab.example'/><bridge name='airtap0' ")
        .replace("@ADDRESS@", "10.9.8.1")
        .replace('<nat ipv6="yes"/>', "<nat ipv6='yes'><port start='1024' end='2048'/></nat>")
    )
    made = parse(network_xml(GATE).encode())
    assert made.find("bridge").get("name") == "airtap0"
    assert made.find("domain").get("name") == "lab.example"
    assert made.find("ip").get("address") == "10.9.8.1"
    assert made.find("forward/nat").attrib == {} and made.find("forward/nat/port") is not None
    assert len(made.findall("ip")) == 1
    assert network_xml(WIFI)  # of which there is no copy


def test_an_administrators_nic(copies: Path) -> None:
    xml = (SHIPPED / "interface-network.xml").read_text()
    (copies / "interface-network.xml").write_text(
        xml.replace('network="@NETWORK@"', 'network="@NETWORK@" portgroup="lab"')
    )
    before = DOMAIN.format(CARD)
    [card] = scan_domain(before.encode()).interfaces
    after = connect(before, card, Attachment("network", "wifi"))
    assert "<source network='wifi' portgroup='lab'/>" in after
    assert "virtio" not in after


BAD = [
    ("network-macvtap", "@PARENT@", "eth0", "@PARENT@ is missing"),
    ("network-macvtap", "@MODE@", "@MODUS@", "@MODUS@ is none of @NAME@, @PARENT@, @MODE@"),
    ("network-macvtap", "</network>", "", "cannot be read"),
    ("network-macvtap", "network>", "domain>", "no <network>"),
    ("network-macvtap", 'kind="macvtap"/>', 'kind="macvtap"/><!-- - --->', "cannot be read"),
    ("network-macvtap", "urn:airtap:libvirt:1", "urn:other", "that airtap would know"),
    ("network-macvtap", "<forward ", "<forward nonsense='1' ", "schema"),
    ("network-nat", 'mode="nat"', 'mode="route"', "no network of kind nat on wlan0"),
    ("interface-macvtap", 'type="direct"', 'type="bridge"', 'no <interface type="direct">'),
    ("interface-macvtap", "<source ", "<source nonsense='1' ", "schema"),
    ("interface-macvtap", "<source ", "<sauce ", "not one <source>"),
    ("interface-ipvtap", 'managed="no"', "", 'not managed="no"'),
]


@pytest.mark.parametrize(("name", "old", "new", "why"), BAD)
def test_a_bad_copy(copies: Path, name: str, old: str, new: str, why: str) -> None:
    path = copies / f"{name}.xml"
    path.write_text((SHIPPED / f"{name}.xml").read_text().replace(old, new))
    with pytest.raises(Problem) as caught:
        make(name)
    problem = caught.value
    assert problem.code == "bad-template"
    assert problem.message.startswith(f"{path} cannot be used: ") and why in problem.message
    assert problem.hint == f"mend or remove {path}"
    assert str(problem).isprintable()


def make(name: str) -> Any:
    networks = {"network-macvtap": WIFI, "network-nat": GATE}
    if name in networks:
        return network_xml(networks[name])
    before = DOMAIN.format(CARD)
    [card] = scan_domain(before.encode()).interfaces
    return connect(before, card, Attachment(name.partition("-")[2], "wlan0"))


def test_a_copy_that_is_not_text(copies: Path) -> None:
    (copies / "network-macvtap.xml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(Problem, match="cannot be used"):
        network_xml(WIFI)


def test_none_is_there(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_SHIPPED", (copies,))
    with pytest.raises(Problem) as caught:
        network_xml(WIFI)
    assert caught.value.code == "no-template"

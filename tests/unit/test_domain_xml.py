"""Rewriting network cards: golden pairs, what is refused, and what must not be believed."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from airtap.errors import Problem
from airtap.libvirt.domain_xml import (
    Attachment,
    connect,
    disconnect,
    prepared_device,
)
from airtap.libvirt.incoming import devices_named, for_this_host
from airtap.libvirt.reader import Interface, scan_domain
from airtap.libvirt.xml import validate

GOLDEN = Path(__file__).parent / "domain_xml"
MAC = "52:54:00:8f:5c:01"
UUID = "8f5c2a70-1b7e-4d0a-9c55-0b3f6f1e2a06"

# NAME-in.xml with these parents is NAME-out.xml.
HERE = {
    "alias-br0": {"br0": "wlan0"},
    "missing-bridge": {"br-lab.7": "wlan0"},
    "missing-direct-parent": {"enp3s0": "wlan0", "enp4s0": "eth1", "enp5s0": "eth2"},
    "ipvtap-of-another-host": {"wlp2s0": "wlan0"},
    "untouched": {"br0": "wlan0", "eth0": "eth0"},
}
# connect-in.xml so connected is connect-KIND-out.xml.
CONNECT = [
    Attachment("network", "wifi"),
    Attachment("macvtap", "wlan0"),
    Attachment("ipvtap", "wlan0"),
]


def golden(name: str, made: str, regenerate: bool) -> str:
    path = GOLDEN / f"{name}-out.xml"
    if regenerate:
        path.write_text(made)
    return path.read_text()


def domain(*interfaces: str, head: str = "", tail: str = "") -> str:
    cards = "".join(f"    {interface}\n" for interface in interfaces)
    return (
        f"<domain type='kvm'>\n  <name>vm</name>\n  <uuid>{UUID}</uuid>\n{head}"
        f"  <devices>\n{cards}  </devices>\n{tail}</domain>\n"
    )


def card(kind: str = "bridge", inner: str = "<source bridge='br0'/>", mac: str = MAC) -> str:
    return f"<interface type='{kind}'><mac address='{mac}'/>{inner}</interface>"


def nic(xml: str, number: int = 0) -> Interface:
    return scan_domain(xml.encode()).interfaces[number]


def text_of(xml: str, number: int = 0) -> str:
    found = nic(xml, number)
    return xml.encode()[found.start : found.end].decode()


# Stored and moved guests.


@pytest.mark.parametrize("case", HERE)
def test_for_this_host(case: str, regenerate: bool) -> None:
    stored = (GOLDEN / f"{case}-in.xml").read_bytes()
    here = for_this_host(stored, HERE[case])
    assert here.decode() == golden(case, here.decode(), regenerate)
    assert (here == stored) == (case == "untouched")
    validate(here.decode(), "domain")
    if case != "untouched":
        assert devices_named(scan_domain(stored)) == HERE[case].keys()


def test_devices_named() -> None:
    stored = (GOLDEN / "untouched-in.xml").read_bytes()
    assert devices_named(scan_domain(stored)) == {"br-there", "eth0"}


@pytest.mark.parametrize(
    ("mark", "target", "named"),
    [
        ("mac='{}' device='airtap-1' parent='wlan0' kind='ipvtap'", "airtap-1", {"wlan0"}),
        ("mac='{}' device='airtap-1' parent='wlan0' kind='ipvtap'", "airtap-2", set()),
        ("mac='{}' device='' parent='wlan0'", "", set()),
        ("mac='{}' device='airtap-1'", "airtap-1", set()),
    ],
)
def test_a_prepared_card_is_one_with_a_mark(mark: str, target: str, named: set[str]) -> None:
    inner = f"<target dev='{target}' managed='no'/>".replace(" dev=''", "")
    marked = f"<a:domain xmlns:a='urn:airtap:libvirt:1'><a:nic {mark.format(MAC)}/></a:domain>"
    xml = domain(card("ethernet", inner), head=f"<metadata>{marked}</metadata>")
    assert devices_named(scan_domain(xml.encode())) == named
    managed = xml.replace("managed='no'", "managed='yes'")
    assert devices_named(scan_domain(managed.encode())) == set()


@pytest.mark.parametrize(
    ("stored", "here"),
    [
        ('<source  dev = "eth9"\n mode="vepa" />', '<source  dev = "a&amp;b"\n mode="vepa" />'),
        ("<source mode='dev' dev='&#101;th9'/>", "<source mode='dev' dev='a&amp;b'/>"),
        (
            "<source network=' dev=\"x\"' dev='eth9'/>",
            "<source network=' dev=\"x\"' dev='a&amp;b'/>",
        ),
        ("<source dev='eth9'></source >", "<source dev='a&amp;b'></source >"),
        ("<source dev='eth9'/> <target dev='macvtap12'/>", "<source dev='a&amp;b'/>"),
        (
            "<source dev='eth9'/><target dev='macvtapx'/>",
            "<source dev='a&amp;b'/><target dev='macvtapx'/>",
        ),
        (
            "<virtualport type='802.1Qbh'/><source dev='eth9'/>",
            "<virtualport type='802.1Qbh'/><source dev='a&amp;b'/>",
        ),
    ],
)
def test_a_macvtap_gets_another_parent_and_nothing_else(stored: str, here: str) -> None:
    xml = domain(card("direct", stored))
    assert for_this_host(xml.encode(), {"eth9": "a&b"}).decode() == domain(card("direct", here))


# Connecting.


@pytest.mark.parametrize("wanted", CONNECT, ids=lambda wanted: wanted.kind)
def test_connect(wanted: Attachment, regenerate: bool) -> None:
    xml = (GOLDEN / "connect-in.xml").read_text()
    connected = connect(xml, nic(xml), wanted)
    assert connected == golden(f"connect-{wanted.kind}", connected, regenerate)
    assert disconnect(connected, MAC.upper()) == xml
    validate(connected, "domain")


@pytest.mark.parametrize("kind", ["macvtap", "ipvtap"])
def test_an_alias_stays_in_the_mark(kind: str) -> None:
    """It leads to another device at another start, which airtapd makes then, of either kind."""
    xml = (GOLDEN / "connect-in.xml").read_text()
    connected = connect(xml, nic(xml), Attachment(kind, "dock", alias=True))
    as_ipvtap = (GOLDEN / "connect-ipvtap-out.xml").read_text()
    mark = f'parent="dock" kind="{kind}"'
    assert connected == as_ipvtap.replace('parent="wlan0" kind="ipvtap"', mark)
    assert disconnect(connected, MAC) == xml


def test_an_alias_of_this_host_stays_in_the_mark() -> None:
    """A card on it that libvirt connects goes to the device, as one on a bridge of that name."""
    other = "52:54:00:8f:5c:02"
    xml = domain(card(), card(inner="<source bridge='dock'/>", mac=other))
    stored = connect(xml, nic(xml), Attachment("macvtap", "dock", alias=True)).encode()
    here = for_this_host(stored, {"dock": "eth0"}, ["dock"]).decode()
    assert text_of(here) == text_of(stored.decode())
    assert text_of(here, 1) == card("direct", "<source dev='eth0' mode='bridge'/>", other)
    lacking = for_this_host(stored, {"dock": "eth0"}).decode()
    assert nic(lacking).source == {"dev": "eth0", "mode": "bridge"}


def test_the_name_of_a_prepared_device_is_for_ever() -> None:
    """Marks hold it, and other versions of airtap must find the same."""
    assert prepared_device(UUID, MAC) == prepared_device(UUID.upper(), MAC.upper())
    assert prepared_device(UUID, MAC) == "airtap-6cbf71f8"
    assert len(prepared_device(UUID, MAC)) == 15  # IFNAMSIZ - 1


@pytest.mark.parametrize("first", CONNECT, ids=lambda wanted: wanted.kind)
@pytest.mark.parametrize("second", CONNECT, ids=lambda wanted: wanted.kind)
def test_connected_twice_the_first_original_stays(first: Attachment, second: Attachment) -> None:
    xml = domain(card())
    once = connect(xml, nic(xml), first)
    twice = connect(once, nic(once), Attachment(second.kind, "other"))
    assert [mark.original for mark in scan_domain(twice.encode()).nic_metadata] == [card()]
    assert text_of(twice) == text_of(connect(xml, nic(xml), Attachment(second.kind, "other")))
    assert disconnect(twice, MAC) == xml


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("<target dev='web'/>", True),
        ("<target dev='vnet'/>", True),
        ("<target dev='vnet3a'/>", True),
        ("<target dev='vnet3'/>", False),
        ("<target dev='macvtap0'/>", False),
        ("<target dev='macvlan77' managed='yes'/>", False),
        ("<target dev='made' managed='no'/>", False),
    ],
)
def test_target(target: str, stays: bool) -> None:
    model = "<model type='e1000'/>"
    kept = target if stays else ""
    ours = f"<target dev='{prepared_device(UUID, MAC)}' managed='no'/>"
    xml = domain(card("ethernet", target + model))
    network, macvtap, ipvtap = (text_of(connect(xml, nic(xml), wanted)) for wanted in CONNECT)
    assert network == card("network", f"<source network='wifi'/>{kept}{model}")
    assert macvtap == card("direct", f"<source dev='wlan0' mode='bridge'/>{kept}{model}")
    assert ipvtap == card("ethernet", ours + model)


@pytest.mark.parametrize(
    "head",
    [
        "",
        "  <metadata/>\n",
        "  <metadata></metadata>\n",
        "  <metadata>\n  </metadata>\n",
        "  <metadata\n />\n",
        "  <metadata><!-- <airtap:domain> --></metadata>\n",
        "  <metadata> <a xmlns='urn:a'/> </metadata>\n",
        "  <metadata>\n    <a:b xmlns:a='urn:a'>c</a:b><?d?>\n  </metadata>\n",
        "  <metadata><airtap:domain xmlns:airtap='urn:another'/></metadata>\n",
        "  <title>a</title><description>b</description>",
        "<genid/>",
    ],
)
def test_metadata(head: str) -> None:
    """Whatever is there stays there, and comes back as it was."""
    other = "52:54:00:8f:5c:02"
    xml = domain(card(), card(mac=other), head=head)
    one = connect(xml, nic(xml), CONNECT[2])
    both = connect(one, nic(one, 1), CONNECT[0])
    assert [mark.mac for mark in scan_domain(both.encode()).nic_metadata] == [MAC, other]
    assert both.count("<metadata") == 1
    assert disconnect(both, other) == one
    assert disconnect(disconnect(both, MAC), other) == xml


@pytest.mark.parametrize("line", ["\n", "\r\n", "", " "])
@pytest.mark.parametrize("unit", ["", "  ", "\t"])
def test_white_space(line: str, unit: str) -> None:
    """A mark brings back carriage returns, too, which XML does not keep by itself."""
    xml = domain(
        card(inner="\n      <!-- ]]> & \t -->\n      <source bridge='b&#13;&lt;&quot;ä'/>\n    ")
    )
    xml = xml.replace("\n", line).replace("  ", unit)
    connected = connect(xml, nic(xml), CONNECT[2])
    assert "<!-- ]]> & " in text_of(connected)
    assert disconnect(connected, MAC) == xml


def test_the_prefix_of_our_namespace_may_be_another() -> None:
    """libvirt keeps prefixes, but others may write metadata too."""
    other = "52:54:00:8f:5c:02"
    xml = domain(card(), card(mac=other))
    one = connect(xml, nic(xml), CONNECT[0])
    for prefix in ("a:", ""):
        changed = re.sub(r"(</?)airtap:", rf"\1{prefix}", one)
        changed = changed.replace("xmlns:airtap", f"xmlns:{prefix}".rstrip(":"))
        both = connect(changed, nic(changed, 1), CONNECT[0])
        assert [mark.mac for mark in scan_domain(both.encode()).nic_metadata] == [MAC, other]
        assert disconnect(disconnect(both, other), MAC) == xml


def test_names_are_escaped() -> None:
    name = "<a>&\"'"
    xml = domain(card())
    connected = connect(xml, nic(xml), Attachment("network", name))
    assert nic(connected).source == {"network": name}
    parent = connect(xml, nic(xml), Attachment("ipvtap", name))
    assert scan_domain(parent.encode()).nic_metadata[0].parent == name


@pytest.mark.parametrize("name", ["a\nb", "a\0", "\x01", "\ud800", "\ufffe"])
def test_names_that_xml_cannot_hold(name: str) -> None:
    xml = domain(card())
    for wanted in CONNECT:
        with pytest.raises(Problem) as caught:
            connect(xml, nic(xml), Attachment(wanted.kind, name))
        assert caught.value.code == "bad-name"
    with pytest.raises(Problem) as caught:
        for_this_host(xml.encode(), {"br0": name})
    assert caught.value.code == "bad-name"


REFUSED: Mapping[str, tuple[str, str]] = {
    "hostdev": (card("hostdev", "<source/>"), "type 'hostdev'"),
    "vdpa": (card("vdpa", "<source dev='/dev/vhost-vdpa-0'/>"), "type 'vdpa'"),
    "no type": (card().replace(" type='bridge'", ""), "type ''"),
    "vlan": (card(inner="<source bridge='br0'/><vlan><tag id='7'/></vlan>"), "<vlan>"),
    "no MAC": (card().replace(f"<mac address='{MAC}'/>", ""), "no MAC"),
    "one MAC twice": (card() + card(mac=MAC.upper()), "2 network cards"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    interface, why = REFUSED[case]
    xml = domain(interface, card(mac="52:54:00:8f:5c:02"))
    for wanted in CONNECT:
        with pytest.raises(Problem, match=re.escape(why)) as caught:
            connect(xml, nic(xml), wanted)
        assert caught.value.code == "not-supported"
        assert caught.value.hint
        assert MAC in caught.value.message or case == "no MAC"


def test_a_guaranteed_bandwidth_only_on_networks() -> None:
    xml = domain(
        card("network", "<source network='n'/><bandwidth><inbound floor='9'/></bandwidth>")
    )
    assert "floor" in text_of(connect(xml, nic(xml), CONNECT[0]))
    for wanted in CONNECT[1:]:
        with pytest.raises(Problem, match="guaranteed"):
            connect(xml, nic(xml), wanted)


@pytest.mark.parametrize("missing", [f"<uuid>{UUID}</uuid>", "<name>vm</name>"])
def test_a_domain_that_nobody_has_defined(missing: str) -> None:
    xml = domain(card()).replace(missing, "")
    with pytest.raises(Problem) as caught:
        connect(xml, nic(xml), CONNECT[2])
    assert caught.value.code == "not-supported"


def test_a_card_of_another_domain() -> None:
    with pytest.raises(Problem) as caught:
        connect(domain(card()), nic(domain(card(mac="52:54:00:00:00:99"))), CONNECT[0])
    assert caught.value.code == "no-such-nic"


# Disconnecting.


def test_disconnect_what_is_not_connected() -> None:
    with pytest.raises(Problem) as caught:
        disconnect(domain(card()), MAC)
    assert caught.value.code == "not-connected"


def test_disconnect_a_card_that_is_gone() -> None:
    xml = domain(card())
    connected = connect(xml, nic(xml), CONNECT[2])
    gone = connected.replace(text_of(connected), "")
    assert disconnect(gone, MAC) == xml.replace(card(), "")


def test_disconnect_a_card_whose_mac_was_changed() -> None:
    """The only text of its former self is not thrown away."""
    xml = domain(card())
    connected = connect(xml, nic(xml), CONNECT[2])
    edited = connected.replace(
        text_of(connected), text_of(connected).replace(MAC, "52:54:00:9:9:9")
    )
    with pytest.raises(Problem, match=f"changed from {MAC}") as caught:
        disconnect(edited, MAC)
    assert caught.value.code == "not-connected"


@pytest.mark.parametrize(
    "original",
    [
        "",
        "<interface/>",
        "junk",
        card(mac="52:54:00:00:00:99"),
        card() + card(mac="52:54:00:00:00:99"),
        card() + "<hostdev/>",
        " " + card(),
        "<disk/>" + card(),
        card()[:-1],
        "</devices><devices>" + card(),
        "<!-- " + card() + " -->",
        card() + "\n",
        card(inner="</interface><interface>"),
    ],
)
def test_a_forged_mark(original: str) -> None:
    """What a mark puts into a domain is one network card of that MAC, or nothing."""
    text = original.replace("<", "&lt;")
    head = (
        "  <metadata><airtap:domain xmlns:airtap='urn:airtap:libvirt:1'>"
        f"<airtap:nic mac='{MAC}'>{text}</airtap:nic></airtap:domain></metadata>\n"
    )
    with pytest.raises(Problem) as caught:
        disconnect(domain(card("network", "<source network='wifi'/>"), head=head), MAC)
    assert caught.value.code == "bad-mark"


def test_a_forged_note_of_empty_metadata() -> None:
    xml = domain(card(), head="  <metadata/>\n")
    connected = connect(xml, nic(xml), CONNECT[0])
    forged = connected.replace('empty="&lt;metadata/&gt;"', 'empty="&lt;evil/&gt;"')
    assert forged != connected
    assert "evil" not in disconnect(forged, MAC)


# What libvirt makes of it.


@pytest.mark.parametrize("wanted", CONNECT, ids=lambda wanted: wanted.kind)
def test_through_libvirt(wanted: Attachment) -> None:
    """Defined in its test driver, which parses and writes as all drivers do, and undone again."""
    libvirt = pytest.importorskip("libvirt")
    connection = libvirt.open("test:///default")
    try:
        xml = (GOLDEN / "connect-in.xml").read_text().replace("'kvm'", "'test'")
        before = connection.defineXML(xml).XMLDesc()
        defined = connection.defineXML(connect(before, nic(before), wanted)).XMLDesc()
        (mark,) = scan_domain(defined.encode()).nic_metadata
        assert mark.original == text_of(before)
        prepared = mark.device == nic(defined).target and not nic(defined).managed
        assert prepared == (wanted.kind == "ipvtap")
        assert connection.defineXML(disconnect(defined, MAC)).XMLDesc() == before
    finally:
        connection.close()

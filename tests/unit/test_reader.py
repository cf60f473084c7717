"""What is read of libvirt's XML, and what is not believed of anybody's."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airtap.errors import Problem
from airtap.libvirt import reader
from airtap.libvirt.reader import MAX_DEPTH, MAX_XML, read, scan_domain, scan_network

CARD = b"<interface type='bridge'><mac address='52:54:00:00:00:01'/></interface>"
OURS = b"urn:airtap:libvirt:1"


def domain(devices: bytes = CARD, head: bytes = b"", tail: bytes = b"") -> bytes:
    return b"<domain>%b<devices>%b</devices>%b</domain>" % (head, devices, tail)


def texts(xml: bytes) -> list[bytes]:
    return [xml[nic.start : nic.end] for nic in scan_domain(xml).interfaces]


def test_domain() -> None:
    xml = b"""<?xml version="1.0" encoding="UTF-8"?>
<!-- made by hand -->
<domain type="kvm" id='7' xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>a &amp; <![CDATA[<b>]]>&#228;</name>
  <uuid>c7a5fdbd-cdaf-9455-926a-d65c16db1809</uuid>
  <metadata>
    <a:domain xmlns:a="urn:airtap:libvirt:1">
      <a:nic mac='52:54:00:AB:CD:EF' device="airtap-1a2b3c4d" parent='w&#108;an0' kind="ipvtap"
        >&lt;interface type='bridge'&gt;&#13;
&lt;/interface&gt;</a:nic>
      <a:nic/>
    </a:domain>
  </metadata>
  <devices>
    <interface type="ethernet">
      <mac address='52:54:00:AB:CD:EF' type="static"/>
      <target dev="airtap-1a2b3c4d" managed='no'/>
      <driver><source dev='x'/></driver>
    </interface >
    <interface
      type = 'direct' trustGuestRxFilters="yes"><source dev="a&apos;b&#10;c" mode='private'
      /></interface>
    <interface type='user'/>
  </devices>
</domain>"""
    found = scan_domain(xml)
    assert found.name == "a & <b>ä"
    assert found.uuid == "c7a5fdbd-cdaf-9455-926a-d65c16db1809"
    ethernet, direct, user = found.interfaces
    assert (ethernet.type, ethernet.mac, ethernet.source) == ("ethernet", "52:54:00:ab:cd:ef", {})
    assert (ethernet.target, ethernet.managed) == ("airtap-1a2b3c4d", False)
    assert (direct.type, direct.mac, direct.target) == ("direct", "", "")
    assert (direct.source, direct.managed) == ({"dev": "a'b\nc", "mode": "private"}, True)
    assert (user.type, user.mac, user.target, user.managed) == ("user", "", "", True)
    texts = [xml[nic.start : nic.end] for nic in found.interfaces]
    assert [text[:10] for text in texts] == [b"<interface"] * 3
    assert [text[-4:] for text in texts] == [b"ce >", b"ace>", b"r'/>"]
    mark, empty = found.nic_metadata
    assert (mark.mac, mark.device) == ("52:54:00:ab:cd:ef", "airtap-1a2b3c4d")
    assert (mark.parent, mark.kind) == ("wlan0", "ipvtap")
    assert mark.original == "<interface type='bridge'>\r\n</interface>"
    assert (empty.mac, empty.device, empty.parent, empty.kind, empty.original) == ("",) * 5


@pytest.mark.parametrize(
    "text",
    [
        b"<interface/>",
        b"<interface />",
        b"<interface></interface>",
        b"<interface></interface\n>",
        b"<interface type='/>'></interface>",
        b'<interface type="/>"/>',
        b"<interface>/></interface>",
        b"<interface>/&gt;</interface>",
        b"<interface><mac/></interface>",
        b"<interface><!--/>--></interface>",
        b"<interface><?a />?></interface>",
        b"<interface><![CDATA[/>]]></interface>",
        b"<interface><!-- </interface> --></interface>",
        "<interface>日本</interface>".encode(),
    ],
)
@pytest.mark.parametrize("before", [b"", b"<disk/>", "<!--日-->".encode(), b"\xef\xbb\xbf"])
def test_where_an_interface_stands(text: bytes, before: bytes) -> None:
    if before.startswith(b"\xef"):  # a byte order mark
        xml = before + domain(text + text)
    else:
        xml = domain(before + text + text)
    assert texts(xml) == [text, text]


@pytest.mark.parametrize(
    "xml",
    [
        domain(b"", tail=CARD),
        domain(b"<hub>" + CARD + b"</hub>"),
        domain(b"<a:interface xmlns:a='urn:a'/>"),
        domain(b"<interface xmlns='urn:a'/>"),
        domain(b"<!-- " + CARD + b" -->"),
        domain(b"<![CDATA[" + CARD + b"]]>"),
        domain(b"<?x " + CARD + b"?>"),
        domain(b"<disk a='&lt;interface/>'/>"),
        domain(b"", head=b"<metadata><devices>" + CARD + b"</devices></metadata>"),
        domain(b"", head=b"<metadata><domain>" + domain() + b"</domain></metadata>"),
        b"<domain xmlns:a='urn:a'><a:devices>" + CARD + b"</a:devices></domain>",
    ],
)
def test_no_interfaces_of_the_domain(xml: bytes) -> None:
    assert texts(xml) == []


MARK = b"<a:domain xmlns:a='%b'><a:nic mac='x'/></a:domain>" % OURS


@pytest.mark.parametrize(
    ("head", "marks"),
    [
        (b"<metadata>%b</metadata>" % MARK, 1),
        (b"<metadata>%b</metadata>" % MARK.replace(b"a:", b"").replace(b"xmlns:a", b"xmlns"), 1),
        (b"<metadata><domain xmlns='%b'><nic/></domain></metadata>" % OURS, 1),
        (
            b"<metadata><domain xmlns='%b'><b:nic xmlns:b='%b'/></domain></metadata>"
            % (OURS, OURS),
            1,
        ),
        (b"<metadata><b>%b</b></metadata>" % MARK, 0),
        (b"<metadata>%b</metadata>" % MARK.replace(b":1'", b":2'"), 0),
        (b"<metadata>%b</metadata>" % MARK.replace(b"a:nic", b"nic"), 0),
        (b"<metadata xmlns:airtap='b'><airtap:domain><airtap:nic/></airtap:domain></metadata>", 0),
        (b"<metadata><domain><nic/></domain></metadata>", 0),
        (b"<metadata><a:domain xmlns:a='%b nic'><a:nic/></a:domain></metadata>" % OURS, 0),
        (MARK, 0),
        (b"", 0),
    ],
)
def test_marks(head: bytes, marks: int) -> None:
    assert len(scan_domain(domain(head=head)).nic_metadata) == marks


@pytest.mark.parametrize("text", [b"<name/>", b"<x><name>a</name></x>", b"<!--<name>a</name>-->"])
def test_no_name(text: bytes) -> None:
    assert scan_domain(domain(head=text)).name == ""


BOMB = b"<!DOCTYPE domain [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;'>]>"


UNREADABLE = {
    "empty": b"",
    "text": b"junk",
    "truncated": domain()[:-3],
    "crossed": b"<domain><devices></domain></devices>",
    "two roots": domain() + domain(),
    "entity bomb": BOMB + domain(head=b"<name>&b;</name>"),
    "document type": b"<!DOCTYPE domain>" + domain(),
    "outside document type": b"<!DOCTYPE domain SYSTEM 'file:///etc/passwd'>" + domain(),
    "unknown entity": domain(head=b"<name>&b;</name>"),
    "unknown prefix": domain(b"<a:b/>"),
    "attribute twice": domain(b"<a b='1' b='2'/>"),
    "NUL": domain(head=b"<name>a\0b</name>"),
    "NUL at the end": domain() + b"\0",
    "control character": domain(head=b"<name>\x01</name>"),
    "NUL as a reference": domain(head=b"<name>&#0;</name>"),
    "Latin-1": domain(head=b"<name>\xe4</name>"),
    "surrogate": domain(head=b"<name>\xed\xa0\x80</name>"),
    "overlong": domain(head=b"<name>\xc0\xaf</name>"),
    "UTF-16": domain().decode().encode("utf-16"),
    "UTF-16 without its mark": domain().decode().encode("utf-16-le"),
    "said to be Latin-1": b"<?xml version='1.0' encoding='ISO-8859-1'?>" + domain(),
    "said to be UTF-16": b"<?xml version='1.0' encoding='UTF-16'?>" + domain(),
    "ASCII that is not": b"<?xml version='1.0' encoding='ASCII'?><domain>\xc3\xa4</domain>",
    "too deep": b"<domain>" + b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH + b"</domain>",
    "deep and truncated": b"<domain>" * 1_000_000,
    "too long": domain(b" " * MAX_XML),
}
OTHERS = {
    "status": b"<domstatus>" + domain() + b"</domstatus>",
    "snapshot": b"<domainsnapshot>" + domain() + b"</domainsnapshot>",
    "of another namespace": b"<domain xmlns='urn:a'/>",
}


@pytest.mark.parametrize("case", UNREADABLE | OTHERS)
def test_refused(case: str) -> None:
    for scanned in (scan_domain, scan_network):
        with pytest.raises(Problem) as caught:
            scanned((UNREADABLE | OTHERS)[case])
        assert caught.value.code == "bad-xml"
        assert str(caught.value).isprintable()


def test_a_network_is_no_domain() -> None:
    with pytest.raises(Problem, match="no domain but 'network'"):
        scan_domain(b"<network/>")


@pytest.mark.parametrize("encoding", [b"UTF-8", b"utf-8", b"us-ascii", b"ASCII"])
def test_encodings(encoding: bytes) -> None:
    assert texts(b"<?xml version='1.0' encoding='%b'?>" % encoding + domain()) == [CARD]


def test_limits() -> None:
    """As deep and as long as is allowed."""
    deep = MAX_DEPTH - 1
    assert scan_domain(b"<domain>" + b"<a>" * deep + b"</a>" * deep + b"</domain>").name == ""
    long = domain(CARD + b" " * (MAX_XML - len(domain())))
    assert len(long) == MAX_XML
    assert texts(long) == [CARD]


@given(st.binary(max_size=60), st.integers(0, len(domain())))
@example(b"</devices><devices>", len(b"<domain><devices>"))
@example(b"\xff\xfe", 0)
def test_anything(junk: bytes, at: int) -> None:
    """Either it is refused, or what is found are elements."""
    xml = domain()[:at] + junk + domain()[at:]
    try:
        found = texts(xml)
    except Problem as problem:
        assert problem.code == "bad-xml"
        return
    for text in found:
        assert read(text).name == "interface"


# Networks, as libvirt 9.0 writes them, shortened.

WIFI = b"""<network connections='1'>
  <name>wifi</name>
  <metadata><a:forward xmlns:a='urn:a'><interface dev='eth9'/></a:forward></metadata>
  <forward dev='wlan0' mode='bridge'>
    <interface dev='wlan0' connections='1'/>
    <interface dev='wlan1'/>
  </forward>
</network>"""
PORT = b"""<networkport>
  <uuid>5d5e0f1a-0c56-4d0d-8f5b-7d1d7a4be001</uuid>
  <owner>
    <name>vm</name>
    <uuid>c7a5fdbd-cdaf-9455-926a-d65c16db1809</uuid>
  </owner>
  <mac address='52:54:00:AB:CD:EF'/>
  <plug type='direct' dev='wlan1' mode='bridge'/>
</networkport>"""


def hook(*parts: bytes) -> bytes:
    return b"<hookData>\n  %b</hookData>\n" % b"\n  ".join(parts)


@pytest.mark.parametrize("xml", [WIFI, hook(WIFI)])
def test_network(xml: bytes) -> None:
    network = scan_network(xml)
    assert (network.name, network.devices) == ("wifi", {"wlan0", "wlan1"})


def test_port() -> None:
    network = scan_network(hook(WIFI, PORT))
    assert (network.name, network.devices) == ("wifi", {"wlan1"})


@pytest.mark.parametrize(
    "plug",
    [
        b"<plug type='bridge' bridge='virbr0' macTableManager='libvirt'/>",
        b"<plug type='network' bridge='virbr0'/>",
        b"<plug type='hostdev-pci' managed='yes'><driver/></plug>",
        b"<plug type='bridge' dev='wlan0'/>",
        b"<plug type='direct'/>",
        b"<x><plug type='direct' dev='wlan0'/></x>",
        b"",
    ],
)
def test_port_without_a_device(plug: bytes) -> None:
    port = b"<networkport><owner/>%b</networkport>" % plug
    assert scan_network(hook(WIFI, port)).devices == set()


@pytest.mark.parametrize(
    "forward",
    [
        b"<forward mode='nat' dev='wlan0'><interface dev='wlan0'/></forward>",
        b"<forward dev='wlan0'><interface dev='wlan0'/></forward>",
        b"<forward mode='route'><interface dev='wlan0'/></forward>",
        b"<forward mode='open'/>",
        b"<forward mode='bridge'/><bridge name='br0'/>",
        b"<forward mode='hostdev'><pf dev='eth2'/></forward>",
        b"<forward mode='bridge'><interface/></forward>",
        b"<ip address='192.168.1.1'/>",
    ],
)
def test_networks_without_macvtaps(forward: bytes) -> None:
    assert scan_network(b"<network>%b</network>" % forward).devices == set()


@pytest.mark.parametrize("mode", [b"bridge", b"private", b"vepa", b"passthrough"])
def test_networks_with_macvtaps(mode: bytes) -> None:
    xml = b"<network><forward mode='%b'><interface dev='eth0'/></forward></network>" % mode
    assert scan_network(xml).devices == {"eth0"}


@pytest.mark.parametrize("xml", [b"<hookData/>", b"<networkport/>", b"<hookData><a/></hookData>"])
def test_no_network(xml: bytes) -> None:
    with pytest.raises(Problem, match="no network"):
        scan_network(xml)


def test_imports() -> None:
    """The hooks import it at every start of a guest: expat, and nothing else of any size."""
    source = Path(reader.__file__).parents[2]
    code = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1])\n"
        "import airtap.libvirt.reader; print(*sorted(set(sys.modules) - before))"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(source)]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    own = {"airtap", "airtap.errors", "airtap.libvirt", "airtap.libvirt.reader"}
    assert set(loaded) - own <= {"pyexpat", "pyexpat.errors", "pyexpat.model"}


def test_incoming_guests_need_no_lxml() -> None:
    """The hooks rewrite them, and run without site-packages."""
    source = Path(reader.__file__).parents[2]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import airtap.libvirt.incoming\n"
        "print([name for name in ('hashlib', 'dataclasses', 'lxml') if name in sys.modules])"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(source)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"

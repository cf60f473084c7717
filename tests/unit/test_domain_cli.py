"""`airtap domain`, without root, and with libvirt's own test driver instead of a daemon."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from airtap import cli, uplink
from airtap.cli.commands.change import diff, is_idle, left_out
from airtap.cli.commands.domain_table import table
from airtap.cli.commands.nic import chosen_interface, chosen_mac
from airtap.config import Config, Parent
from airtap.errors import Problem
from airtap.kernel.links import IFF_LOOPBACK
from airtap.libvirt import domain_xml, domains, networks
from airtap.libvirt.connection import connected
from airtap.libvirt.connectivity import Host, HostDevice, check
from airtap.libvirt.domain_xml import Attachment
from airtap.libvirt.network_xml import Network
from airtap.libvirt.nic import Nic, nics
from airtap.libvirt.reader import scan_domain
from airtap.uris import is_remote, is_session
from tests.unit.links import ETH0

MAC = "52:54:00:00:00:01"
OTHER = "52:54:00:00:00:02"
UUID = "11111111-2222-3333-4444-555555555555"
NETWORK = f"""\
    <interface type='network'>
      <mac address='{MAC}'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
"""
SECOND = f"""\
    <interface type='user'>
      <mac address='{OTHER}'/>
    </interface>
"""


def domain(*cards: str, name: str = "web") -> str:
    return f"""\
<domain type='test'>
  <name>{name}</name>
  <uuid>{UUID}</uuid>
  <memory unit='KiB'>65536</memory>
  <os>
    <type>hvm</type>
  </os>
  <devices>
{"".join(cards)}\
  </devices>
</domain>
"""


def without(xml: str, element: str) -> str:
    """XML without the first element of that name."""
    return xml[: xml.index(f"<{element}")] + xml[xml.index(f"</{element}>") + len(element) + 3 :]


def connect(xml: str, mac: str, wanted: Attachment) -> str:
    card = next(c for c in scan_domain(xml.encode()).interfaces if c.mac == mac)
    return domain_xml.connect(xml, card, wanted)


@pytest.mark.parametrize(
    ("cards", "choice", "mac"),
    [
        ((NETWORK,), None, MAC),
        ((NETWORK, SECOND), "1", MAC),
        ((NETWORK, SECOND), "2", OTHER),
        ((NETWORK, SECOND), OTHER.upper(), OTHER),
    ],
)
def test_chosen_interface(cards: tuple[str, ...], choice: str | None, mac: str) -> None:
    assert chosen_interface(scan_domain(domain(*cards).encode()), "web", choice).mac == mac


@pytest.mark.parametrize(
    ("cards", "choice", "code", "why"),
    [
        ((), None, "no-such-nic", "domain web has no network card"),
        ((), "1", "no-such-nic", "domain web has no network card"),
        ((NETWORK, SECOND), None, "which-nic", f"2 network cards; --nic takes: {MAC}, {OTHER}"),
        ((NETWORK,), "0", "which-nic", "no network card 0"),
        ((NETWORK,), "2", "which-nic", "no network card 2"),
        ((NETWORK,), "9" * 5000, "which-nic", "no network card 999"),
        ((NETWORK,), "", "which-nic", "no network card ;"),
        ((NETWORK,), "52:54:00", "bad-mac", "'52:54:00' is not a MAC address"),
        ((NETWORK,), OTHER, "which-nic", f"no network card {OTHER}; --nic takes: {MAC}"),
    ],
)
def test_no_card_chosen(cards: tuple[str, ...], choice: str | None, code: str, why: str) -> None:
    with pytest.raises(Problem) as caught:
        chosen_interface(scan_domain(domain(*cards).encode()), "web", choice)
    assert caught.value.code == code
    assert why in str(caught.value)


def test_chosen_mac() -> None:
    xml = domain(NETWORK, SECOND)
    first = connect(xml, MAC, Attachment("ipvtap", "wlan0"))
    both = connect(first, OTHER, Attachment("macvtap", "wlan0"))
    gone = without(first, "interface")

    def chosen(xml: str, choice: str | None) -> str:
        try:
            return chosen_mac(scan_domain(xml.encode()), "web", choice)
        except Problem as problem:
            return problem.code

    assert chosen(xml, None) == chosen(xml, "1") == "not-connected"
    assert chosen(first, None) == chosen(first, "1") == chosen(first, MAC.upper()) == MAC
    assert chosen(first, "2") == chosen(first, OTHER) == "not-connected"
    assert chosen(first, "3") == "which-nic"
    assert chosen(both, None) == "which-nic"
    assert chosen(both, "2") == OTHER
    assert chosen(gone, None) == chosen(gone, MAC) == MAC


def test_what_is_connected_already() -> None:
    xml = domain(NETWORK)
    for wanted in (Attachment("ipvtap", "wlan0"), Attachment("macvtap", "wlan0", "vepa")):
        after = connect(xml, MAC, wanted)
        assert not is_idle(xml, after, MAC)
        assert is_idle(after, connect(after, MAC, wanted), MAC)
        assert not is_idle(after, connect(after, MAC, replace(wanted, name="eth0")), MAC)
    same = connect(xml, MAC, Attachment("network", "default"))
    assert same != xml
    assert is_idle(xml, same, MAC)
    # A device of airtapd's without its mark: the guest could not start.
    ipvtap = Attachment("ipvtap", "wlan0")
    unmarked = without(connect(xml, MAC, ipvtap), "metadata")
    assert not is_idle(unmarked, connect(unmarked, MAC, ipvtap), MAC)


def test_diff() -> None:
    xml = domain(NETWORK)
    lines = diff(xml, connect(xml, MAC, Attachment("macvtap", "wlan0")), "web", "connected").split(
        "\n"
    )
    assert lines[:2] == ["--- web (now)", "+++ web (connected)"]
    assert "-      <source network='default'/>" in lines
    assert any(line.startswith("+      <source dev=") for line in lines)
    assert not any(line.startswith("-    </interface") for line in lines)
    assert diff(xml, xml, "web", "connected") == ""


def test_a_diff_steers_no_terminal() -> None:
    told = diff("<a>\n\x9b2J\t</a>\n", "<b>\n\x9b2J\t</a>\n", "we\x1bb", "connected")
    assert "\x9b" not in told and "\x1b" not in told
    assert " \\x9b2J\t</a>" in told.split("\n")


def test_left_out() -> None:
    rich = NETWORK.replace("<model", "<filterref filter='clean'/><mtu size='1400'/><model")
    before = scan_domain(domain(rich).encode()).interfaces[0]
    for wanted, lost in (
        (Attachment("macvtap", "wlan0"), ["<filterref>", "<mtu>"]),
        (Attachment("ipvtap", "wlan0"), []),
        (Attachment("network", "wifi"), []),
    ):
        after = connect(domain(rich), MAC, wanted)
        assert left_out(before, scan_domain(after.encode()).interfaces[0]) == lost


def test_nics() -> None:
    cards = (
        NETWORK,
        "<interface type='bridge'><mac address='52:54:00:00:00:03'/><source bridge='br0'/>"
        "</interface>",
        "<interface type='direct'><mac address='52:54:00:00:00:04'/>"
        "<source dev='eth0' mode='vepa'/></interface>",
        "<interface type='ethernet'><mac address='52:54:00:00:00:05'/><target dev='tap5'/>"
        "</interface>",
        SECOND,
        "<interface type='hostdev'><mac address='52:54:00:00:00:06'/><source><address/></source>"
        "</interface>",
    )
    plain = domain(*cards)
    found = nics(scan_domain(plain.encode()))
    assert [(n.number, n.kind, n.name, n.mode) for n in found] == [
        (1, "network", "default", ""),
        (2, "bridge", "br0", ""),
        (3, "macvtap", "eth0", "vepa"),
        (4, "ethernet", "tap5", ""),
        (5, "user", "", ""),
        (6, "hostdev", "", ""),
    ]
    assert not any(nic.connected or nic.prepared for nic in found)
    xml = connect(plain, MAC, Attachment("ipvtap", "wlan0"))
    xml = connect(xml, OTHER, Attachment("macvtap", "wlan1"))
    found = nics(scan_domain(xml.encode()))
    one = Nic(1, MAC, "ipvtap", "wlan0", "", prepared=True, connected=True)
    device = domain_xml.prepared_device(UUID, MAC)
    assert replace(found[0], parts=frozenset()) == replace(one, device=device)
    clone = xml.replace(f"<mac address='{MAC}'/>", "<mac address='52:54:00:00:00:07'/>")
    [cloned, *_] = nics(scan_domain(clone.encode()))
    assert (cloned.device, cloned.own, found[0].own) == (device, False, True)
    five = Nic(5, OTHER, "macvtap", "wlan1", "bridge", connected=True)
    assert replace(found[4], parts=frozenset()) == five


ETH = replace(ETH0, mac="52:54:00:00:00:99")


def up(name: str, type: str = "ethernet", **facts: Any) -> uplink.Uplink:
    return uplink.Uplink(replace(ETH, name=name, **facts), type)


def network(
    name: str, kind: str, parent: str, *, active: bool = True, mode: str = ""
) -> networks.ListedNetwork:
    return networks.ListedNetwork(Network(name, kind, parent, mode), UUID, active, True)


BRIDGE = up("br0", "bridge", kind="bridge")
WLAN1 = replace(ETH, name="wlan1")
PORT: dict[str, Any] = {"slave_kind": "bridge", "master": 2}
HOST = Host(
    settings=Config(parents={"off0": Parent(macnat="off"), "up0": Parent(macnat="on")}),
    session=False,
    networks={
        entry.network.name: entry
        for entry in (
            network("wifi", "macvtap", "wlan0"),
            network("wired", "macvtap", "eth0"),
            network("pass", "macvtap", "wlan0", mode="passthrough"),
            network("unplugged", "macvtap", "usb0"),
            network("pool", "macvtap", ""),
            network("stopped", "macvtap", "eth0", active=False),
            network("bridged", "bridge", "br0"),
            network("mine", "session", "wlan0"),
            network("default", "nat", ""),
            network("gate", "nat", "usb0"),
            network("alone", "isolated", ""),
        )
    },
    devices={
        "eth0": HostDevice(up("eth0")),
        "up0": HostDevice(up("up0")),
        "off0": HostDevice(up("off0", "wifi-station")),
        "wlan0": HostDevice(up("wlan0", "wifi-station")),
        "bond0": HostDevice(uplink.Uplink(replace(ETH, name="bond0"), "ethernet", WLAN1)),
        "wds0": HostDevice(up("wds0", "wifi-4addr")),
        "lo": HostDevice(up("lo", "other", flags=IFF_LOOPBACK)),
        "port0": HostDevice(up("port0", **PORT)),
        "br0": HostDevice(BRIDGE, (up("eth1", **PORT),)),
        "br1": HostDevice(BRIDGE, (up("eth1", **PORT), up("wlan1", "wifi-station", **PORT))),
        "br2": HostDevice(BRIDGE),
        "ovs0": HostDevice(up("ovs0", kind="openvswitch")),
    },
)
SESSION = replace(HOST, session=True)


@pytest.mark.parametrize(
    ("host", "kind", "name", "works", "why"),
    [
        (HOST, "macvtap", "eth0", True, ""),
        (HOST, "macvtap", "wds0", True, ""),
        (HOST, "macvtap", "wlan0", True, "with airtapd"),
        (HOST, "macvtap", "bond0", True, "with airtapd"),
        (HOST, "macvtap", "up0", True, "with airtapd"),
        (HOST, "macvtap", "off0", False, "off0 takes one MAC only, and macnat is off"),
        (HOST, "macvtap", "usb0", False, "there is no device usb0"),
        (HOST, "macvtap", "lo", False, "lo carries no Ethernet frames for guests"),
        (HOST, "macvtap", "port0", False, "port0 is a port of a bridge"),
        (HOST, "macvtap", "br0", None, "br0 is a bridge"),
        (HOST, "ipvtap", "eth0", True, "with airtapd"),
        (HOST, "ipvtap", "wlan0", True, "with airtapd"),
        (HOST, "ipvtap", "off0", False, "with macnat off, its MAC has to be that of off0"),
        (HOST, "ipvtap", "br0", False, "br0 is a bridge"),
        (HOST, "ipvtap", "usb0", False, "there is no device usb0"),
        (HOST, "bridge", "br0", True, ""),
        (HOST, "bridge", "br1", False, "port wlan1 of br1 takes one MAC only"),
        (HOST, "bridge", "br2", None, "br2 has no uplink"),
        (HOST, "bridge", "br9", False, "there is no bridge br9"),
        (HOST, "bridge", "wlan0", False, "wlan0 is no bridge"),
        (HOST, "bridge", "ovs0", None, "Open vSwitch"),
        (HOST, "network", "wifi", True, "with airtapd"),
        (HOST, "network", "wired", True, ""),
        (HOST, "network", "unplugged", False, "there is no device usb0"),
        (HOST, "network", "pool", None, "macvtap"),
        (HOST, "network", "stopped", False, "network stopped is not active"),
        (HOST, "network", "nothere", False, "there is no network nothere"),
        (HOST, "network", "bridged", True, ""),
        (HOST, "network", "mine", False, "wlan0 is no bridge"),
        (HOST, "network", "default", True, "behind NAT"),
        (HOST, "network", "gate", False, "there is no device usb0"),
        (HOST, "network", "alone", None, "isolated"),
        (HOST, "user", "", True, "behind NAT"),
        (HOST, "ethernet", "tap5", None, ""),
        (HOST, "hostdev", "", None, ""),
        (SESSION, "network", "mine", True, "with airtapd"),
        (SESSION, "bridge", "wlan0", True, "with airtapd"),
        (SESSION, "bridge", "br0", True, ""),
        (SESSION, "bridge", "lo", False, "lo carries no Ethernet frames for guests"),
        (SESSION, "macvtap", "eth0", False, "the libvirt of a session makes no macvtap"),
        (None, "bridge", "br0", None, ""),
    ],
)
def test_verdict(host: Host | None, kind: str, name: str, works: bool | None, why: str) -> None:
    nic = Nic(1, MAC, kind, name, prepared=kind == "ipvtap")
    assert check(nic, host) == (works, why)


@pytest.mark.parametrize("name", ["wlan0", "wds0", "bond0", "pass"])
def test_passthrough_on_wifi(name: str) -> None:
    kind = "network" if name == "pass" else "macvtap"
    nic = Nic(1, MAC, kind, name, mode="passthrough" if kind == "macvtap" else "")
    works, why = check(nic, HOST)
    assert (works, why.partition(" ")[2]) == (
        False,
        "cannot take its MAC, as mode passthrough wants",
    )
    assert check(replace(nic, mac=ETH.mac), HOST)[0] is True
    assert check(replace(nic, kind="macvtap", name="eth0"), HOST) == (True, "")


def test_an_ipvtap_with_the_mac_of_its_parent() -> None:
    nic = Nic(1, ETH.mac, "ipvtap", "off0", prepared=True)
    assert check(nic, HOST) == (True, "with airtapd")


@pytest.mark.parametrize(
    ("kind", "name", "part", "works"),
    [
        ("network", "wifi", "<filterref/>", False),
        ("network", "wifi", "<port isolated='yes'/>", False),
        ("network", "wifi", "<bandwidth><inbound average='9' floor='9'/></bandwidth>", False),
        ("network", "wifi", "<bandwidth><inbound average='9'/></bandwidth>", False),
        ("macvtap", "eth0", "<bandwidth><inbound average='9'/></bandwidth>", True),
        ("network", "wifi", "<mtu size='1400'/>", True),
        ("network", "bridged", "<filterref/>", True),
        ("network", "default", "<bandwidth><inbound average='9' floor='9'/></bandwidth>", True),
        ("bridge", "br0", "<filterref/>", True),
        ("macvtap", "eth0", "<vlan><tag id='4'/></vlan>", False),
        ("macvtap", "eth0", "<bandwidth><outbound average='9'/></bandwidth>", True),
        ("ipvtap", "eth0", "<vlan><tag id='4'/></vlan>", False),
        ("ipvtap", "eth0", "<filterref/>", True),
        ("ipvtap", "eth0", "<bandwidth><outbound average='9'/></bandwidth>", False),
        ("ipvtap", "eth0", "<bandwidth><inbound average='9'/></bandwidth>", True),
    ],
)
def test_what_libvirt_does_not_start(kind: str, name: str, part: str, works: bool) -> None:
    card = NETWORK.replace("<model", f"{part}<model")
    [nic] = nics(scan_domain(domain(card).encode()))
    nic = replace(nic, kind=kind, name=name, prepared=kind == "ipvtap")
    assert check(nic, HOST)[0] is works


@pytest.mark.parametrize(
    ("uri", "remote", "session"),
    [
        ("qemu:///system", False, False),
        ("qemu+unix:///session?socket=/run/user/1000/libvirt/libvirt-sock", False, True),
        ("qemu+ssh://root@host.example/system", True, False),
        ("qemu+ssh://host.example/session", True, True),
    ],
)
def test_whose_libvirt(uri: str, remote: bool, session: bool) -> None:
    assert is_remote(uri) is remote
    assert is_session(uri) is session


def test_table() -> None:
    card = Nic(1, MAC, "macvtap", "wlan0", "bridge", connected=True)
    entry = domains.ListedDomain("we\x1bb", UUID, "running", True, [card])
    rows = [(entry, [(card, (True, "with airtapd")), (replace(card, number=2), (None, ""))])]
    assert table(rows).splitlines() == [
        "DOMAIN     STATE    NIC  MAC                ATTACHED TO    BY AIRTAP  WORKS",
        f"'we\\x1bb'  running  1    {MAC}  macvtap wlan0  yes        yes, with airtapd",
        f"'we\\x1bb'  running  2    {MAC}  macvtap wlan0  yes        -",
    ]
    assert table([]) == table([(entry, [])]) == "no network cards"


@pytest.fixture
def connection() -> Iterator[Any]:
    """A pretended host, shared with airtap while it is open: network "default", domain "web"."""
    with connected("test:///default") as connection:
        handle = connection.defineXML(domain(NETWORK, SECOND))
        yield connection
        handle.undefine()


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["airtap", "domain", *argv])
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    try:
        return cli.main()
    except SystemExit as exc:
        assert isinstance(exc.code, int)
        return exc.code


def test_list(
    connection: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "list") == 0
    assert f"web     shut off  1    {MAC}  network default" in capsys.readouterr().out
    assert run(monkeypatch, "list", "--json") == 0
    shown = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["domains"]}
    assert shown["web"]["nics"][1] == {
        **{"number": 2, "mac": OTHER, "kind": "user", "name": None, "mode": None},
        **{"connected": False, "works": True, "why": "behind NAT"},
    }


def test_connect_and_disconnect(
    connection: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = connection.lookupByName("web")
    before = domains.definition(handle, secrets=True)
    argv = ("connect", UUID.upper(), "--nic", "2", "--network", "default")
    assert run(monkeypatch, *argv, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("--- web (now)\n+++ web (connected)\n@@ ")
    assert handle.XMLDesc() == before
    assert run(monkeypatch, *argv) == 0
    assert capsys.readouterr().out.startswith(shown)
    assert run(monkeypatch, *argv) == 0
    assert (
        capsys.readouterr().out
        == f"domain web: network card {OTHER} is on network default already\n"
    )
    assert run(monkeypatch, "disconnect", "web") == 0
    assert capsys.readouterr().out.startswith("--- web (now)\n+++ web (disconnected)\n@@ ")
    assert domains.definition(handle, secrets=True) == before
    assert run(monkeypatch, "disconnect", "web") == 1
    assert "no network card of domain web was connected by airtap" in capsys.readouterr().err


def test_passwords_stay_where_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with connected("test:///default") as connection:
        graphics = "<graphics type='vnc' passwd='secret99'/>"
        handle = connection.defineXML(domain(SECOND, graphics, name="seen"))
        before = domains.definition(handle, secrets=True)
        assert run(monkeypatch, "connect", "seen", "--network", "default") == 0
        shown = capsys.readouterr().out
        assert "\n     <graphics type='vnc'" in shown and "secret99" not in shown
        assert "secret99" in domains.definition(handle, secrets=True)
        assert run(monkeypatch, "disconnect", "seen") == 0
        assert "secret99" not in capsys.readouterr().out
        assert domains.definition(handle, secrets=True) == before
        handle.undefine()


@pytest.mark.parametrize(
    ("argv", "status", "why"),
    [
        (("connect", "web"), 2, "one of the arguments --network --parent is required"),
        (("connect", "web", "--network", "a", "--parent", "b"), 2, "not allowed with"),
        (("connect", "web", "--network", "a", "--kind", "ipvtap"), 2, "go with --parent only"),
        (("connect", "web", "--network", "a", "--mode", "vepa"), 2, "go with --parent only"),
        (("connect", "web", "--parent", "a", "--kind", "ipvtap", "--mode", "vepa"), 2, "--mode is"),
        (("connect", "web", "--parent", "a", "--kind", "nat"), 2, "invalid choice"),
        (("connect", "no", "--parent", "lo"), 1, "there is no domain no at test:///default"),
        (("connect", "web", "--nic", "1", "--network", ""), 1, "there is no network "),
        (("connect", "web", "--nic", "1", "--network", "no"), 1, "there is no network no at"),
        (("connect", "web", "--nic", "1", "--parent", "lo"), 1, "lo carries no Ethernet frames"),
        (("connect", "web", "--nic", "1", "--parent", "a/b"), 1, "cannot be the name"),
        (("connect", "web", "--nic", "1", "--parent", "no"), 1, "there is no network device no"),
        (("connect", "web", "--network", "default"), 1, "--nic takes:"),
        (("disconnect", "web", "--nic", "1"), 1, "no network card of domain web was connected"),
        (("list", "--connect", "bad"), 1, "cannot reach bad"),
    ],
)
def test_refusals(
    connection: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    status: int,
    why: str,
) -> None:
    before = connection.lookupByName("web").XMLDesc()
    assert run(monkeypatch, *argv) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert why in err
    assert status == 2 or len(err.splitlines()) == 1
    assert connection.lookupByName("web").XMLDesc() == before

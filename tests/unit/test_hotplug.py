"""Running guests' cards, without root; by libvirt's test driver where a guest has to run."""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from airtap import cli
from airtap.cli.commands.live import _follows
from airtap.config import Config
from airtap.errors import Problem
from airtap.libvirt import hotplug_journal, live_nics
from airtap.libvirt.connection import connected
from airtap.libvirt.hotplug import Replacement, expect_fit
from airtap.libvirt.hotplug_journal import JournalEntry, address, entry_to_move, new_interface
from airtap.libvirt.live_nics import at_once, linked_down, of_xml, stands_on
from airtap.libvirt.nic import LiveNic, Nic
from airtap.libvirt.reader import NAMESPACE, scan_domain
from tests.unit.links import ETH0

MAC = "52:54:00:00:00:01"
UUID = "11111111-2222-3333-4444-555555555555"
PCI = "<address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>"
# As libvirt shows the cards of a guest that runs.
SOURCES = {
    "network": "<source network='wifi' portgroup='staff' portid='1-2' dev='wlan0' mode='vepa'/>",
    "direct": "<source dev='wlan0' mode='bridge'/>",
    "ethernet": "",
    "bridge": "<source bridge='br0'/>",
}
MARK = (
    f"<metadata><a:domain xmlns:a='{NAMESPACE}'><a:nic mac='{MAC}' device='airtap-1'"
    " parent='wlan0' kind='ipvtap'>&lt;interface/&gt;</a:nic></a:domain></metadata>"
)


class Guest:
    """What a card asks of its virDomain as it is read."""

    def ID(self) -> int:
        return 7


def live(source: str, target: str, more: str = "") -> LiveNic:
    """The card of a guest."""
    kind = {"network": "direct"}.get(source, source)
    xml = f"""<domain type='kvm' id='7'><name>web</name><uuid>{UUID}</uuid>{MARK}<devices>
    <interface type='{kind}'>
      <mac address='{MAC}'/>
      {SOURCES[source]}
      {target}
      <model type='virtio'/>
      <driver queues='4'/>
      {more}
      <boot order='1'/>
      <alias name='net0'/>
      {PCI}
    </interface></devices></domain>""".encode()
    [card] = of_xml(Guest(), xml, scan_domain(xml))
    return card


PREPARED = ("ethernet", "<target dev='airtap-1' managed='no'/>")
MACVTAP0 = "<target dev='macvtap0'/>"


def lines(xml: str) -> list[str]:
    return [line.strip() for line in xml.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("source", "target", "kind", "parent", "prepared"),
    [
        ("network", MACVTAP0, "macvtap", "wlan0", False),
        ("direct", MACVTAP0, "macvtap", "wlan0", False),
        (*PREPARED, "ipvtap", "wlan0", True),
        ("ethernet", "<target dev='airtap-1'/>", "", "", False),
        ("ethernet", "<target dev='airtap-2' managed='no'/>", "", "", False),
        ("bridge", "<target dev='vnet0'/>", "", "", False),
        ("bridge", "", "", "", False),
    ],
)
def test_what_a_card_stands_on(
    source: str, target: str, kind: str, parent: str, prepared: bool
) -> None:
    card = live(source, target)
    assert ((card.kind, card.name) if card.replaceable else ("", "")) == (kind, parent)
    assert card.prepared == prepared
    assert (card.domain, card.uuid, card.run, card.mac, card.alias) == ("web", UUID, 7, MAC, "net0")
    assert f"dev='{card.target}'" in target or not target
    assert not card.down


def test_where_its_device_is() -> None:
    card = live("direct", MACVTAP0)
    tap = replace(ETH0, name="macvtap0", index=20, kind="macvtap", parent=ETH0.index)
    here = {"eth0": ETH0, "macvtap0": tap}
    assert stands_on(card, "eth0", here)
    assert not stands_on(card, "wlan0", here)
    assert not stands_on(card, "macvtap0", here)
    assert not stands_on(card, "eth0", {"eth0": ETH0})
    assert not stands_on(card, "eth0", {**here, "macvtap0": replace(tap, kind="tun")})
    assert not stands_on(card, "eth0", {**here, "macvtap0": replace(tap, parent_here=False)})


def test_its_link_down() -> None:
    for more in ("", "<link state='up'/>"):
        card = live("network", MACVTAP0, more)
        down = linked_down(card.xml)
        assert set(lines(down)) - {'<link state="down"/>'} == {
            line.replace("'", '"') for line in lines(card.xml) if "<link" not in line
        }
        assert replace(card, xml=down) != card
    assert live("network", MACVTAP0, "<link state='down'/>").down


@pytest.mark.parametrize(
    ("source", "target", "parent", "gone", "new"),
    [
        (
            *("network", MACVTAP0, ""),
            {"<interface type='direct'>", SOURCES["network"], MACVTAP0},
            {"<interface type='network'>", "<source network='wifi' portgroup='staff'/>"},
        ),
        ("direct", MACVTAP0, "", {MACVTAP0}, set()),
        ("direct", "<target dev='web0'/>", "", set(), set()),
        (*PREPARED, "", set(), set()),
        (
            *("network", MACVTAP0, "eth0"),
            {SOURCES["network"], MACVTAP0},
            {"<source dev='eth0' mode='vepa'/>"},
        ),
        (
            *("direct", MACVTAP0, "eth0"),
            {SOURCES["direct"], MACVTAP0},
            {"<source dev='eth0' mode='bridge'/>"},
        ),
        (*PREPARED, "eth0", set(), set()),
    ],
)
def test_what_is_plugged_in(
    source: str, target: str, parent: str, gone: set[str], new: set[str]
) -> None:
    """All else stays: what the guest sees of its card."""
    card = live(source, target, "<link state='down'/>")
    before = set(lines(card.xml))
    after = {line.replace('"', "'") for line in lines(new_interface(card, parent))}
    assert (before - after, after - before) == (gone, new)


def test_the_place_in_its_guest() -> None:
    card = live("direct", MACVTAP0)
    assert address(card.xml) == address(new_interface(card, "eth0"))
    assert address(card.xml)["slot"] == "0x03"
    assert address("<interface/>") == {}


def test_the_way_back() -> None:
    card = live("direct", MACVTAP0)
    plan = entry_to_move(card, "eth0", {"macvtap0": replace(ETH0, name="macvtap0", index=20)})
    assert (plan.parent, plan.old, plan.was) == ("eth0", card, 20)
    assert plan.back == JournalEntry(card, "wlan0", new_interface(card), None)
    assert entry_to_move(card, "eth0", {}).was == 0


@pytest.mark.parametrize(
    ("nic", "follows"),
    [
        (Nic(1, MAC, "macvtap", "wlan0", connected=True), True),
        (Nic(1, MAC, "ipvtap", "wlan0", prepared=True, connected=True), True),
        (Nic(1, MAC, "macvtap", "laptop", prepared=True, connected=True), False),
        (Nic(1, MAC, "network", "wifi", connected=True), False),
        (Nic(1, MAC, "macvtap", "wlan0"), False),
    ],
)
def test_whose_definition_follows(nic: Nic, follows: bool) -> None:
    settings = Config(aliases={"laptop": ("eth0", "wlan0")})
    assert _follows(nic, settings) is follows


# With libvirt's test driver, which has a guest "test" that runs.


@pytest.fixture
def guest() -> Iterator[Any]:
    with connected("test:///default") as connection:
        guest = connection.lookupByName("test")
        yield guest
        if not guest.isActive():
            guest.create()


def read(guest: Any) -> list[JournalEntry]:
    return hotplug_journal.read(guest, scan_domain(guest.XMLDesc().encode()))


def test_notes(guest: Any) -> None:
    assert read(guest) == []
    assert not hotplug_journal.write(guest, MAC, None)
    ours = replace(live(*PREPARED), guest=guest)
    theirs = replace(live("network", MACVTAP0), guest=guest)
    theirs = replace(theirs, mac=MAC[:-1] + "2", xml=theirs.xml.replace(MAC, MAC[:-1] + "2"))
    first = JournalEntry(ours, "wlan0", new_interface(ours), ours)
    second = JournalEntry(theirs, "eth0", new_interface(theirs, "eth0"), theirs, 20)
    assert not hotplug_journal.write(guest, ours.mac, first)
    assert not hotplug_journal.write(guest, theirs.mac, second)
    assert hotplug_journal.write(guest, ours.mac, first)
    found = {plan.nic.mac: plan for plan in read(guest)}
    assert found.keys() == {ours.mac, theirs.mac}
    for plan in (first, second):
        again = found[plan.nic.mac]
        assert (again.parent, again.xml, again.was, again.old) == (
            *(plan.parent, plan.xml, plan.was, None),
        )
        assert (again.nic.kind, again.nic.prepared, again.nic.target) == (
            *(plan.nic.kind, plan.nic.prepared, plan.nic.target if plan is first else ""),
        )
    assert hotplug_journal.write(guest, ours.mac, None)
    assert hotplug_journal.write(guest, theirs.mac, None)
    assert read(guest) == []


@pytest.mark.parametrize(
    "note",
    [
        "<card/>",
        "<card mac='x' was='0'>no XML</card>",
        f"<card mac='{MAC}' was='0'>&lt;interface/&gt;&lt;interface/&gt;</card>",
        f"<card mac='{MAC}' was='soon'>&lt;interface/&gt;</card>",
    ],
)
def test_nonsense_in_a_note(guest: Any, note: str) -> None:
    """Whoever may define a guest may write there."""
    guest.setMetadata(2, f"<cards>{note}</cards>", "x", "urn:airtap:replug:1", 1)
    assert "urn:airtap:replug:1" in guest.XMLDesc()
    assert read(guest) == []


def test_a_mark_names_the_new_parent(guest: Any) -> None:
    nic = "<nic mac='{}' device='airtap-{}' parent='wlan0' kind='ipvtap'>&lt;interface/&gt;</nic>"
    ours = f"<domain>{nic.format(MAC, 1)}{nic.format(MAC, 2)}</domain>"
    settings = Config(aliases={"wlan0": ("eth0", "wlan1")})
    for aliases, parent in ((settings, "wlan0"), (Config(), "eth0")):
        guest.setMetadata(2, ours, "airtap", NAMESPACE, 1)
        hotplug_journal.update_metadata(replace(live(*PREPARED), guest=guest), "eth0", aliases)
        marks = scan_domain(guest.XMLDesc().encode()).nic_metadata
        assert [mark.parent for mark in marks] == [parent, "wlan0"]
        assert {(mark.mac, mark.kind, mark.original) for mark in marks} == {
            *[(MAC, "ipvtap", "<interface/>")],
        }


def test_what_is_left_after_a_signal(guest: Any) -> None:
    ended = Event()
    ended.set()
    card = replace(live(*PREPARED), guest=guest)
    [problem] = live_nics.renew([card], ended)
    assert problem and problem.code == "interrupted"
    todo = Replacement(Config(), 10, ended, print)
    [problem] = todo.carry_out([JournalEntry(card, "eth0", card.xml, card)])
    assert problem and problem.code == "interrupted"
    assert read(guest) == []


def test_what_takes_too_long_is_left_alone() -> None:
    never = Event()
    events = [never, Event(), never, Event()]
    for event in events[1::2]:
        event.set()
    done = []

    def wait(event: Event) -> None:
        event.wait()
        done.append(event)

    began = time.monotonic()
    at_once(wait, events, 1)
    assert 1 <= time.monotonic() - began < 10
    assert set(done) == set(events[1::2])
    never.set()


def test_a_guest_that_ends_meanwhile(guest: Any) -> None:
    guest.destroy()
    card = replace(live("network", MACVTAP0), guest=guest)
    [problem] = live_nics.renew([card], Event())
    assert isinstance(problem, live_nics.Ended)


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["airtap", "domain", *argv])
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    return cli.main()


@pytest.mark.parametrize(
    ("argv", "status", "out", "err"),
    [
        (("renew",), 0, "no running guest has a network card on a macvtap or ipvtap\n", ""),
        (("renew", "--parent", "lo"), 0, "no running guest has a network card on lo\n", ""),
        (("renew", "--parent", "no"), 1, "", "airtap: there is no network device no; see: ip link"),
        (("renew", "no"), 1, "", "there is no domain no at test:///default"),
        (("replug",), 0, "no running guest has lost a network card\n", ""),
        (("replug", "--parent", "lo"), 0, "no running guest has lost a network card on lo\n", ""),
        (("replug", "--parent", "no"), 1, "", "there is no network device no"),
        (("move", "no", "--parent", "lo"), 1, "", "there is no domain no at test:///default"),
        (("move", "test", "--parent", "lo"), 1, "", "of domain test is of type network, not on a"),
    ],
)
def test_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    status: int,
    out: str,
    err: str,
) -> None:
    assert run(monkeypatch, *argv) == status
    said = capsys.readouterr()
    assert said.out == out
    assert err in said.err
    assert bool(said.err) == bool(err)


@pytest.mark.parametrize("length", ["soon", "-1", "nan", "3601"])
def test_a_timeout_that_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], length: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "replug", "--timeout", length)
    assert "argument --timeout: must be 0 to 3600 seconds" in capsys.readouterr().err


def test_another_host(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("airtap.uris.is_remote", lambda _: True)
    for argv in (("renew",), ("replug",), ("move", "test", "--parent", "lo")):
        assert run(monkeypatch, *argv) == 1
        assert "is another host's libvirt" in capsys.readouterr().err


def test_signals_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert run(monkeypatch, "renew") == 0
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_card_of_another_kind() -> None:
    card = live("bridge", "<target dev='vnet0'/>")
    with pytest.raises(Problem, match="is of type bridge, not on a macvtap or ipvtap"):
        expect_fit(card, "lo", None, Config())


def test_another_that_replaces_cards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRTAP_SOCKET", str(tmp_path / "sock"))
    monkeypatch.setattr("airtap.cli.commands.live._BUSY_S", 0.3)
    assert run(monkeypatch, "replug") == 0
    with open(tmp_path / "sock.replug") as lock:
        assert os.fstat(lock.fileno()).st_mode & 0o777 == 0o600
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(monkeypatch, "replug") == run(monkeypatch, "move", "test", "--parent", "lo") == 1
        said = capsys.readouterr().err.splitlines()
        assert "waiting up to 0.3 s for another airtap" in said[0]
        assert "another airtap is replacing network cards; try again" in said[1]
        assert run(monkeypatch, "renew") == 0
    assert run(monkeypatch, "replug") == 0

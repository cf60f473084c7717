"""airtap domain renew, replug and move, with guests that run Linux and keep their leases."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import libvirt
import pytest
from lxml import etree

from airtap.ipc import protocol
from lab.airtap import BIN, Airtapd
from lab.domains import (
    GUEST_MAC,
    booted,
    connected,
    defined,
    direct_card,
    lease,
    network_card,
)
from lab.lan import SLOWNESS, Lan, Subnet, second_lan, slaac_address, wait_for
from lab.libvirt import Libvirtd, domain_xml
from lab.linux import leases
from lab.sandbox import command, host_links
from tests.libvirt.test_hooks import DEVICE, define_wifi, prepared_card

BOTH = '[parents.up0]\nmacnat = "on"\n[parents.up1]\nmacnat = "on"\n'
INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE

# What airtap makes, libvirt of its own accord, and libvirt for a network.
CARDS = {
    "network": (network_card("wifi"), ""),
    "direct": (direct_card("up0"), ""),
    "prepared": prepared_card(),
}


@pytest.fixture
def airtapd(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> Iterator[Airtapd]:
    """An airtapd with MAC NAT on up0 and up1, which finds other guests than these."""
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    with Airtapd(config=BOTH, socket=protocol.DEFAULT_SOCKET) as daemon:
        yield daemon
        print(daemon.log())  # shown with a test that fails


@pytest.fixture
def other() -> Iterator[Lan]:
    """A second LAN, behind up1."""
    with second_lan(one_mac=True) as lan:
        yield lan
        assert lan.foreign_frames() == 0


@contextmanager
def guest_with(libvirtd: Libvirtd, kind: str, *, linux: bool = True) -> Iterator[Any]:
    """A transient guest with a card of CARDS."""
    define_wifi(libvirtd)
    interface, mark = CARDS[kind]
    serial = libvirtd.serial_file("guest")
    xml = domain_xml("guest", GUEST_MAC, serial, interface, linux=linux)
    with connected(libvirtd) as connection:
        domain = connection.createXML(xml.replace("</name>", f"</name>{mark}", 1))
        try:
            yield domain
        finally:
            print(libvirtd.serial("guest"))
            domain.destroy()


def airtap(libvirtd: Libvirtd, *argv: str) -> str:
    """What a command that succeeds says; on stderr it may tell that it waits."""
    done = libvirtd.airtap("domain", *argv)
    assert done.returncode == 0, done.stderr
    assert all("waiting up to" in line for line in done.stderr.splitlines())
    return done.stdout


def airtap_argv(action: str, libvirtd: Libvirtd) -> list[str]:
    return [str(BIN / "airtap"), "domain", action, "--connect", libvirtd.uri]


def refusal(libvirtd: Libvirtd, *argv: str) -> str:
    """The line with which a command fails, after what it tells of its waiting."""
    done = libvirtd.airtap("domain", *argv)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def cards(domain: Any) -> list[str]:
    """What the guest sees of its cards: all but where they are attached to."""
    found = etree.fromstring(domain.XMLDesc()).findall("devices/interface")
    for card in found:
        card.attrib.clear()
        for name in ("source", "target"):
            for element in card.findall(name):
                card.remove(element)
    parser = etree.XMLParser(remove_blank_text=True)
    texts = [etree.tostring(card, with_tail=False) for card in found]
    return [etree.tostring(etree.fromstring(text, parser)).decode() for text in texts]


def marked(domain: Any) -> list[str]:
    """What there is in its metadata."""
    found = etree.fromstring(domain.XMLDesc()).findall("metadata/*")
    return [etree.tostring(element).decode() for element in found]


def leased(libvirtd: Libvirtd, count: int) -> str:
    """Wait until the guest has told so many leases; the last address."""
    told = wait_for(
        lambda: (found := leases(libvirtd.serial("guest"), GUEST_MAC))[count - 1 :] and found,
        30,
        f"lease {count} of the guest",
    )
    assert len(told) == count
    return told[-1]


def reached(lan: Lan, address: str) -> None:
    wait_for(lambda: lan.ping(address), 10, f"the guest to answer at {address}")
    if lan.subnet == Subnet():
        wait_for(lambda: lan.ping(slaac_address(GUEST_MAC)), 10, "the guest to answer by IPv6")


def gone_and_back(lan: Lan) -> None:
    """The uplink vanishes with all that stands on it, and comes back, as a new device."""
    command("ip", "link", "delete", lan.near)
    wait_for(lambda: not [name for name in host_links() if "tap" in name], 10, "it all to go")
    lan.close()
    lan.start()


# renew


@pytest.mark.parametrize("kind", ["direct"])
def test_a_guest_asks_anew(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd, kind: str) -> None:
    with guest_with(libvirtd, kind) as domain:
        address = booted(lan, libvirtd)
        before, asked = domain.XMLDesc(), lan.log().count("DHCPDISCOVER")
        told = airtap(libvirtd, "renew", "--parent", "up0")
        assert told == (
            f"domain guest: network card {GUEST_MAC}: link down and up,"
            " so that it asks for a new lease\n"
        )
        assert leased(libvirtd, 2) == address
        assert lan.log().count("DHCPDISCOVER") == asked + 1
        assert domain.XMLDesc() == before
        reached(lan, address)


def test_whose_links_are_left_alone(
    lan: Lan, other: Lan, airtapd: Airtapd, libvirtd: Libvirtd
) -> None:
    """Those on other uplinks, of other guests, and what somebody has taken down."""
    with guest_with(libvirtd, "direct", linux=False) as domain:
        nothing = "no running guest has a network card on {}\n"
        assert airtap(libvirtd, "renew", "--parent", "up1") == nothing.format("up1")
        told = refusal(libvirtd, "renew", "--parent", "up2")
        assert told == "airtap: there is no network device up2; see: ip link"
        assert "there is no domain web" in refusal(libvirtd, "renew", "web")
        assert GUEST_MAC in airtap(libvirtd, "renew", "guest")
        [card] = re.findall(r"<interface .*?</interface>", domain.XMLDesc(), re.DOTALL)
        down = card.replace("<model", "<link state='down'/><model")
        domain.updateDeviceFlags(down, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        before = domain.XMLDesc()
        assert "<link state='down'/>" in before
        assert airtap(libvirtd, "renew") == nothing.format("a macvtap or ipvtap")
        assert domain.XMLDesc() == before


def test_many_at_once(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """Twenty cards are down for a second, and not each for a second of its own."""
    define_wifi(libvirtd)
    root = etree.fromstring(
        domain_xml("guest", GUEST_MAC, libvirtd.serial_file("guest"), network_card("wifi"))
    )
    for number in range(2, 21):
        card = etree.fromstring(network_card("wifi"))
        etree.SubElement(card, "mac", address=f"{GUEST_MAC[:-2]}{number:02x}")
        root.find("devices").append(card)
    with connected(libvirtd) as connection:
        domain = connection.createXML(etree.tostring(root, encoding="unicode"))
        try:
            before = domain.XMLDesc()
            began = time.monotonic()
            assert len(airtap(libvirtd, "renew").splitlines()) == 20
            assert time.monotonic() - began < 10 * SLOWNESS
            assert domain.XMLDesc() == before
        finally:
            domain.destroy()


def test_a_guest_that_hangs(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """It keeps nobody else's link down."""
    xml = domain_xml("hung", f"{GUEST_MAC[:-1]}2", libvirtd.serial_file("hung"), direct_card("up0"))
    with guest_with(libvirtd, "direct", linux=False) as domain, connected(libvirtd) as connection:
        hung = connection.createXML(xml)
        before = domain.XMLDesc()
        os.kill(libvirtd.guest_pid("hung"), signal.SIGSTOP)
        renewing = subprocess.Popen(airtap_argv("renew", libvirtd))
        try:
            down = "<link state='down'/>"
            wait_for(lambda: down in domain.XMLDesc(), 20, "the link to be down", interval=0.01)
            wait_for(lambda: domain.XMLDesc() == before, 10, "the link to be up again")
            assert renewing.poll() is None
        finally:
            os.kill(libvirtd.guest_pid("hung"), signal.SIGCONT)
            assert renewing.wait(20) == 0
            hung.destroy()


# What is patient for half a minute is so for some seconds here.
IMPATIENT = """
import sys
from airtap import cli
from airtap.libvirt import connection, live_nics
connection._OPEN_S, connection._KEEPALIVE_S = 5, 1
"""
ASKS = """
with connection.connected(sys.argv[1]) as connected:
    guest = live_nics.find(connected, "guest")
    print("connected", flush=True)
    sys.stdin.read()
    with live_nics.unless_ended(guest), connection.problems("ask"):
        guest.XMLDesc()
"""


def test_a_daemon_that_hangs(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """Who has begun ends, who begins ends, and Ctrl-C ends whom one does not want to wait for."""
    pipe = subprocess.PIPE
    start = partial(subprocess.Popen[str], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    with guest_with(libvirtd, "direct", linux=False):
        python = [str(BIN / "python"), "-c"]
        amid = start([*python, IMPATIENT + ASKS, libvirtd.uri])
        assert amid.stdout and amid.stdout.readline() == "connected\n"
        os.kill(libvirtd.pid, signal.SIGSTOP)
        try:
            argv = airtap_argv("list", libvirtd)
            begins = start([*python, f"{IMPATIENT}sys.exit(cli.main())", *argv[1:]])
            interrupted = start(argv)
            time.sleep(3 * SLOWNESS)
            assert interrupted.poll() is None
            interrupted.send_signal(signal.SIGINT)
            for process, said in (
                (interrupted, ""),
                (begins, "did not answer within 5 s"),
                (amid, "errors.Problem: cannot ask: internal error: "),
            ):
                _, complaint = process.communicate(timeout=60 * SLOWNESS)
                assert process.returncode and said in complaint, complaint
            assert interrupted.returncode == 128 + signal.SIGINT
        finally:
            os.kill(libvirtd.pid, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_halfway(
    lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd, number: signal.Signals
) -> None:
    with guest_with(libvirtd, "direct", linux=False) as domain:
        before = domain.XMLDesc()
        renewing = subprocess.Popen(airtap_argv("renew", libvirtd))
        down = "<link state='down'/>"
        wait_for(lambda: down in domain.XMLDesc(), 20, "the link to be down", interval=0.01)
        renewing.send_signal(number)
        renewing.wait(20)
        assert domain.XMLDesc() == before


# replug


@pytest.mark.parametrize("kind", ["direct", "prepared"])
def test_the_uplink_comes_back(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd, kind: str) -> None:
    nothing = "no running guest has lost a network card"
    with guest_with(libvirtd, kind) as domain:
        booted(lan, libvirtd)
        assert airtap(libvirtd, "replug", "--parent", "up0") == f"{nothing} on up0\n"
        before, marks = cards(domain), marked(domain)
        gone_and_back(lan)
        told = airtap(libvirtd, "replug", "--parent", "up0", "--timeout", "30")
        assert told == f"domain guest: network card {GUEST_MAC}: plugged in again\n"
        assert cards(domain) == before
        assert marked(domain) == marks
        address = leased(libvirtd, 2)
        reached(lan, address)
        [shown] = airtapd.guests()
        assert (shown["mac"], shown["owner"]["domain"]) == (GUEST_MAC, "guest")
        assert airtap(libvirtd, "replug") == f"{nothing}\n"
        # Once more: all that the next time needs is there again.
        gone_and_back(lan)
        airtap(libvirtd, "replug", "--timeout", "30")
        reached(lan, leased(libvirtd, 3))


def test_an_uplink_that_stays_away(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    with guest_with(libvirtd, "direct", linux=False) as domain:
        before = domain.XMLDesc()
        command("ip", "link", "delete", "up0")
        assert airtap(libvirtd, "replug") == "no running guest has lost a network card\n"
        assert "no network device up0" in refusal(libvirtd, "replug", "--parent", "up0")
        assert domain.XMLDesc() == before


@pytest.mark.parametrize("kind", ["network", "prepared"])
def test_a_guest_that_releases_nothing(
    lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd, kind: str
) -> None:
    """Its card comes back after its reset, when replug is run once more."""
    with guest_with(libvirtd, kind, linux=False) as domain:
        booted(lan, libvirtd)
        before, marks = cards(domain), marked(domain)
        gone_and_back(lan)
        began = time.monotonic()
        done = libvirtd.airtap("domain", "replug", "--timeout", "3")
        assert time.monotonic() - began < 15 * SLOWNESS
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines() == [
            f"airtap: domain guest: network card {GUEST_MAC}: waiting up to 3 s for the guest to"
            " release it",
            f"airtap: domain guest has not released its network card {GUEST_MAC} yet: it has been"
            " asked to, and will at its next reset; then airtap domain replug plugs the new one in",
        ]
        assert cards(domain) == before
        assert host_links() == {"lo", "up0"}
        assert "has not released" in refusal(libvirtd, "replug", "--timeout", "0")
        domain.reset()
        wait_for(lambda: not cards(domain), 10, "the card to go")
        assert "plugged in again" in airtap(libvirtd, "replug")
        assert cards(domain) == before
        assert marked(domain) == marks
        domain.reset()
        reached(lan, lease(lan, libvirtd))


def test_one_after_the_other(lan: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """As when airtapd and somebody else see to it at the same time."""
    with guest_with(libvirtd, "prepared") as domain:
        booted(lan, libvirtd)
        before = cards(domain)
        gone_and_back(lan)
        argv = [*airtap_argv("replug", libvirtd), "--timeout", "30"]
        several = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        said = [one.communicate()[0] for one in several]
        assert [one.returncode for one in several] == [0, 0, 0]
        assert "".join(said).count("plugged in again") == 1
        assert cards(domain) == before
        reached(lan, leased(libvirtd, 2))


# move


@pytest.mark.parametrize("kind", ["network", "prepared"])
def test_there_and_back(
    lan: Lan, other: Lan, airtapd: Airtapd, libvirtd: Libvirtd, kind: str
) -> None:
    with guest_with(libvirtd, kind) as domain:
        booted(lan, libvirtd)
        before = cards(domain)
        argv = ("move", "guest", "--timeout", "30", "--parent")
        told = airtap(libvirtd, *argv, "up1")
        assert told.splitlines() == [
            f"domain guest: network card {GUEST_MAC} is on macvtap up1 now",
            "it is transient: there is no definition that its next start would follow",
        ]
        assert cards(domain) == before
        reached(other, leased(libvirtd, 2))
        uplinks = {uplink["name"]: uplink["guests"] for uplink in airtapd.status()["uplinks"]}
        [shown] = uplinks["up1"]
        assert (shown["mac"], shown["owner"]["domain"]) == (GUEST_MAC, "guest")
        assert not uplinks["up0"]
        assert "is on up1 already" in airtap(libvirtd, *argv, "up1")
        # What it moved to, it is plugged into again.
        gone_and_back(other)
        airtap(libvirtd, "replug", "--timeout", "30")
        reached(other, leased(libvirtd, 3))
        airtap(libvirtd, *argv, "up0")
        assert cards(domain) == before
        reached(lan, leased(libvirtd, 4))
    assert host_links() == {"lo", "up0", "up1"}


@pytest.mark.parametrize(
    ("connect", "move", "next_start"),
    [
        ((), (), "network wifi again; to change that: airtap domain connect guest --nic"),
        (("--network", "wifi"), (), "network wifi again; to change that"),
        ((), ("--config",), "macvtap up1 too"),
        (("--parent", "up0"), (), "macvtap up1 too"),
    ],
)
def test_the_next_start(
    lan: Lan,
    other: Lan,
    airtapd: Airtapd,
    libvirtd: Libvirtd,
    connect: tuple[str, ...],
    move: tuple[str, ...],
    next_start: str,
) -> None:
    """It follows a card that airtap connected to an uplink, and no other."""
    define_wifi(libvirtd)
    before = direct_card("up0") if "wifi" in connect else network_card("wifi")
    with defined(libvirtd, before, linux=True) as domain:
        original = domain.XMLDesc(INACTIVE)
        if connect:
            airtap(libvirtd, "connect", "guest", *connect)
        domain.create()
        booted(lan, libvirtd)
        before = domain.XMLDesc(INACTIVE)
        argv = ("move", "guest", "--nic", GUEST_MAC, "--timeout", "30", "--parent", "up1")
        told = airtap(libvirtd, *argv, *move)
        assert f"its next start uses {next_start}" in told
        assert (domain.XMLDesc(INACTIVE) == before) is ("again" in next_start)
        domain.destroy()
        domain.create()
        booted(lan if "again" in next_start else other, libvirtd)
        if connect or move:
            airtap(libvirtd, "disconnect", "guest")
        assert domain.XMLDesc(INACTIVE) == original


def test_refusals(lan: Lan, other: Lan, airtapd: Airtapd, libvirtd: Libvirtd) -> None:
    """The guest's card is not touched, or is back where it was."""
    command("ip", "link", "add", "br9", "type", "bridge")
    try:
        with guest_with(libvirtd, "direct") as domain:
            address = booted(lan, libvirtd)
            before = domain.XMLDesc()
            for argv, why in (
                (("guest", "--parent", "no"), "there is no network device no"),
                (("guest", "--parent", "lo"), "lo carries no Ethernet frames"),
                (("guest", "--parent", "br9"), "br9 is a bridge"),
                (("web", "--parent", "up1"), "there is no domain web"),
                (("guest", "--nic", "2", "--parent", "up1"), "has no network card 2"),
            ):
                assert why in refusal(libvirtd, "move", *argv)
            assert domain.XMLDesc() == before
            reached(lan, address)
            seen = cards(domain)
            command(
                *("ip", "link", "add", "alone", "link", "up1", "type", "macvlan"),
                *("mode", "passthru"),
            )
            told = refusal(libvirtd, "move", "guest", "--parent", "up1", "--timeout", "30")
            assert told.startswith(f"airtap: cannot plug in domain guest: network card {GUEST_MAC}")
            assert told.endswith("; it is back on up0")
            assert cards(domain) == seen
            assert not marked(domain)
            reached(lan, leased(libvirtd, 2))
    finally:
        command("ip", "link", "delete", "br9")
    with defined(libvirtd, direct_card("up0")):
        assert "domain guest does not run" in refusal(libvirtd, "move", "guest", "--parent", "up1")


def test_a_move_that_the_guest_does_not_follow(
    lan: Lan, other: Lan, airtapd: Airtapd, libvirtd: Libvirtd
) -> None:
    """It goes on with the card that it has, and is moved by its reset and replug."""
    with guest_with(libvirtd, "prepared", linux=False) as domain:
        address = booted(lan, libvirtd)
        before = cards(domain)
        argv = ("move", "guest", "--parent", "up1", "--timeout", "1")
        assert "has not released its network card" in refusal(libvirtd, *argv)
        assert airtap(libvirtd, "replug") == "no running guest has lost a network card\n"
        reached(lan, address)
        assert DEVICE in host_links()
        domain.reset()
        wait_for(lambda: not cards(domain), 10, "the card to go")
        assert "plugged in again" in airtap(libvirtd, "replug", "--parent", "up1")
        assert cards(domain) == before
        domain.reset()
        reached(other, lease(other, libvirtd))
    assert host_links() == {"lo", "up0", "up1"}

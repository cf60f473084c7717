"""What is done with the examples of each section of the documentation."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt

from airtap import acl, config
from airtap.cli import parser
from airtap.ipc import protocol
from lab.airtap import answers, run_helper
from lab.domains import booted, connected, direct_card
from lab.examples import COMMANDS, SECTION, Example
from lab.guest import GUEST_UID
from lab.kernels import REPOSITORY
from lab.lan import BOOT_FILE, wait_for
from lab.libvirt import domain_xml
from lab.linux import leases
from tests.docs.host import ACL, Host

MAC = "52:54:00:0a:57:01"

# A command that is not run here: a test file that has it run, or the reason why no test does.
ELSEWHERE = {
    "make setup": "it has made what these tests run with",
    "make lint": "make test begins with it",
    "make test": "this is a part of it",
    "make test-fast": "of make test, whose first half this is",
    "make test-slow": "it takes hours",
    "make test-adversary": "tests/adversary, for as long as is asked for",
    "systemctl enable --now airtapd.socket": "the package does that; tests/install finds it done",
    "airtap parent 4addr wlan0 on": "tests/wifi/test_wifi_4addr.py",
    "virsh net-define wifi.xml": "the scene hands libvirt the file, and so does tests/libvirt",
    "virsh net-start wifi": "the scene does it without virsh, which airtap does not need",
    "virsh attach-device web nic.xml --live --config": "the scene does it, without virsh again",
}

DEMO = "make demo"  # on a LAN of its own, so it runs once, in the README's scene


def as_printed(host: Host, example: Example, uid: int = 0) -> str:
    """Run an example's commands, but for those of ELSEWHERE; what they print."""
    return "".join(host.run(c, uid) for c in example.commands if c not in ELSEWHERE)


def laptop(host: Host, *shown: Example) -> None:
    """On Wi-Fi, on a laptop that has no airtap yet."""
    assert [command for example in shown for command in example.commands] == COMMANDS


def qemu(host: Host, allow: Example, start: Example) -> None:
    as_printed(host, allow)
    boots(host, start)


def boots(host: Host, start: Example) -> None:
    """QEMU, as printed, by a user."""
    [command] = start.commands
    before = fetches(host)
    with host.running(command, GUEST_UID):
        wait_for(lambda: fetches(host) > before, 180, "the guest to boot")
        assert host.lan.ping(host.lan.leases()[MAC], timeout=10)


def fetches(host: Host) -> int:
    """How often a guest has got the LAN's boot file."""
    return len(re.findall(rf"sent \S*/{BOOT_FILE} to", host.lan.log()))


def session(host: Host, define: Example, card: Example) -> None:
    host.allow("wlan0")
    as_printed(host, define, GUEST_UID)
    session_guest(host, card.text)


def session_guest(host: Host, card: str) -> None:
    """A guest of the user's own libvirt, once that has read its settings."""
    host.session.stop()
    host.session.start()
    with connected(host.session) as connection:
        serial = host.session.serial_file("guest")
        guest = connection.createXML(domain_xml("guest", MAC, serial, card))
        try:
            booted(host.lan, host.session, MAC)
        finally:
            guest.destroy()


def look_around(host: Host, asked: Example, demo: Example) -> None:
    """The lab is no healthy host, and tests/doctor judges doctor."""
    host.allow("wlan0")
    trial, doctor, status = asked.commands
    host.run(trial)
    has_an_opinion(host, doctor)
    assert "wlan0" in host.run(status)
    show, check = demo.commands
    assert show == DEMO and check in ELSEWHERE
    assert "nothing is left" in host.run(f"cd {REPOSITORY}\n{show}")


def has_an_opinion(host: Host, doctor: str) -> str:
    """It has looked, whatever it says of the lab. Returns that."""
    said = host.run(f"{doctor} || [ $? = 1 -o $? = 3 ]")
    assert said and not said.startswith("airtap:")
    return said


def troubleshooting(host: Host, asked: Example) -> None:
    with connected(host.libvirtd) as connection:
        serial = host.libvirtd.serial_file("web")
        web = connection.defineXML(domain_xml("web", MAC, serial, direct_card("wlan0")))
        for command in asked.commands:
            has_an_opinion(host, command)
        web.undefine()


def move(host: Host, by: Example) -> None:
    with running_web(host):
        host.run(by.commands[0])
        wait_for(lambda: host.cable.leases().get(MAC), 60, "a lease on the cable's LAN")


def docking(host: Host, alias: Example, by: Example, mend: Example) -> None:
    assert config.load(host.file(alias.text)).aliases["dock"] == ("enp3s0", "wlan0")
    with running_web(host):
        as_printed(host, by)
        wait_for(lambda: host.cable.leases().get(MAC), 60, "a lease on the cable's LAN")
        renew, replug = mend.commands
        asked = host.cable.log().count("DHCPREQUEST")
        host.run(renew)
        wait_for(lambda: host.cable.log().count("DHCPREQUEST") > asked, 30, "it to ask again")
        host.run(replug)


def network_by_hand(host: Host, define: Example) -> None:
    as_printed(host, define)
    with connected(host.libvirtd) as connection:
        network = connection.networkDefineXML((host.directory / "wifi.xml").read_text())
        network.create()
        assert "wifi" in host.run("airtap network list")
        network.destroy()
        network.undefine()


def nic_by_hand(host: Host, attach: Example) -> None:
    as_printed(host, attach)
    nic = (host.directory / "nic.xml").read_text()
    with running_web(host), connected(host.libvirtd) as connection:
        web = connection.lookupByName("web")
        both = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
        web.attachDeviceFlags(nic, both)
        assert "52:54:00:12:34:57" in host.run("airtap status")


@contextmanager
def running_web(host: Host) -> Iterator[None]:
    """A guest called web on wlan0, whose system is Linux: it releases cards."""
    with connected(host.libvirtd) as connection:
        serial = host.libvirtd.serial_file("web")
        card = direct_card("wlan0")
        web = connection.defineXML(domain_xml("web", MAC, serial, card, linux=True))
        web.create()
        try:
            wait_for(lambda: leases(host.libvirtd.serial("web"), MAC), 180, "web's lease")
            yield
        finally:
            web.destroy()
            web.undefine()


def airtaps_page(
    host: Host, define: Example, own: Example, connect: Example, by: Example, status: Example
) -> None:
    assert "wifi" in as_printed(host, define)
    host.allow("wlan0")
    assert "session" in as_printed(host, own, GUEST_UID)
    with connected(host.libvirtd) as connection:
        serial = host.libvirtd.serial_file("web")
        web = connection.defineXML(domain_xml("web", MAC, serial, direct_card("wlan0")))
        before = web.XMLDesc()
        assert "web" in as_printed(host, connect)
        assert web.XMLDesc() == before
        web.undefine()
    move(host, by)
    assert "wlan0" in as_printed(host, status)


def airtapds_page(host: Host, systemd: Example, foreground: Example, devices: Example) -> None:
    assert systemd.commands[0] in ELSEWHERE
    host.airtapd.terminate()
    host.airtapd.wait()
    [command] = foreground.commands
    with host.running(command):
        wait_for(lambda: answers(protocol.DEFAULT_SOCKET), 60, "airtapd's socket to answer")
        host.allow("wlan0")
        with run_helper(["--br=wlan0"], program="/usr/bin/airtap-bridge-helper") as guest:
            assert guest.device in as_printed(host, devices)
        wait_for(lambda: as_printed(host, devices) == "", 10, "the guest's device to go")


def helpers_page(host: Host, learned: Example, told: Example, rules: Example) -> None:
    host.allow("wlan0")
    boots(host, learned)
    boots(host, told)
    assert_rules(host, rules.text)


def assert_rules(host: Host, text: str) -> None:
    """As printed, and where its first line says."""
    assert text.startswith(f"# {ACL}\n")
    include = Path("/etc/qemu/bridge.conf")
    include.parent.mkdir(exist_ok=True)
    include.write_text("allow br0\n")
    ACL.write_text(text)
    rules = acl.load(str(ACL))
    assert rules.allows({"enp3s0"}) and rules.allows({"br0"}) and not rules.allows({"br-dmz"})


def configuration(host: Host, example: Example) -> None:
    loaded = config.load(host.file(example.text))
    assert loaded.parent("enp3s0").kind == "ipvtap" and loaded.limits.devices == 64


def json_fields(host: Host, example: Example) -> None:
    """The same fields as the real answer's, down to the guests'."""
    host.allow("wlan0")
    with run_helper(["--br=wlan0"], program="/usr/bin/airtap-bridge-helper"):
        real = json.loads(host.run("airtap status --json"))
    assert_alike(json.loads(example.text), real)


def doctors_json(host: Host, example: Example) -> None:
    assert_alike(json.loads(example.text), json.loads(has_an_opinion(host, "airtap doctor --json")))


def assert_alike(printed: Any, real: Any) -> None:
    """Two JSON documents consist of the same names; of lists by the first element."""
    if isinstance(printed, dict) and isinstance(real, dict):
        assert printed.keys() == real.keys()
        for key in printed:
            assert_alike(printed[key], real[key])
    elif isinstance(printed, list) and printed and real:
        assert_alike(printed[0], real[0])


def hacking(host: Host, make: Example, single: Example) -> None:
    assert {command for command in make.commands if command != DEMO} <= set(ELSEWHERE)
    for command in single.commands:
        assert "passed" in host.run(f"cd {REPOSITORY}\n{command} -p no:cacheprovider")


def machines(host: Host, example: Example) -> None:
    """A test that there is, and passes."""
    assert example.text == (REPOSITORY / "tests/wifi/test_first_guest.py").read_text()


def synopsis(host: Host, shown: Example) -> None:
    """What can be typed, with brackets: of commands and options that exist."""
    for command in shown.commands:
        program, *words = command.split()
        assert program == "airtap"
        assert_known(parser.build(), words, command)


def assert_known(parser: argparse.ArgumentParser, words: list[str], where: str) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            name, *rest = words
            assert name in action.choices, where
            if rest:
                assert_known(action.choices[name], rest, where)
            return
    options = {name for action in parser._actions for name in action.option_strings}
    assert {word.strip("[]") for word in words if word.strip("[]").startswith("-")} <= options, (
        where
    )


def elsewhere(host: Host, *shown: Example) -> None:
    """All of it."""
    assert {c for example in shown for c in example.commands} <= set(ELSEWHERE)


Scene = Callable[..., None]
SCENES: dict[tuple[str, str], Scene] = {
    ("README.md", SECTION): laptop,
    ("README.md", "QEMU's command line"): qemu,
    ("README.md", "A user's own libvirt: unprivileged virt-manager, GNOME Boxes"): session,
    ("README.md", "Does it work?"): look_around,
    ("HACKING.md", "Working on airtap"): hacking,
    ("HACKING.md", "Machines"): machines,
    ("docs/laptop.md", "Docking"): docking,
    ("docs/laptop.md", "4-address mode"): elsewhere,
    ("docs/troubleshooting.md", "Troubleshooting"): troubleshooting,
    ("docs/troubleshooting.md", "For programs"): doctors_json,
    ("docs/status.md", "What `airtap status --json` prints"): json_fields,
    ("docs/try.md", "airtap try"): synopsis,
    ("docs/xml-templates.md", "A network by hand"): network_by_hand,
    ("docs/xml-templates.md", "A NIC by hand"): nic_by_hand,
    ("docs/man/airtap.rst", "EXAMPLES"): airtaps_page,
    ("docs/man/airtapd.rst", "EXAMPLES"): airtapds_page,
    ("docs/man/airtap-bridge-helper.rst", "EXAMPLES"): helpers_page,
    ("docs/man/airtap.toml.rst", "EXAMPLES"): configuration,
}

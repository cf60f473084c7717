"""Every example in the documentation, run or parsed for real, as it is printed.

A shell example runs command by command on a Host, in the scene of its section. What cannot be run there
stands in ELSEWHERE, with the test that does run it, or the reason why there is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airtap import acl, config, wire
from lab.airtap import answers, run_helper
from lab.guest import GUEST_UID
from lab.lan import wait_for
from lab.libvirt import domain_xml
from lab.linux import leases
from tests.docs.examples import ALL, REPOSITORY, Example
from tests.docs.host import ACL, Host
from tests.libvirt.conftest import booted, connected, direct_card

MAC = "52:54:00:12:34:56"

# A command that is not run here: a test file that has it run, or the reason why no test does.
ELSEWHERE = {
    "make deb": "tests/install",
    "apt install ./dist/airtap_*.deb": "tests/install",
    "make demo": "it is tried by hand: a minute for what tests/qemu and tests/libvirt check",
    "systemctl enable --now airtapd.socket": "tests/install",
    "airtap parent 4addr wlan0 on": "tests/wifi/test_wifi_4addr.py",
}


def as_printed(host: Host, example: Example, uid: int = 0) -> str:
    """Run an example's commands, but for those of ELSEWHERE; what they print."""
    return "".join(host.run(c, uid) for c in example.commands if c not in ELSEWHERE)


def virt_manager(host: Host, define: Example, install: Example, connect: Example) -> None:
    as_printed(host, define)
    as_printed(host, install)
    [(mac, address)] = wait_for(lambda: list(host.lan.leases().items()), 120, "a lease") or []
    wait_for(lambda: host.lan.fetched(address), 60, "the guest to boot")
    with connected(host.libvirtd) as connection:
        web = connection.lookupByName("web")
        assert mac in web.XMLDesc()
        web.destroy()
        card = re.compile("<source network='wifi'/>")
        web.undefine()
        connection.defineXML(card.sub("<source network='default'/>", web.XMLDesc()))
        assert "+      <source network='wifi'/>" in as_printed(host, connect)
        connection.lookupByName("web").undefine()


def qemu(host: Host, allow: Example, start: Example) -> None:
    as_printed(host, allow)
    boots(host, start)


def boots(host: Host, start: Example) -> None:
    """QEMU, as printed, by a user."""
    [command] = start.commands
    with host.running(command, GUEST_UID):
        address = host.lan.wait_lease(MAC, 120)
        wait_for(lambda: host.lan.fetched(address), 60, "the guest to boot")


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
    """Of doctor: that it has an opinion. The lab is no healthy host, and tests/doctor judges it."""
    trial, doctor, status = asked.commands
    host.run(trial)
    host.run(f"{doctor} || [ $? -ne 2 ]")
    assert "wlan0" in host.run(status)
    assert demo.commands == ["make demo"]


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
        wait_for(lambda: answers(wire.DEFAULT_SOCKET), 60, "airtapd's socket to answer")
        host.allow("wlan0")
        with run_helper(["--br=wlan0"], program="/usr/bin/airtap-bridge-helper") as guest:
            assert guest.device in as_printed(host, devices)
        wait_for(lambda: as_printed(host, devices) == "", 10, "the guest's device to go")


def helpers_page(host: Host, learned: Example, told: Example, rules: Example) -> None:
    host.allow("wlan0")
    boots(host, learned)
    wait_for(lambda: "guests" in host.run("airtap status"), 10, "the guest's device to go")
    host.lan.log()
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
    assert shape(json.loads(example.text)) == shape(real)


def shape(value: Any) -> Any:
    """What a JSON document consists of: names, and of lists the first element."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


def elsewhere(host: Host, *shown: Example) -> None:
    """All of it."""
    assert {c for example in shown for c in example.commands} <= set(ELSEWHERE)


Scene = Callable[..., None]
SCENES: dict[tuple[str, str], Scene] = {
    ("README.md", "virt-manager, on a laptop with Wi-Fi"): virt_manager,
    ("README.md", "QEMU's command line"): qemu,
    ("README.md", "A user's own libvirt: unprivileged virt-manager, GNOME Boxes"): session,
    ("README.md", "Does it work?"): look_around,
    ("docs/laptop.md", "Docking"): docking,
    ("docs/laptop.md", "4-address mode"): elsewhere,
    ("docs/status.md", "What `airtap status --json` prints"): json_fields,
    ("docs/man/airtap.rst", "EXAMPLES"): airtaps_page,
    ("docs/man/airtapd.rst", "EXAMPLES"): airtapds_page,
    ("docs/man/airtap-bridge-helper.rst", "EXAMPLES"): helpers_page,
    ("docs/man/airtap.toml.rst", "EXAMPLES"): configuration,
}
# Drawings and transcripts, which nobody types.
DRAWN = "text"


def placed() -> dict[tuple[str, str], list[Example]]:
    """Examples by where they stand, in order."""
    places: dict[tuple[str, str], list[Example]] = {}
    for example in ALL:
        if example.language != DRAWN:
            places.setdefault(example.place, []).append(example)
    return places


PLACES = placed()


def test_no_example_escapes() -> None:
    assert set(PLACES) == set(SCENES)
    assert {e.language for e in ALL} <= {DRAWN, "sh", "toml", "conf", "xml", "json"}
    drawn = [e for e in ALL if e.language == DRAWN]
    commands = re.compile(r"^\s*[$#]? ?(airtapd?|make|apt|systemctl|qemu-\S+|virsh)\b", re.MULTILINE)
    assert not [e.place for e in drawn if commands.search(e.text)]


def test_what_runs_elsewhere_is_printed_and_has_a_reason() -> None:
    printed = {c for e in ALL if e.language == "sh" for c in e.commands}
    assert set(ELSEWHERE) <= printed
    for reason in ELSEWHERE.values():
        assert " " in reason or (REPOSITORY / reason).exists()


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host
        assert host.lan.foreign_frames() == 0


@pytest.mark.parametrize("place", sorted(PLACES), ids="-".join)
def test_examples(host: Host, place: tuple[str, str]) -> None:
    SCENES[place](host, *PLACES[place])

"""What libvirt's hooks ask airtapd for, on its socket."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.airtap import Airtapd, run_helper
from lab.lan import Lan, wait_for
from lab.links import addresses, link
from lab.sandbox import command, host_links

Json = dict[str, Any]

MAC = "52:54:00:00:00:01"
UUID = "0c0ffee0-0000-4000-8000-000000000001"
DEVICE = "airtap-0badcafe"
CARD = {"device": DEVICE, "mac": MAC, "uuid": UUID, "domain": "web server/\x1b[31mü"}
PREPARE = {"op": "create-device", **CARD, "parent": "up0", "kind": "macvtap"}
RELEASE = {"op": "release", "device": DEVICE, "uuid": UUID}


@contextmanager
def reloaded(airtapd: Airtapd, more: str) -> Iterator[None]:
    """airtapd with more configuration, started anew."""
    airtapd.stop()
    airtapd.config.write_text(airtapd.config.read_text() + more)
    airtapd.start()
    yield


def ask(airtapd: Airtapd, request: Json) -> Json:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(airtapd.socket)
        peer.settimeout(10)
        peer.send(json.dumps(request).encode())
        answer: Json = json.loads(peer.recv(65536))
        return answer


def problem(airtapd: Airtapd, request: Json) -> str:
    answer = ask(airtapd, request)
    assert answer["ok"] is False, answer
    return str(answer["problem"])


def test_a_device_from_prepare_to_release(lan: Lan, airtapd: Airtapd) -> None:
    assert ask(airtapd, PREPARE) == {"ok": True}
    made = link(DEVICE)
    assert (made["address"], made["linkinfo"]["info_kind"]) == (MAC, "macvtap")
    assert {"UP", "ALLMULTI"} <= set(made["flags"])
    assert addresses(DEVICE) == []
    [shown] = airtapd.guests()
    assert shown["owner"] == {"uid": 0, "pid": None, "domain": CARD["domain"], "uuid": UUID}
    assert "\x1b" not in airtapd.airtap("status").stdout
    assert airtapd.guests()[0]["device"] == DEVICE
    airtapd.kill()
    airtapd.start()
    assert airtapd.guests()[0]["owner"] == shown["owner"]  # though nobody holds its tap
    assert problem(airtapd, RELEASE | {"uuid": UUID[:-1] + "2"}) == "not-ours"
    assert DEVICE in host_links()
    assert ask(airtapd, RELEASE) == {"ok": True}
    assert DEVICE not in host_links()
    assert problem(airtapd, RELEASE) == "no-such-device"


def test_a_leftover_of_another_kind_makes_room_first(lan: Lan, airtapd: Airtapd) -> None:
    """It would hold the parent against the kind that is configured by now."""
    ask(airtapd, PREPARE)
    with reloaded(airtapd, '[parents.up0]\nkind = "macvtap"\nmode = "passthru"\n'):
        assert ask(airtapd, PREPARE) == {"ok": True}
        assert link(DEVICE)["linkinfo"]["info_data"]["mode"] == "passthru"
        assert ask(airtapd, RELEASE) == {"ok": True}


def test_preparing_again_replaces_it(lan: Lan, airtapd: Airtapd) -> None:
    ask(airtapd, PREPARE)
    first = link(DEVICE)["ifindex"]
    other = PREPARE | {"mac": "52:54:00:00:00:02"}
    assert problem(airtapd, other | {"uuid": UUID[:-1] + "2"}) == "name-taken"
    assert link(DEVICE)["ifindex"] == first
    assert ask(airtapd, other) == {"ok": True}
    assert link(DEVICE)["ifindex"] != first
    assert len(airtapd.guests()) == 1
    assert ask(airtapd, RELEASE) == {"ok": True}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"parent": "nothere"}, "no-such-device"),
        ({"parent": "lo"}, "bad-parent"),
        ({"parent": "a/b"}, "bad-name"),
        ({"device": "airtap/x"}, "bad-name"),
        ({"device": "up0"}, "name-taken"),
        ({"device": "x" * 16}, "bad-name"),
        ({"mac": "52:54:00:00:00"}, "bad-mac"),
        ({"mac": "53:54:00:00:00:01"}, "bad-mac"),
        ({"uuid": "0c0ffee0"}, "bad-uuid"),
        ({"uuid": UUID.upper() + " domain=x"}, "bad-uuid"),
        ({"kind": "tap"}, "bad-kind"),
        ({"mac": None}, "bad-message"),
        ({"more": "x"}, "bad-message"),
    ],
)
def test_what_cannot_be_prepared(lan: Lan, airtapd: Airtapd, changes: Json, code: str) -> None:
    assert problem(airtapd, PREPARE | changes) == code
    assert host_links() == {"lo", "up0"}
    assert ask(airtapd, {"op": "status"}) is not None


def test_a_guests_mac_is_its_own(lan: Lan, airtapd: Airtapd) -> None:
    assert problem(airtapd, PREPARE | {"mac": link("up0")["address"]}) == "mac-in-use"
    with airtapd.attach("up0", MAC):
        assert problem(airtapd, PREPARE) == "mac-in-use"
        assert DEVICE not in host_links()


def test_the_limit_in_all_counts_libvirts_guests(lan: Lan, airtapd: Airtapd) -> None:
    with reloaded(airtapd, "[limits]\ndevices = 1\n"):
        with airtapd.attach("up0"):
            assert problem(airtapd, PREPARE) == "too-many-devices"
        wait_for(lambda: not airtapd.guests(), 5, "the guest's device to go")
        assert ask(airtapd, PREPARE) == {"ok": True}
        assert run_helper(["--br=up0"], env=airtapd.env).status == 1
        assert ask(airtapd, RELEASE) == {"ok": True}


def test_names_of_any_length_and_kind(lan: Lan, airtapd: Airtapd) -> None:
    for domain in ("x" * 255, "ü" * 200, "\ud800", " ", "a=b uuid=c"):
        assert ask(airtapd, PREPARE | {"domain": domain}) == {"ok": True}
        owner = airtapd.guests()[0]["owner"]
        assert owner["uuid"] == UUID
        assert len(owner["domain"]) > 20 or owner["domain"] in (domain, "?")
    assert ask(airtapd, RELEASE) == {"ok": True}


def test_users_have_no_say(lan: Lan, airtapd: Airtapd) -> None:
    program = (
        "import json, os, socket, sys\n"
        "os.setgroups([]); os.setgid(10001); os.setuid(10001)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])\n"
        "for request in json.loads(sys.argv[2]):\n"
        "    s.send(json.dumps(request).encode()); print(json.loads(s.recv(65536))['problem'])\n"
    )
    requests = [
        PREPARE,
        {"op": "prepare-uplink", "parent": "up0"},
        {"op": "set-owner", **CARD},
        {"op": "map-devices", "names": ["br0"]},
    ]
    ask(airtapd, PREPARE)
    argv = [sys.executable, "-c", program, airtapd.socket, json.dumps([*requests, RELEASE])]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["access-denied"] * 5
    assert ask(airtapd, RELEASE) == {"ok": True}


def test_started_names_macvtaps_and_nothing_else(lan: Lan, airtapd: Airtapd) -> None:
    command("ip", "link", "add", "macvtap0", "address", MAC, "link", "up0", "type", "macvtap")
    command("ip", "link", "add", "dummy0", "address", MAC, "type", "bridge")
    try:
        for name, mac in (
            ("up0", link("up0")["address"]),
            ("dummy0", MAC),
            ("nothere", MAC),
            ("a/b", MAC),
            ("macvtap0", "52:54:00:00:00:02"),
        ):
            assert ask(airtapd, {"op": "set-owner", **CARD, "device": name, "mac": mac}) == {
                "ok": True
            }
        for name in ("up0", "dummy0", "macvtap0"):
            assert "ifalias" not in link(name)
        assert ask(airtapd, {"op": "set-owner", **CARD, "device": "macvtap0"}) == {"ok": True}
        [shown] = airtapd.guests()
        assert (shown["device"], shown["owner"]["uuid"]) == ("macvtap0", UUID)
        airtapd.kill()
        airtapd.start()
        assert "macvtap0" in host_links()  # libvirt made it, libvirt removes it
    finally:
        command("ip", "link", "delete", "macvtap0")
        command("ip", "link", "delete", "dummy0")


def test_started_leaves_a_bridge_helpers_device_alone(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach("up0", MAC) as guest:
        assert ask(airtapd, {"op": "set-owner", **CARD, "device": guest.device}) == {"ok": True}
        assert airtapd.guests()[0]["owner"]["uuid"] is None


def test_started_leaves_another_guests_device_alone(lan: Lan, airtapd: Airtapd) -> None:
    assert ask(airtapd, PREPARE) == {"ok": True}
    another = {"uuid": UUID[:-1] + "2", "domain": "another"}
    assert ask(airtapd, {"op": "set-owner", **CARD, **another}) == {"ok": True}
    assert airtapd.guests()[0]["owner"]["uuid"] == UUID
    assert problem(airtapd, RELEASE | {"uuid": another["uuid"]}) == "not-ours"
    assert ask(airtapd, {"op": "set-owner", **CARD, "domain": "renamed"}) == {"ok": True}
    assert airtapd.guests()[0]["owner"]["domain"] == "renamed"
    assert ask(airtapd, RELEASE) == {"ok": True}


def test_ready_switches_mac_nat_on_before_a_child(lan: Lan, airtapd: Airtapd) -> None:
    def macnat() -> bool:
        return any(uplink["macnat"] for uplink in airtapd.status()["uplinks"])

    for name in ("up0", "nothere", "lo", "a/b", ""):
        assert ask(airtapd, {"op": "prepare-uplink", "parent": name}) == {"ok": True}
    assert not macnat()
    with reloaded(airtapd, '[parents.up0]\nmacnat = "on"\n'):
        assert ask(airtapd, {"op": "prepare-uplink", "parent": "up0"}) == {"ok": True}
        assert macnat()
        command("ip", "link", "add", "macvtap0", "address", MAC, "link", "up0", "type", "macvtap")
        try:
            command("ip", "link", "set", "macvtap0", "up")
            wait_for(lambda: "ALLMULTI" in link("macvtap0")["flags"], 5, "airtapd to see it")
            assert addresses("macvtap0") == []
        finally:
            command("ip", "link", "delete", "macvtap0")
        assert macnat()  # the next start of a guest finds it


def test_what_stands_here_for_devices_of_elsewhere(lan: Lan, airtapd: Airtapd) -> None:
    names = ["br0", "br1", "wlp3s0", "up0", "lo", "a/b"]
    request = {"op": "map-devices", "names": names}
    lacking = dict.fromkeys(["br0", "br1", "wlp3s0", "a/b"], "up0")
    assert ask(airtapd, request) == {"ok": True, "parents": lacking, "aliases": []}
    command("ip", "link", "add", "br1", "type", "bridge")
    try:
        with reloaded(airtapd, '[aliases]\nbr0 = "up0"\nlo = "up0"\n'):
            expected = dict.fromkeys(["br0", "wlp3s0", "a/b", "lo"], "up0")
            answer = {"ok": True, "parents": expected, "aliases": ["br0", "lo"]}
            assert ask(airtapd, request) == answer
    finally:
        command("ip", "link", "delete", "br1")
    for family in ("-4", "-6"):
        command("ip", family, "route", "flush", "default")
    assert ask(airtapd, request | {"names": ["br1", "lo"]}) == {
        "ok": True,
        "parents": {"lo": "up0"},
        "aliases": ["lo"],
    }
    for bad in ("up0", [1], None):
        assert problem(airtapd, {"op": "map-devices", "names": bad}) == "bad-message"

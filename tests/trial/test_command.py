"""airtap try: what it refuses, and attach's kind, by which it asks for its device."""

from __future__ import annotations

import os
import subprocess

from airtap.ipc import protocol
from lab import sandbox
from lab.airtap import BIN, Airtapd
from lab.guest import GUEST_UID
from lab.lan import Lan
from lab.trial import unchanged

ATTACH = """
import json, sys
from airtap.ipc import client, protocol
connection = client.Connection(client.socket_path())
connection.send(protocol.encode(json.loads(sys.argv[1])))
print(connection.receive()[0].decode())
"""


def refused(airtapd: Airtapd, *argv: str, uid: int = 0) -> str:
    """What airtap try says to a command line that leads nowhere."""
    with unchanged():
        done = airtapd.airtap("try", *argv, uid=uid, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    return line


def test_for_root_only(lan: Lan, airtapd: Airtapd) -> None:
    assert "for root; sudo airtap try up0" in refused(airtapd, "up0", uid=GUEST_UID)


def test_no_such_uplink(lan: Lan, airtapd: Airtapd) -> None:
    for argv, said in (
        (["nope0"], "there is no network device nope0"),
        (["nope0", "--json"], "there is no network device nope0"),
        (["../up0"], "cannot be the name of a network device"),
        (["lo"], "lo carries no Ethernet frames for guests"),
    ):
        assert said in refused(airtapd, *argv)


def test_kind_on_a_bridge() -> None:
    with Lan(bridge="br0"), Airtapd() as airtapd:
        assert "br0 is a bridge, and takes no ipvtap" in refused(airtapd, "br0", "--kind=ipvtap")
        answer = ask(airtapd, '{"op": "attach", "br": "br0", "kind": "macvtap"}', 0)
        assert (answer["ok"], answer["problem"]) == (False, "bad-parent")


def test_timeout_that_is_none() -> None:
    for timeout in ("0", "nan", "1e9", "soon"):
        argv = [str(BIN / "airtap"), "try", "up0", f"--timeout={timeout}"]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 2
        assert "--timeout" in done.stderr


def test_airtapd_is_not_there(lan: Lan, airtapd: Airtapd, systemd: None) -> None:
    airtapd.stop()
    said = refused(airtapd, "up0")
    assert "airtapd does not answer" in said
    assert "systemctl enable --now airtapd.socket" in said
    airtapd.start()


def ask(airtapd: Airtapd, request: str, uid: int) -> dict[str, object]:
    """airtapd's answer to a request of a user's."""
    done = subprocess.run(
        [str(BIN / "python"), "-c", ATTACH, request],
        env={**os.environ, **airtapd.env, "PYTHONPATH": str(sandbox.TREE / "src")},
        user=uid,
        group=uid,
        extra_groups=[],
        cwd="/",
        check=True,
        capture_output=True,
    )
    return protocol.decode(done.stdout)


def test_kind_of_an_attach(lan: Lan, airtapd: Airtapd) -> None:
    for kind, uid, problem in (
        ('"macvtap"', GUEST_UID, "access-denied"),
        ('"bond"', 0, "bad-kind"),
        ("7", 0, "bad-message"),
        ('["macvtap"]', 0, "bad-message"),
    ):
        answer = ask(airtapd, f'{{"op": "attach", "br": "up0", "kind": {kind}}}', uid)
        assert (answer["ok"], answer["problem"]) == (False, problem)
    assert airtapd.guests() == []
    for granted in ("null", '"macvtap"'):
        assert ask(airtapd, f'{{"op": "attach", "br": "up0", "kind": {granted}}}', 0)["ok"]

"""airtap try where guests work."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator

import pytest

from lab.airtap import BIN, Airtapd
from lab.lan import HOST4, HOST6, ROUTER4, Lan, slaac_address, wait_for
from lab.sandbox import command
from lab.trial import STEPS, run_try, unchanged


@pytest.fixture
def one_mac() -> Iterator[Lan]:
    with Lan(one_mac=True) as lan:
        yield lan
        assert lan.foreign_frames() == 0


def test_on_a_wire_that_takes_one_mac(one_mac: Lan) -> None:
    with Airtapd(config='[parents.up0]\nmacnat = "on"\n') as airtapd:
        tried = run_try(airtapd, "up0", "--kind=macvtap")
        assert tried.status == 0
        assert tried.report["passed"]
        assert (tried.report["device"], tried.report["type"]) == ("up0", "ethernet")
        steps = tried.steps()
        assert list(steps) == STEPS
        assert tried.but_passed() == {}
        [trial] = tried.report["trials"]
        assert int(trial["mac"][:2], 16) & 3 == 2  # unicast, locally administered
        assert steps["macnat"]["detail"].startswith("on")
        assert f"{ROUTER4} is at {one_mac.far_mac}" in steps["gateway4"]["detail"]
        assert slaac_address(trial["mac"]) in steps["address6"]["detail"]
        for family, host in (("4", HOST4), ("6", HOST6)):
            assert host in steps[f"guest_to_host{family}"]["detail"]
            assert host in steps[f"host_to_guest{family}"]["detail"]
        assert all(step["seconds"] >= 0 and not step["hint"] for step in steps.values())
        assert one_mac.leases() == {}, "the lease is given back"
        assert trial["mac"] in one_mac.log()
        assert airtapd.guests() == []


def test_on_a_bridge_by_an_alias() -> None:
    with (
        Lan(bridge="br0") as lan,
        Airtapd(config='[aliases]\nuplink = ["nope0", "br0"]\n') as airtapd,
    ):
        tried = run_try(airtapd, "uplink")
        assert tried.status == 0
        assert (tried.report["asked"], tried.report["device"]) == ("uplink", "br0")
        assert tried.report["type"] == "bridge"
        assert tried.but_passed("bridge") == {}
        assert lan.leases() == {}


def test_beside_a_guest_of_one_kind(lan: Lan, airtapd: Airtapd) -> None:
    command(
        "ip", "link", "add", "link", "up0", "name", "other0", "type", "macvlan", "mode", "bridge"
    )
    try:
        tried = run_try(airtapd, "up0")
        assert tried.status == 0
        assert tried.but_passed() == {}
        [_, ipvtap] = tried.report["trials"]
        assert ipvtap["steps"] == []
        assert "up0 carries macvtap guests (other0)" in ipvtap["not_tried"]
    finally:
        command("ip", "link", "del", "other0")


def test_on_ethernet_in_lines_of_text(lan: Lan, airtapd: Airtapd) -> None:
    """Of both kinds. This kernel may have no ipvtap; then that is said, and is no failure."""
    with unchanged():
        done = airtapd.airtap("try", "up0")
    lines = [line for line in done.stdout.splitlines() if "..." not in line]
    assert lines[0].startswith("macvtap: guest ")
    count = len(STEPS)
    assert [line.split()[0] for line in lines[1 : count + 1]] == ["ok"] * count
    assert lines[count + 1].startswith("ipvtap: guest ")
    if "Unknown device type" in done.stdout:
        assert "load the module ipvtap" in lines[-2]
        assert lines[-1] == "up0: guests work (macvtap)"
    else:
        assert [line.split()[0] for line in lines[count + 2 : -1]] == ["ok"] * count
        assert lines[-1] == "up0: guests work (macvtap and ipvtap)"
    assert "not needed on ethernet" in lines[3]
    assert "\r" not in done.stdout
    assert done.stderr == ""
    assert lan.leases() == {}


def test_live_line_on_a_terminal(lan: Lan, airtapd: Airtapd) -> None:
    near, far = pty.openpty()
    process = subprocess.Popen(
        [str(BIN / "airtap"), "try", "up0", "--kind=macvtap"],
        env={**os.environ, **airtapd.env},
        stdin=subprocess.DEVNULL,
        stdout=far,
        stderr=far,
    )
    os.close(far)
    said = b""
    try:
        while chunk := _read(near):
            said += chunk
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(near)
    assert b"\r\x1b[K  ...  IPv6 address (SLAAC)" in said
    assert said.endswith(b"up0: guests work (macvtap)\r\n")
    wait_for(lambda: not airtapd.guests(), 5, "the device to go")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: the other end is closed
        return b""

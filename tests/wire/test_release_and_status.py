"""airtap release and airtap status, as root and as the users whose guests they are."""

import json
from collections.abc import Iterator

import pytest

from lab.airtap import Airtapd
from lab.lan import Lan, wait_for
from lab.pump import PumpGuest
from lab.sandbox import command, host_links
from tests.wire.strangers import STRANGER

MAC = "52:54:00:00:00:01"
USER = 10001
NEIGHBOUR = 10002


@pytest.mark.parametrize("uid", [0, USER])
def test_release_removes_a_device_in_use(lan: Lan, airtapd: Airtapd, uid: int) -> None:
    with airtapd.attach(lan.near, MAC, uid=USER) as guest:
        name = guest.device
        airtapd.airtap("release", name, uid=uid)
        assert name not in host_links()
        assert airtapd.guests() == []


def test_release_is_refused_to_another_user(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near, MAC, uid=USER) as guest:
        refused = airtapd.airtap("release", guest.device, uid=NEIGHBOUR, check=False)
        assert refused.returncode == 1
        assert f"was not made for user {NEIGHBOUR}" in refused.stderr
        assert guest.device in host_links()


def test_release_leaves_other_devices_alone(lan: Lan, airtapd: Airtapd) -> None:
    command("ip", "link", "add", "airtap77", "link", lan.near, "type", "macvtap")
    try:
        refused = airtapd.airtap("release", "airtap77", check=False)
        assert refused.returncode == 1
        assert "was not made by airtap" in refused.stderr
        assert "airtap77" in host_links()
    finally:
        command("ip", "link", "delete", "airtap77")
    missing = airtapd.airtap("release", "airtap77", check=False)
    assert (missing.returncode, "no network device" in missing.stderr) == (1, True)


def test_status_of_a_guest(lan: Lan, airtapd: Airtapd) -> None:
    with PumpGuest(airtapd.attach(lan.near, MAC).take(), MAC) as pump:
        pump.dhcp()
        [uplink] = airtapd.status()["uplinks"]
        [guest] = uplink.pop("guests")
        assert uplink == {
            "name": "up0",
            "ifindex": uplink["ifindex"],
            "type": "ethernet",
            "mac": lan.near_mac,
            "kind": "macvtap",
            "macnat": False,
            "host_access": False,
            "dhcp": None,
        }
        assert guest["mac"] == MAC
        assert guest["owner"]["uid"] == USER
        assert guest["rx_bytes"] > 300 < guest["tx_bytes"]
        table = airtapd.airtap("status").stdout
        assert MAC in table
        assert "up0: ethernet" in table


def test_users_see_their_own_guests(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near, uid=USER) as mine, airtapd.attach(lan.near, uid=NEIGHBOUR):
        seen = json.loads(airtapd.airtap("status", "--json", uid=USER).stdout)
        assert [guest["device"] for guest in seen["uplinks"][0]["guests"]] == [mine.device]
        assert len(airtapd.guests()) == 2


def test_users_see_their_own_loss(airtapd_without_lan: Airtapd) -> None:
    """Of guests that run on without a network, as their uplink has gone."""
    airtapd = airtapd_without_lan
    with Lan() as lan:
        mine, other = (airtapd.attach(lan.near, uid=uid) for uid in (USER, NEIGHBOUR))
        names = mine.device, other.device

    def lost(uid: int) -> list[str]:
        status = json.loads(airtapd.airtap("status", "--json", uid=uid).stdout)
        return [device["device"] for device in status.get("lost", [])]

    with mine, other:
        wait_for(lambda: len(lost(0)) == 2, 10, "both to be lost")
        assert (lost(USER), lost(NEIGHBOUR), lost(STRANGER)) == ([names[0]], [names[1]], [])


@pytest.fixture
def airtapd_without_lan() -> Iterator[Airtapd]:
    with Airtapd() as daemon:
        yield daemon


def test_configured_parents_are_shown_without_guests(lan: Lan) -> None:
    with Airtapd(config='[parents.up0]\nmode = "vepa"\n[parents.gone0]\n') as airtapd:
        [uplink] = airtapd.status()["uplinks"]
        assert (uplink["name"], uplink["kind"], uplink["guests"]) == ("up0", None, [])


def test_status_of_many_guests(lan: Lan, airtapd: Airtapd) -> None:
    taps = [airtapd.tap(lan.near) for _ in range(200)]
    names = [tap.device for tap in taps]
    assert [guest["device"] for guest in airtapd.guests()] == names
    command("ip", "link", "delete", lan.near)  # with all of them, which takes no longer than one
    for tap in taps:
        tap.close()


def test_wrong_command_lines() -> None:
    with Airtapd() as airtapd:
        assert airtapd.airtap(check=False).returncode == 2
        assert airtapd.airtap("release", check=False).returncode == 2
        assert "--json" in airtapd.airtap("status", "--help").stdout


def test_no_daemon_is_said(lan: Lan) -> None:
    airtapd = Airtapd()
    answer = airtapd.airtap("status", uid=USER, check=False)
    assert answer.returncode == 1
    assert f"airtapd does not answer at {airtapd.socket}" in answer.stderr

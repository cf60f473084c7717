"""`airtap status` for people."""

from typing import Any

import pytest

from airtap.cli.commands.status import _colour, _cut
from airtap.cli.commands.status_table import Rates, View, age, rates, size, table

NOW = 1_800_000_000.0
USERS = {1000: "alice", 1001: "eve\x1b[2J"}
PROCESSES = {4321: "qemu-system-x86", 666: "\x1b]0;mine\x07"}
GUEST: dict[str, Any] = {
    "device": "airtap0",
    "ifindex": 5,
    "mac": "52:54:00:12:34:56",
    "addresses": ["192.0.2.7", "fe80::7"],
    "owner": {"uid": 1000, "pid": 4321, "domain": None, "uuid": None},
    "rx_bytes": 1023,
    "tx_bytes": 1536,
    "last_seen": None,
    "refused": None,
    "stranded": False,
}
CLEAN = dict.fromkeys(
    ("wrong_mac", "host_address", "guest_address", "malformed", "link_control", "evicted"), 0
)
UPLINK: dict[str, Any] = {
    "name": "eth0",
    "ifindex": 2,
    "type": "ethernet",
    "mac": "52:54:00:00:00:01",
    "kind": "macvtap",
    "macnat": False,
    "host_access": False,
    "guests": [GUEST],
}


def shown(report: dict[str, Any], *, colour: bool = False, through: Rates | None = None) -> str:
    def user(uid: int) -> str:
        return USERS.get(uid, "")

    def process(pid: int) -> str:
        return PROCESSES.get(pid, "")

    return table(report, View(NOW, user, process, colour=colour, rates=through))


def with_guests(*guests: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {"uplinks": [{**UPLINK, **facts, "guests": list(guests)}]}


def test_nothing() -> None:
    assert shown({"uplinks": []}) == "no guests"


def test_an_uplink_without_guests() -> None:
    idle = with_guests(kind=None)
    assert shown(idle) == "eth0: ethernet, 52:54:00:00:00:01\n  no guests"


def test_a_guest_of_a_users() -> None:
    assert shown({"uplinks": [UPLINK]}).splitlines() == [
        "eth0: ethernet, 52:54:00:00:00:01, macvtap",
        "  DEVICE   MAC                RECEIVED  SENT     LAST SEEN  GUEST",
        "  airtap0  52:54:00:12:34:56  1023 B    1.5 KiB  -          alice",
        "           192.0.2.7  fe80::7",
        "           qemu-system-x86, pid 4321",
    ]


BUSY = {
    **GUEST,
    "device": "macvtap12",
    "ifindex": 12,
    "addresses": [
        *("192.0.2.101", "192.0.2.102", "2001:db8:1234:5678:5054:ff:fe12:3456"),
        *("2001:db8:1234:5678:89ab:cdef:1234:5678", "fe80::5054:ff:fe12:3456"),
    ],
    "owner": {"uid": None, "pid": None, "domain": "web", "uuid": "x"},
    "rx_bytes": 999 << 20,
    "tx_bytes": 5 << 30,
    "last_seen": NOW - 3,
    "refused": {**CLEAN, "wrong_mac": 1, "guest_address": 12, "evicted": 3},
}


def test_a_busy_guest_fits_into_80_columns() -> None:
    silent = {**GUEST, "mac": None, "addresses": [], "refused": CLEAN, "stranded": True}
    text = shown(with_guests(BUSY, silent, macnat=True, host_access=True))
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines() == [
        "eth0: ethernet, 52:54:00:00:00:01, macvtap, MAC NAT, host access",
        "  DEVICE     MAC                RECEIVED   SENT     LAST SEEN  GUEST",
        "  macvtap12  52:54:00:12:34:56  999.0 MiB  5.0 GiB  3 s ago    web",
        "             192.0.2.101  192.0.2.102  2001:db8:1234:5678:5054:ff:fe12:3456",
        "             2001:db8:1234:5678:89ab:cdef:1234:5678  fe80::5054:ff:fe12:3456",
        "             refused: 1 frame with another source MAC than its own",
        "             refused: 12 frames that used another guest's address",
        "             forgotten: 3 addresses, as it uses too many",
        "  airtap0    -                  1023 B     1.5 KiB  never      alice",
        "             qemu-system-x86, pid 4321",
        "             its uplink is on another network now, where it was not heard yet:",
        "             have it ask for a new lease; try airtap renew --user 1000",
    ]


def test_rates() -> None:
    later = {**BUSY, "rx_bytes": BUSY["rx_bytes"] + 4096, "tx_bytes": 0}
    through = rates(with_guests(BUSY), with_guests(later, GUEST), 2.0)
    assert through == {12: (2048.0, 0.0)}
    text = shown(with_guests(later, GUEST), through=through)
    assert text.count("receives") == 1
    assert "receives 2.0 KiB/s, sends 0 B/s" in text
    assert rates(with_guests(BUSY), with_guests({**later, "device": "new"}), 2.0) == {}


def test_without_macnat_the_lan_gets_what_is_refused() -> None:
    text = shown(with_guests({**GUEST, "refused": {**CLEAN, "host_address": 2}}))
    assert "hidden from the host: 2 frames that used an address of the host or a gateway" in text


def test_what_is_lost() -> None:
    owner = {"uid": 1000, "pid": 42}
    lost = {"device": "airtap7", "parent": "wlan0", "owner": owner, "since": 0}
    text = shown({"uplinks": [], "lost": [lost]})
    assert "airtap7 is gone with wlan0: the guest of user 1000, pid 42," in text


def test_who_is_not_known() -> None:
    def cell(**owner: Any) -> str:
        nobody = dict.fromkeys(GUEST["owner"])
        text = shown(with_guests({**GUEST, "addresses": [], "owner": {**nobody, **owner}}))
        return text.split("\n", 2)[2].partition("  -          ")[2]

    assert cell() == "-"
    assert cell(uid=77, pid=0) == "user 77"
    assert cell(uid=77, pid=5) == "user 77\n           pid 5"


def test_text_of_others_does_not_steer_the_terminal() -> None:
    owner = {"uid": 1001, "pid": 666, "domain": None, "uuid": None}
    domain = {**owner, "domain": "\x1b[31mred\n", "pid": None}
    text = shown(
        {"uplinks": [{**UPLINK, "name": "\x1beth", "guests": [{**GUEST, "owner": owner}]}]}
    )
    text += shown(with_guests({**GUEST, "device": "a\x07", "owner": domain}))
    assert all(line.isprintable() for line in text.split("\n"))
    assert "'\\x1b[31mred\\n'" in text


def test_colour_adds_nothing_but_colour() -> None:
    report = with_guests(BUSY, {**GUEST, "stranded": True}, macnat=True)
    plain, coloured = shown(report), shown(report, colour=True)
    assert "\x1b[33mrefused: 1 frame" in coloured
    for style in ("0", "1", "2", "33"):
        coloured = coloured.replace(f"\x1b[{style}m", "")
    assert coloured == plain


@pytest.mark.parametrize(
    ("choice", "no_color", "colour"),
    [("auto", "", False), ("always", "1", True), ("never", "", False)],
)
def test_choice_of_colour(
    monkeypatch: pytest.MonkeyPatch, choice: str, no_color: str, colour: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    assert _colour(choice) == colour  # stdout is no terminal here


def test_lines_are_cut_to_a_terminal() -> None:
    assert _cut("\x1b[1mabc\x1b[0mdef", 4) == "\x1b[1mabc\x1b[0md"
    assert _cut("\x1b[33mabcdef\x1b[0m", 2) == "\x1b[33mab\x1b[0m"
    assert _cut("abc", 3) == "abc"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB")),
        *((1 << 40, "1.0 TiB"), (1 << 60, "1048576.0 TiB")),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-5, "0 s ago"), (59.9, "59 s ago"), (60, "1 min ago"), (3599, "59 min ago")),
        *((7200, "2 h ago"), (86400 * 400, "400 d ago")),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text

"""`airtap status` for people."""

from typing import Any

import pytest

from airtap.cli.status import table

GUEST: dict[str, Any] = {
    "device": "airtap0",
    "ifindex": 5,
    "mac": "52:54:00:12:34:56",
    "addresses": ["192.0.2.7", "fe80::7"],
    "owner": {"uid": 1000, "pid": 4321, "domain": None, "uuid": None},
    "rx_bytes": 1023,
    "tx_bytes": 1536,
    "last_seen": None,
    "stranded": False,
}
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


def test_nothing() -> None:
    assert table({"uplinks": []}) == "no guests"


def test_what_needs_a_hand() -> None:
    stranded = {**UPLINK, "guests": [{**GUEST, "stranded": True}]}
    owner = {"uid": 1000, "pid": 42}
    lost = {"device": "airtap7", "parent": "wlan0", "owner": owner, "since": 0}
    shown = table({"uplinks": [stranded], "lost": [lost]})
    assert "airtap0: its uplink is on another network now" in shown
    assert "airtap7 is gone with wlan0: the guest of user 1000, pid 42," in shown


def test_an_uplink_without_guests() -> None:
    idle = {**UPLINK, "kind": None, "guests": []}
    assert table({"uplinks": [idle]}) == "eth0: ethernet, 52:54:00:00:00:01\n  no guests"


def test_guests_in_columns() -> None:
    unknown = {
        **GUEST,
        "device": "airtap10",
        "mac": None,
        "addresses": [],
        "owner": {**dict.fromkeys(GUEST["owner"]), "domain": "\x1b"},
        "rx_bytes": 0,
        "tx_bytes": 5 << 30,
    }
    uplink = {**UPLINK, "macnat": True, "host_access": True, "guests": [GUEST, unknown]}
    assert table({"uplinks": [uplink, UPLINK]}).splitlines()[:5] == [
        "eth0: ethernet, 52:54:00:00:00:01, macvtap, macnat, host_access",
        "  DEVICE    MAC                ADDRESSES          USER  PID   DOMAIN  RECEIVED  SENT",
        "  airtap0   52:54:00:12:34:56  192.0.2.7 fe80::7  1000  4321  -       1023 B    1.5 KiB",
        "  airtap10  -                  -                  -     -     '\\x1b'  0 B       5.0 GiB",
        "",
    ]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        *((0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB")),
        *((1 << 40, "1.0 TiB"), (1 << 60, "1048576.0 TiB")),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    text = table({"uplinks": [{**UPLINK, "guests": [{**GUEST, "tx_bytes": count}]}]})
    assert text.endswith(f"  {shown}")

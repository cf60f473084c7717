"""The owner of a device as the text in its alias."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtap.alias import Owner, guest_mac

IDS = st.integers(0, 2**32 - 1)


UUID = "0c0ffee0-0000-4000-8000-000000000001"
MACS = st.sampled_from([(True, ""), (False, ""), (False, "52:54:00:12:34:56")])


@given(IDS, IDS, MACS)
def test_round_trip(uid: int, pid: int, mac: tuple[bool, str]) -> None:
    owner = Owner(uid, pid, *mac)
    alias = owner.to_alias()
    assert Owner.from_alias(alias) == owner
    assert alias.isascii() and alias.isprintable()
    assert len(alias) < 256  # IFALIASZ


@given(IDS, IDS, MACS, st.text(max_size=300))
def test_round_trip_of_domains(uid: int, pid: int, mac: tuple[bool, str], domain: str) -> None:
    """The name may be cut, at whole characters; nothing of it becomes another field."""
    alias = Owner(uid, pid, *mac, UUID, domain).to_alias()
    assert alias.isascii() and alias.isprintable()
    assert len(alias) < 255
    found = Owner.from_alias(alias)
    assert found is not None
    assert found == Owner(uid, pid, *mac, UUID, found.domain)
    assert domain.startswith(found.domain)
    assert found.domain == domain or len(alias) + len("%F0%9F%90%A7") >= 255


def test_alias_is_readable() -> None:
    """What an administrator sees in `ip link`, and what earlier versions have written."""
    assert Owner(1000, 4321).to_alias() == "airtap uid=1000 pid=4321"
    assert Owner(0, 1, learning=True).to_alias() == "airtap uid=0 pid=1 mac=learn"
    ipvtap = Owner(5, 6, mac="52:54:00:12:34:56")
    assert ipvtap.to_alias() == "airtap uid=5 pid=6 mac=52:54:00:12:34:56"
    assert Owner.from_alias("airtap uid=1000 pid=4321") == Owner(1000, 4321)
    learned = Owner(5, 6, mac="52:54:00:12:34:56", learned=True)
    assert learned.to_alias() == "airtap uid=5 pid=6 mac=52:54:00:12:34:56 learned"
    assert Owner.from_alias(learned.to_alias()) == learned


def test_fields_of_later_versions_do_no_harm() -> None:
    alias = "airtap uid=7 domain=web pid=8 mac=52:54:00:12:34:56 x y=1=2"
    assert Owner.from_alias(alias) == Owner(7, 8, mac="52:54:00:12:34:56")


def test_guest_mac() -> None:
    assert guest_mac("02:00:00:00:00:01", None) == "02:00:00:00:00:01"
    assert guest_mac("02:00:00:00:00:01", Owner(1, 2)) == "02:00:00:00:00:01"
    assert guest_mac("02:00:00:00:00:01", Owner(1, 2, learning=True)) is None
    assert guest_mac("02:00:00:00:00:01", Owner(1, 2, mac="52:54:00:12:34:56")) == (
        "52:54:00:12:34:56"
    )


@pytest.mark.parametrize(
    "alias",
    [
        *("", " ", "airtap", "airtap ", "airtap uid=1", "airtap pid=1", "airtap uid= pid="),
        *("airtap uid=x pid=1", "airtap uid=1 pid=0x1", "airtap uid=1.0 pid=1", "uid=1 pid=1"),
        *(
            "Airtap uid=1 pid=1",
            "airtapuid=1 pid=1",
            "airtap\tuid=1\tpid=1",
            "x airtap uid=1 pid=1",
        ),
        "airtap uid=" + "1" * 5000 + " pid=1",
        *("airtap uid=1 pid=1 mac=x", "airtap uid=1 pid=1 mac=01:00:00:00:00:00"),
    ],
)
def test_what_is_not_ours(alias: str) -> None:
    assert Owner.from_alias(alias) is None


_WORDS = st.sampled_from(
    ["airtap", "uid=", "pid=", "mac=learn", "=", " ", "1", "-1", "x", "\u0661"]
)


@given(st.one_of(st.text(), st.lists(_WORDS).map("".join), st.text().map("airtap ".__add__)))
def test_any_text_can_be_read(alias: str) -> None:
    owner = Owner.from_alias(alias)
    assert owner is None or alias.startswith("airtap ")

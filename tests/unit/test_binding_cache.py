"""What is kept of guests that have gone."""

from ipaddress import ip_address

import pytest

from airtap.bpf.records import IPV4_QUOTA, IPV6_QUOTA, Learned
from airtap.macnat import binding_cache
from airtap.macnat.binding_cache import BindingCache

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"


def learned(text: str, last_seen: float = 1.0) -> Learned:
    return Learned(ip_address(text), vlan=0, ifindex=7, mac=MAC, last_seen=last_seen)


def test_once_and_for_the_same_guest_on_the_same_uplink() -> None:
    kept = BindingCache()
    kept.note(2, MAC, [learned("192.0.2.7"), learned("2001:db8::7")])
    assert kept.take(2, OTHER) == []
    assert kept.take(3, MAC) == []
    assert {str(entry.address) for entry in kept.take(2, MAC)} == {"192.0.2.7", "2001:db8::7"}
    assert kept.take(2, MAC) == []


def test_what_it_last_had() -> None:
    kept = BindingCache()
    kept.note(2, MAC, [learned("192.0.2.7")])
    kept.note(2, MAC, [learned("192.0.2.8")])
    assert [str(entry.address) for entry in kept.take(2, MAC)] == ["192.0.2.8"]
    kept.note(2, MAC, [learned("192.0.2.7")])
    kept.note(2, MAC, [])
    assert kept.take(2, MAC) == []


def test_no_more_than_its_quota_the_latest_first() -> None:
    kept = BindingCache()
    held = [learned(f"192.0.2.{n}", n) for n in range(100)]
    held += [learned(f"2001:db8::{n:x}", n) for n in range(100)]
    kept.note(2, MAC, held)
    taken = kept.take(2, MAC)
    assert len(taken) == IPV4_QUOTA + IPV6_QUOTA
    assert min(entry.last_seen for entry in taken) == 100 - IPV6_QUOTA


def test_not_for_long_and_not_of_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding_cache, "_GUESTS", 2)
    clock = 100.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    kept = BindingCache()
    for uplink in (1, 2, 3):
        kept.note(uplink, MAC, [learned("192.0.2.7")])
    assert kept.take(1, MAC) == []
    assert kept.take(2, MAC)
    clock += binding_cache._KEPT_S + 1
    assert kept.take(3, MAC) == []

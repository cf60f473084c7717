"""airtap try where something is amiss: the step that fails, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.airtap import Airtapd
from lab.dhcp_server import OFFERED, answering_unicast
from lab.lan import HOST4, ROUTER4, Lan, wait_for
from lab.links import link
from lab.sandbox import command
from lab.trial import Tried, deaf, drop_at_lan, firewall, run_try

MACVTAP = "--kind=macvtap"
NO_IPV4 = {"ping4": "skipped", "guest_to_host4": "skipped", "host_to_guest4": "skipped"}
# Autoconfiguration looks for a duplicate address for a second, twice: in the time of its own step
# and of one that fails before it, or in its own alone.
SHORT_S, ALONE_S = 2, 3.5


def failed(tried: Tried, step: str) -> tuple[str, str]:
    """What is said of a step that must have failed: what was seen, and what to do."""
    assert tried.status == 1
    assert not tried.report["passed"]
    found = tried.steps()[step]
    assert found["result"] == "failed"
    assert found["hint"].endswith("see: airtap doctor up0")
    return found["detail"], found["hint"]


def test_no_dhcp_server() -> None:
    """That frames pass all the same is found out by the host's gateway, and over IPv6."""
    with Lan(one_mac=True) as lan, Airtapd(config='[parents.up0]\nmacnat = "on"\n') as airtapd:
        drop_at_lan(lan, "udp dport 67")
        tried = run_try(airtapd, "up0", MACVTAP, seconds=SHORT_S)
        seen, hint = failed(tried, "lease")
        assert "no DHCP server answered" in seen
        assert "left airtap" in seen
        assert "does the host itself get through" in hint
        assert tried.but_passed() == {"lease": "failed", **NO_IPV4}
        assert "frames do pass" in tried.steps()["gateway4"]["detail"]


def test_one_mac_without_mac_nat(airtapd_off: Airtapd) -> None:
    tried = run_try(airtapd_off, "up0", MACVTAP, seconds=1)
    for step in ("lease", "gateway4"):
        _, hint = failed(tried, step)
        assert 'set macnat = "on" for it in airtap.toml' in hint
    assert ROUTER4 in tried.steps()["gateway4"]["detail"]
    for way in ("guest_to_host6", "host_to_guest6"):
        assert tried.results()[way] == "passed", "host and guest need no wire"


@pytest.fixture
def airtapd_off() -> Iterator[Airtapd]:
    with (
        Lan(one_mac=True) as lan,
        Airtapd(config='[parents.up0]\nmacnat = "off"\n') as airtapd,
    ):
        yield airtapd
        assert lan.foreign_frames() > 0


def test_gateway_that_is_not_to_be_found(lan: Lan, airtapd: Airtapd) -> None:
    deaf(lan, "arp operation request", family="arp")
    deaf(lan, "icmpv6 type nd-neighbor-solicit")
    tried = run_try(airtapd, "up0", MACVTAP, seconds=SHORT_S)
    seen, _ = failed(tried, "gateway4")
    assert f"{ROUTER4} does not answer ARP" in seen
    seen, _ = failed(tried, "gateway6")
    assert "does not answer neighbour discovery" in seen
    none = {"gateway4": "failed", "ping4": "skipped", "gateway6": "failed", "ping6": "skipped"}
    assert tried.but_passed() == none


def test_gateway_that_does_not_answer_pings_and_no_host_access(lan: Lan) -> None:
    """Neither is a failure."""
    deaf(lan, "icmp type echo-request")
    with Airtapd(config="[parents.up0]\nhost_access = false\n") as airtapd:
        tried = run_try(airtapd, "up0", MACVTAP, seconds=SHORT_S)
    assert tried.status == 0
    assert "resolves but does not answer pings" in tried.steps()["ping4"]["detail"]
    ways = [f"{way}{family}" for family in "46" for way in ("guest_to_host", "host_to_guest")]
    assert tried.but_passed() == dict.fromkeys(ways, "skipped")
    assert "host access is off on up0" in tried.steps()["guest_to_host4"]["detail"]


def test_firewall_of_the_host(lan: Lan, airtapd: Airtapd) -> None:
    """It drops what comes over IPv4, and refuses to send over IPv6."""
    with (
        firewall("input", "icmp type echo-request"),
        firewall("output", "icmpv6 type echo-request"),
    ):
        tried = run_try(airtapd, "up0", MACVTAP, seconds=ALONE_S)
    seen, hint = failed(tried, "guest_to_host4")
    assert f"the host answers ARP for {HOST4}, but no ping" in seen
    assert "nft list ruleset" in hint
    seen, hint = failed(tried, "host_to_guest6")
    assert "would not send" in seen
    assert "Operation not permitted" in seen
    assert "nft list ruleset" in hint
    assert tried.but_passed() == {"guest_to_host4": "failed", "host_to_guest6": "failed"}


def test_no_ipv6_router_is_no_failure(lan: Lan, airtapd: Airtapd) -> None:
    """Host and guest meet all the same, at their link-local addresses."""
    deaf(lan, "icmpv6 type nd-router-advert", hook="output")
    tried = run_try(airtapd, "up0", MACVTAP, seconds=SHORT_S)
    assert tried.status == 0
    assert tried.but_passed() == dict.fromkeys(("address6", "gateway6", "ping6"), "skipped")
    assert "not offered here" in tried.steps()["address6"]["detail"]
    assert "fe80::" in tried.steps()["host_to_guest6"]["detail"]


def test_lines_tell_what_is_waited_for(lan: Lan, airtapd: Airtapd) -> None:
    """Of a step that takes more than a second."""
    deaf(lan, "icmpv6 type nd-router-advert", hook="output")
    done = airtapd.airtap("try", "up0", MACVTAP, "--timeout=3")
    assert "\n  ...  IPv6 address (SLAAC): waiting for a router advertisement" in done.stdout


def test_router_advertisements_that_only_the_host_gets(lan: Lan, airtapd: Airtapd) -> None:
    deaf(lan, "icmpv6 type nd-router-advert", hook="output")
    route = ("default", "via", "2001:db8::1", "dev", "up0", "proto", "ra", "metric", "99")
    command("ip", "-6", "route", "add", *route)
    try:
        tried = run_try(airtapd, "up0", MACVTAP, seconds=1)
    finally:
        command("ip", "-6", "route", "del", *route)
    seen, _ = failed(tried, "address6")
    assert "though the host has its router by one" in seen


def test_link_down(lan: Lan, airtapd: Airtapd) -> None:
    """It is not brought up: the host's network stays as it is."""
    command("ip", "link", "set", "up0", "down")
    tried = run_try(airtapd, "up0")
    seen, hint = failed(tried, "uplink")
    assert seen == "up0 is down"
    assert "ip link set up0 up" in hint
    assert [trial["kind"] for trial in tried.report["trials"]] == ["macvtap"]
    assert Path("/sys/class/net/up0/operstate").read_text() == "down\n"


def test_no_carrier(lan: Lan, airtapd: Airtapd) -> None:
    lan.run("ip", "link", "set", "lan0", "down")
    try:
        wait_for(lambda: "NO-CARRIER" in link("up0")["flags"], 5, "up0 to lose its carrier")
        seen, hint = failed(run_try(airtapd, "up0"), "uplink")
        assert seen == "up0 has no carrier"
        assert "plug a cable in" in hint
    finally:
        lan.run("ip", "link", "set", "lan0", "up")


def test_other_kind_is_there(lan: Lan, airtapd: Airtapd) -> None:
    command(
        "ip", "link", "add", "link", "up0", "name", "other0", "type", "macvlan", "mode", "bridge"
    )
    try:
        tried = run_try(airtapd, "up0", "--kind=ipvtap")
    finally:
        command("ip", "link", "del", "other0")
    assert tried.status == 1
    step = tried.steps("ipvtap")["device"]
    assert "held by other0 (macvlan)" in step["detail"]
    assert "stop what uses other0" in step["hint"]


def test_acl_that_does_not_allow_it(lan: Lan) -> None:
    with Airtapd(acl="allow other0\n") as airtapd:
        seen, hint = failed(run_try(airtapd, "up0", MACVTAP), "device")
        assert "access denied" in seen
        assert "allow up0" in hint


def test_mode_that_would_take_the_device_from_the_host(lan: Lan) -> None:
    with Airtapd(config='[parents.up0]\nmode = "passthru"\n') as airtapd:
        seen, _ = failed(run_try(airtapd, "up0", MACVTAP), "device")
        assert "would take up0 from the host" in seen


def test_server_that_ignores_the_broadcast_flag(lan: Lan, airtapd: Airtapd) -> None:
    lan._end_server()
    with answering_unicast(lan):
        tried = run_try(airtapd, "up0", MACVTAP, seconds=1)
    assert tried.results()["lease"] == "passed"
    assert OFFERED in tried.steps()["lease"]["detail"]

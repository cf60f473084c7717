"""What the helper makes of each kind of uplink, and what it refuses."""

import socket
from collections.abc import Iterator

import pytest

from lab.airtap import Airtapd, run_helper
from lab.lan import HOST4, Lan, slaac_address, wait_for
from lab.links import addresses, has_vnet_hdr, link, wait_gone
from lab.pump import PumpGuest
from lab.sandbox import command, host_links

MAC = "52:54:00:00:00:01"
OTHER_MAC = "52:54:00:00:00:02"
USER = 10001
NEIGHBOUR = 10002


@pytest.fixture
def bridged() -> Iterator[Lan]:
    with Lan(bridge="br0") as lan:
        yield lan


def test_macvtap_is_what_a_guest_needs(lan: Lan, airtapd: Airtapd) -> None:
    command("ip", "link", "set", lan.near, "mtu", "1400")
    with airtapd.attach(lan.near, MAC) as guest:
        device = link(guest.device)
        assert guest.data == b"\0"
        assert device["linkinfo"]["info_kind"] == "macvtap"
        assert device["linkinfo"]["info_data"]["mode"] == "bridge"
        assert device["link"] == lan.near
        assert device["address"] == MAC
        assert device["mtu"] == 1400
        assert {"UP", "ALLMULTI"} <= set(device["flags"])
        assert addresses(guest.device) == []
    wait_gone(guest_name(device))


def guest_name(device: dict[str, str]) -> str:
    return device["ifname"]


def test_guest_gets_a_lease_and_is_reached_by_both_families(lan: Lan, airtapd: Airtapd) -> None:
    with PumpGuest(airtapd.attach(lan.near, MAC).take(), MAC) as guest:
        address = guest.dhcp()
        assert lan.leases() == {MAC: address}
        assert lan.ping(address)
        assert guest.ping("192.0.2.1")
        own = wait_for(lambda: guest.addresses(6), 10, "the guest to have an IPv6 address")
        assert own == [slaac_address(MAC)]
        assert guest.ping("2001:db8::1")
        assert lan.ping(own[0])
        name = airtapd.guests()[0]["device"]
        assert addresses(name) == [], "the host took an address on the guest's device"


def test_two_guests_reach_each_other(lan: Lan, airtapd: Airtapd) -> None:
    taps = {mac: airtapd.attach(lan.near, mac).take() for mac in (MAC, OTHER_MAC)}
    with (
        PumpGuest(taps[MAC], MAC, name="one") as one,
        PumpGuest(taps[OTHER_MAC], OTHER_MAC, name="two") as two,
    ):
        one.dhcp()
        assert one.ping(two.dhcp())


@pytest.mark.parametrize("mode", ["vepa", "private", "passthru"])
def test_mode_of_the_configuration(lan: Lan, mode: str) -> None:
    with Airtapd(config=f'[parents.up0]\nmode = "{mode}"\n') as airtapd:
        tap = airtapd.attach(lan.near, MAC)
        assert link(tap.device)["linkinfo"]["info_data"]["mode"] == mode
        assert link(tap.device)["address"] == MAC
        with PumpGuest(tap.take(), MAC) as guest:
            assert lan.ping(guest.dhcp())
            assert lan.ping(HOST4) is (mode != "passthru")
        wait_gone("airtap0")
    assert link(lan.near)["address"] == lan.near_mac


@pytest.mark.parametrize("mode", ["bridge", "private"])
def test_private_keeps_guests_apart(lan: Lan, mode: str) -> None:
    with Airtapd(config=f'[parents.up0]\nmode = "{mode}"\n') as airtapd:
        taps = {mac: airtapd.attach(lan.near, mac).take() for mac in (MAC, OTHER_MAC)}
        with (
            PumpGuest(taps[MAC], MAC, name="one") as one,
            PumpGuest(taps[OTHER_MAC], OTHER_MAC, name="two") as two,
        ):
            assert lan.ping(one.dhcp()) and lan.ping(two.dhcp())
            assert one.ping(two.addresses(4)[0], timeout=2) is (mode == "bridge")


def test_passthru_is_alone(lan: Lan) -> None:
    with (
        Airtapd(config='[parents.up0]\nmode = "passthru"\n') as airtapd,
        airtapd.attach(lan.near, MAC) as first,
    ):
        second = run_helper([f"--br={lan.near}"], env=airtapd.env)
        assert second.status == 1
        assert first.device in second.stderr
        assert "passthru" in second.stderr
        assert {guest["device"] for guest in airtapd.guests()} == {first.device}


SHOUT = """
import socket, sys
shout = socket.socket(type=socket.SOCK_DGRAM)
shout.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for to in sys.argv[1:]:
    shout.sendto(to.encode(), (to, 4242))
"""


def test_passthru_leaves_the_host_what_is_for_all(lan: Lan) -> None:
    with (
        Airtapd(config='[parents.up0]\nmode = "passthru"\n') as airtapd,
        socket.socket(type=socket.SOCK_DGRAM) as host,
    ):
        host.bind(("", 4242))
        host.settimeout(5)
        with airtapd.attach(lan.near, MAC):
            lan.run("python3", "-c", SHOUT, HOST4, "192.0.2.255")
            assert host.recv(100) == b"192.0.2.255"
        wait_gone("airtap0")


def test_a_parent_that_is_down_is_brought_up(lan: Lan, airtapd: Airtapd) -> None:
    command("ip", "link", "set", lan.near, "down")
    with airtapd.attach(lan.near, MAC) as guest:
        assert "UP" in link(lan.near)["flags"]
        name = guest.device
    wait_gone(name)
    assert "UP" in link(lan.near)["flags"]


@pytest.mark.parametrize("vnet", [True, False])
@pytest.mark.parametrize("bridge", [True, False])
def test_vnet_header_is_as_asked(vnet: bool, bridge: bool) -> None:
    with Lan(bridge="br0" if bridge else None) as lan, Airtapd() as airtapd:
        with run_helper([f"--br={lan.uplink}"], env=airtapd.env, vnet=vnet) as guest:
            assert guest.status == 0, guest.stderr
            assert has_vnet_hdr(guest.fd) is vnet
            device = guest.device
        wait_gone(device)


def test_bridge_gets_a_tap(bridged: Lan) -> None:
    command("ip", "link", "set", bridged.near, "mtu", "1300")
    command("ip", "link", "set", "br0", "mtu", "1300")
    bridge_mac = link("br0")["address"]
    with Airtapd() as airtapd, airtapd.attach("br0") as guest:
        device = link(guest.device)
        assert device["master"] == "br0"
        assert device["mtu"] == 1300
        assert device["address"].startswith("fe:")
        assert "UP" in device["flags"]
        assert link("br0")["address"] == bridge_mac
        [status] = airtapd.status()["uplinks"]
        assert (status["name"], status["type"], status["kind"]) == ("br0", "bridge", None)
        assert status["guests"][0]["device"] == guest.device
        name = guest.device
    wait_gone(name)


def test_an_alias_names_the_parent_and_the_acl_judges_the_parent(lan: Lan) -> None:
    aliases = '[aliases]\nbr0 = "up0"\n'
    with (
        Airtapd(config=aliases, acl="allow up0\n") as airtapd,
        airtapd.attach("br0", MAC) as guest,
    ):
        assert link(guest.device)["link"] == lan.near
    wait_gone("airtap0")
    with Airtapd(config=aliases, acl="allow br0\n") as airtapd:
        refused = run_helper(["--br=br0"], env=airtapd.env)
        assert refused.status == 1
        assert "access denied" in refused.stderr
        assert "up0 (alias br0)" in refused.stderr


def test_an_alternative_name_does_not_get_round_a_deny(lan: Lan) -> None:
    command("ip", "link", "property", "add", "dev", lan.near, "altname", "uplink")
    with Airtapd(acl="allow all\ndeny up0\n") as airtapd:
        assert "access denied" in run_helper(["--br=uplink"], env=airtapd.env).stderr
    with Airtapd(acl="allow uplink\n") as airtapd, airtapd.attach("uplink", MAC) as guest:
        assert link(guest.device)["link"] == lan.near


def test_rules_are_by_name(lan: Lan) -> None:
    """A device takes on the rules for its new name, and what is made stays when rules change."""
    with Airtapd(acl="allow up0\n") as airtapd, airtapd.attach(lan.near, MAC) as guest:
        rename("up0", "up9")
        try:
            for name in ("up0", "up9"):
                assert run_helper([f"--br={name}"], env=airtapd.env).status == 1
            airtapd.acl.write_text("allow up9\n")
            airtapd.attach("up9", OTHER_MAC).close()
            airtapd.acl.write_text("deny all\n")
            airtapd.kill()
            airtapd.start()
            assert run_helper(["--br=up9"], env=airtapd.env, uid=0).status == 1
            assert guest.device in {shown["device"] for shown in airtapd.guests()}
        finally:
            rename("up9", "up0")


def rename(device: str, name: str) -> None:
    command("ip", "link", "set", device, "down")
    command("ip", "link", "set", device, "name", name, "up")


def test_devices_are_in_airtapds_own_namespace(lan: Lan, airtapd: Airtapd) -> None:
    """Whoever asks from another, where a device of that name may be as well."""
    prefix = ["ip", "netns", "exec", lan.namespace]
    lan.run("ip", "link", "add", "br7", "type", "bridge")
    elsewhere = run_helper(["--br=br7"], prefix=prefix, env=airtapd.env)
    assert "there is no network device br7" in elsewhere.stderr
    with run_helper([f"--br={lan.near}"], prefix=prefix, env=airtapd.env) as guest:
        assert guest.status == 0, guest.stderr
        assert link(guest.device)["link"] == lan.near
        assert guest.device not in lan.run("ip", "-br", "link").stdout
        name = guest.device
    wait_gone(name)


REFUSALS = {
    "nosuch0": "no network device nosuch0",
    "lo": "no Ethernet frames",
    "": "empty",
    "sixteen-chars-xx": "too long",
    "a/b": "cannot be the name",
    "..": "cannot be the name",
    "a b": "cannot be the name",
    "up0\n": "cannot be the name",
}


@pytest.mark.parametrize("br", REFUSALS)
def test_refusals_of_names(lan: Lan, airtapd: Airtapd, br: str) -> None:
    before = host_links()
    refused = run_helper([f"--br={br}"], env=airtapd.env)
    assert (refused.status, refused.fd, refused.data) == (1, -1, b"")
    assert REFUSALS[br] in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert host_links() == before


def test_refusal_of_a_bridge_port(bridged: Lan) -> None:
    with Airtapd() as airtapd:
        refused = run_helper([f"--br={bridged.near}"], env=airtapd.env)
        assert refused.status == 1
        assert "is a port of a bridge; use the bridge instead" in refused.stderr


def test_refusal_of_a_stacked_parent(lan: Lan) -> None:
    command("ip", "link", "add", "mv0", "link", lan.near, "type", "macvlan", "mode", "bridge")
    try:
        # The kernel would put the macvtap on up0, of which this ACL says nothing.
        with Airtapd(acl="allow mv0\n") as airtapd:
            refused = run_helper(["--br=mv0"], env=airtapd.env)
            assert refused.status == 1
            assert "mv0 is itself a macvlan" in refused.stderr
    finally:
        command("ip", "link", "delete", "mv0")


@pytest.mark.parametrize("kernel", [pytest.param("um", marks=pytest.mark.machine("um"), id="um")])
def test_refusal_of_an_ipvlan_and_of_a_bonds_port(lan: Lan, airtapd: Airtapd, kernel: str) -> None:
    command("ip", "link", "add", "iv0", "link", lan.near, "type", "ipvlan", "mode", "l2")
    command("ip", "link", "add", "bond7", "type", "bond")
    command("ip", "link", "add", "port7", "master", "bond7", "type", "veth", "peer", "name", "far7")
    try:
        for device, said in ("iv0", "is itself a ipvlan"), ("port7", "is a port of a bond"):
            refused = run_helper([f"--br={device}"], env=airtapd.env)
            assert (refused.status, refused.fd) == (1, -1)
            assert f"{device} {said}" in refused.stderr
    finally:
        for device in ("iv0", "port7", "bond7"):
            command("ip", "link", "delete", device)


def test_mac_that_is_taken(lan: Lan, airtapd: Airtapd) -> None:
    with airtapd.attach(lan.near, MAC) as first:
        sibling = run_helper([f"--mac={MAC}", f"--br={lan.near}"], env=airtapd.env)
        parent = run_helper([f"--mac={lan.near_mac}", f"--br={lan.near}"], env=airtapd.env)
        assert sibling.status == parent.status == 1
        assert f"{MAC} is the MAC address of {first.device} on {lan.near}" in sibling.stderr
        assert f"{lan.near_mac} is the MAC address of {lan.near} itself" in parent.stderr
        assert len(airtapd.guests()) == 1


@pytest.mark.parametrize(
    "mac", ["", "52:54:00", "01:00:5e:00:00:01", "00:00:00:00:00:00", "x" * 99]
)
def test_mac_that_no_guest_can_have(lan: Lan, airtapd: Airtapd, mac: str) -> None:
    refused = run_helper([f"--mac={mac}", f"--br={lan.near}"], env=airtapd.env)
    assert refused.status == 1
    assert "MAC address" in refused.stderr or "no guest can have it" in refused.stderr


def test_limit_of_a_user(lan: Lan) -> None:
    with Airtapd(config="[limits]\ndevices_per_user = 2\n") as airtapd:
        taps = [airtapd.attach(lan.near), airtapd.attach(lan.near)]
        refused = run_helper([f"--br={lan.near}"], env=airtapd.env, uid=USER)
        assert refused.status == 1
        assert f"user {USER} has 2 guest devices" in refused.stderr
        taps.append(airtapd.attach(lan.near, uid=NEIGHBOUR))
        name = taps[0].device
        taps[0].close()
        wait_gone(name)
        taps.append(airtapd.attach(lan.near, uid=USER))
        for tap in taps:
            tap.close()


def test_limit_counts_only_taps_that_still_exist(bridged: Lan) -> None:
    with Airtapd(config="[limits]\ndevices_per_user = 1\n") as airtapd:
        for _ in range(3):
            with airtapd.attach("br0") as guest:
                name = guest.device
                assert run_helper(["--br=br0"], env=airtapd.env).status == 1
            wait_gone(name)


def test_limit_of_the_host_holds_for_root_too(lan: Lan) -> None:
    config = "[limits]\ndevices_per_user = 1\ndevices = 2\n"
    with Airtapd(config=config) as airtapd:
        taps = [airtapd.attach(lan.near, uid=0), airtapd.attach(lan.near, uid=0)]
        refused = run_helper([f"--br={lan.near}"], env=airtapd.env, uid=0)
        assert refused.status == 1
        assert "the limit for this host" in refused.stderr
        for tap in taps:
            tap.close()


def test_default_limit_of_a_user_is_32(lan: Lan, airtapd: Airtapd) -> None:
    taps = [airtapd.attach(lan.near) for _ in range(32)]
    assert run_helper([f"--br={lan.near}"], env=airtapd.env).status == 1
    for tap in taps:
        tap.close()

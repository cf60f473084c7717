"""A host that autoconfigures itself, and a VLAN device of it: by the LAN's routers, by no guest."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from scapy.compat import raw
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from lab.airtap import Airtapd
from lab.kinds import BOTH_IN_MACHINE, BOTH_KINDS
from lab.lan import FAR_MAC, NEAR_MAC, Lan, wait_for
from lab.sandbox import command
from lab.traffic import (
    BROADCAST,
    ROGUE_MAC,
    SIBLING_MAC,
    RawGuest,
    collect,
    raw_guest,
    tagged,
)

GROUP = "33:33:00:00:00:01"
ROUTERS = {
    ROGUE_MAC: "fe80::5054:ff:fe00:3",
    SIBLING_MAC: "fe80::5054:ff:fe00:2",
    FAR_MAC: "fe80::1",
}
UNTAGGED, PRIORITY, TAGGED = (), (Dot1Q(vlan=0, prio=5),), (Dot1Q(vlan=5),)
BAD, GOOD, OTHER = "2001:db8:bad::", "2001:db8:900d::", "2001:db8:900e::"


def advertisement(source: str, to: str, prefix: str, tags: tuple[Packet, ...]) -> bytes:
    frame = tagged(Ether(src=source, dst=to), tags)
    says = ICMPv6ND_RA(prf=1) / ICMPv6NDOptPrefixInfo(prefix=prefix)
    return raw(frame / IPv6(src=ROUTERS[source], dst="ff02::1", hlim=255) / says)


@contextmanager
def autoconfigured() -> Iterator[tuple[str, str]]:
    """The uplink and a VLAN device on it believe routers."""
    command("ip", "link", "add", "link", "up0", "name", "up0.5", "type", "vlan", "id", "5")
    try:
        for device in ("up0", "up0.5"):
            Path(f"/proc/sys/net/ipv6/conf/{device}/accept_ra").write_text("1")
            Path(f"/proc/sys/net/ipv6/conf/{device}/accept_dad").write_text("0")
        command("ip", "link", "set", "up0.5", "up")
        yield "up0", "up0.5"
    finally:
        command("ip", "link", "delete", "up0.5")


def leads(prefix: str, device: str) -> bool:
    """Whether a prefix that a router has advertised is on a device's link."""
    return prefix in command("ip", "-6", "route", "show", "dev", device)


@BOTH_IN_MACHINE
@pytest.mark.parametrize("host_access", ["true", "false"])
@pytest.mark.parametrize("told", [True, False], ids=["known", "new"])
def test_no_guest_is_the_hosts_router(
    lan: Lan, device_kind: str, host_access: str, told: bool
) -> None:
    """Nor is one of which airtapd does not know the MAC yet."""
    config = f'macnat = "on"\nkind = "{device_kind}"\nhost_access = {host_access}\n'
    with (
        autoconfigured() as devices,
        Airtapd(config=f"[parents.up0]\n{config}") as airtapd,
        airtapd.attach("up0", ROGUE_MAC if told else None) as tap,
        lan.frames() as far,
    ):
        guest = RawGuest(tap)
        for tags in (UNTAGGED, PRIORITY, TAGGED):
            for to in (NEAR_MAC, GROUP, BROADCAST):
                guest.send(advertisement(ROGUE_MAC, to, BAD, tags))
        guest.mark()
        collect(far)
        for tags in (UNTAGGED, TAGGED):
            far.send(advertisement(FAR_MAC, GROUP, GOOD, tags))
        for device in devices:
            wait_for(partial(leads, GOOD, device), 5, f"the LAN's router on {device}")
        assert [device for device in devices if leads(BAD, device)] == []


@BOTH_KINDS
def test_but_the_guest_that_the_configuration_names(lan: Lan, device_kind: str) -> None:
    be_advertised(f'[parents.up0]\nmacnat = "on"\nkind = "{device_kind}"\n')


def test_and_so_it_is_without_mac_nat() -> None:
    with Lan():
        be_advertised("[parents.up0]\n")


def be_advertised(config: str) -> None:
    """One guest may be the host's router, also once it is; another's word does not count."""
    Path("/proc/sys/net/ipv6/conf/up0/accept_ra").write_text("1")
    with (
        Airtapd(config=f'{config}gateway = "{ROGUE_MAC}"\n') as airtapd,
        raw_guest(airtapd, SIBLING_MAC) as other,
        raw_guest(airtapd) as guest,
    ):

        def is_believed(prefix: str) -> bool:
            other.send(advertisement(SIBLING_MAC, GROUP, BAD, UNTAGGED))
            guest.send(advertisement(ROGUE_MAC, GROUP, prefix, UNTAGGED))
            return leads(prefix, "up0")

        for prefix in (GOOD, OTHER):  # on a wire, a guest is heard after a moment
            wait_for(partial(is_believed, prefix), 5, "the guest's network")
            routes = command("ip", "-6", "route", "show", "default", "dev", "up0")
            assert f"via {ROUTERS[ROGUE_MAC]}" in routes
            assert f"via {ROUTERS[SIBLING_MAC]}" not in routes
            assert not leads(BAD, "up0")

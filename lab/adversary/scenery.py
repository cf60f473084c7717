"""A host and a LAN that believe what they hear, and how they are mended afterwards."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

from lab.adversary import packets as p
from lab.adversary import world as w
from lab.lan import FAR_MAC, NEAR_MAC, Lan, ready_at_once, wait_for
from lab.links import without_offload
from lab.sandbox import command, inside, packet_socket

VLAN_DEVICE = "up0.5"
_BEHIND = "behind0"
# ARP that nobody asked for is believed, also right after other.
_GULLIBLE = (
    ("ipv4/conf/{}/arp_accept", "1"),
    ("ipv4/neigh/{}/locktime", "0"),
    ("ipv4/neigh/{}/retrans_time_ms", "100"),
)
_HOST = (
    ("ipv4/conf/all/accept_redirects", "1"),
    ("ipv4/conf/up0/accept_redirects", "1"),
    ("ipv4/conf/all/secure_redirects", "0"),
    ("ipv4/conf/up0/secure_redirects", "0"),
    ("ipv6/conf/up0/accept_redirects", "1"),
    ("ipv6/conf/up0/accept_ra", "2"),
    ("ipv6/conf/up0/accept_ra_rtr_pref", "1"),
    ("ipv6/conf/up0/accept_dad", "1"),
    ("ipv6/neigh/up0/retrans_time_ms", "2000"),
    # Its tentative address is tentative for minutes: 255 probes (the kernel keeps one octet).
    ("ipv6/conf/up0/dad_transmits", "255"),
    ("ipv6/conf/up0/use_tempaddr", "0"),
)


@contextlib.contextmanager
def scenery(lan: Lan) -> Iterator[bool]:
    """What the host has besides an uplink, and the LAN besides a router.

    Gives whether the host has a VLAN device: some kernels that tests run on have none.
    """
    believe("up0")
    with inside(lan.namespace):
        believe(lan.far)
    for path, value in _HOST:
        _set(path, value)
    without_offload("up0")
    for address, length in ((w.OTHER4, 24), (w.OTHER6, 64)):
        command("ip", "-n", lan.namespace, "address", "add", f"{address}/{length}", "dev", lan.far)
    has_vlans = _add_vlan_device()
    command("ip", "link", "add", _BEHIND, "type", "veth", "peer", "behind1")
    for name in (_BEHIND, "behind1"):
        command("ip", "link", "set", name, "addrgenmode", "none", "up")
    for prefix in ("10.9.0.0/24", "2001:db8:9::/64"):
        command("ip", "route", "add", prefix, "dev", _BEHIND)
    for gateway in (w.OTHER4, w.OTHER6):
        words = ["default", "via", gateway, "dev", "up0", "table", "100"]
        command("ip", "-6" if ":" in gateway else "-4", "route", "add", *words)
    try:
        be_routed(lan)
        _lease(lan)
        yield has_vlans
    finally:
        command("ip", "link", "delete", _BEHIND)


def _add_vlan_device() -> bool:
    try:
        command("ip", "link", "add", "link", "up0", "name", VLAN_DEVICE, "type", "vlan", "id", "5")
    except RuntimeError as exc:
        if "Unknown device type" not in str(exc):
            raise
        return False
    ready_at_once(VLAN_DEVICE)
    command("ip", "link", "set", VLAN_DEVICE, "up")
    command("ip", "address", "add", "10.5.0.10/24", "dev", VLAN_DEVICE)
    return True


def believe(device: str) -> None:
    """Have a device of this namespace believe what neighbours say of themselves."""
    for path, value in _GULLIBLE:
        _set(path.format(device), value)


def be_routed(lan: Lan) -> None:
    """Have the host hear its router: its default route and prefix, by an advertisement."""
    head = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 9000, 0, 0)
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 9000, 9000, 0) + p.octets("2001:db8::")
    mac = bytes([1, 1]) + p.octets(FAR_MAC)
    message = p.icmp6(w.ROUTER_LL, "ff02::1", head + prefix + mac)
    packet = p.ipv6(w.ROUTER_LL, "ff02::1", p.ICMP6, message)
    with packet_socket(lan.namespace, lan.far) as frames:
        frames.send(p.ethernet("33:33:00:00:00:01", FAR_MAC, p.IPV6, packet))


def be_tentative() -> None:
    """Give the host an address that it is still looking for duplicates of."""
    command("ip", "address", "add", f"{w.TENTATIVE6}/64", "dev", "up0")


def _lease(lan: Lan) -> None:
    """Have the LAN's DHCP server give the host and the sibling their addresses."""
    with packet_socket(None, "up0") as frames:
        for mac, address in w.LEASES.items():
            asked = p.bootp(1, 3, mac, wanted=address)
            kind, packet = p.over_ip("0.0.0.0", "255.255.255.255", (68, 67), asked)
            frames.send(p.ethernet("ff:ff:ff:ff:ff:ff", NEAR_MAC, kind, packet))
    wait_for(lambda: w.LEASES.items() <= lan.leases().items(), 5, "the leases")


def _set(path: str, value: str) -> None:
    Path("/proc/sys/net", path).write_text(value)

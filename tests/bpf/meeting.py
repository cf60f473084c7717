"""The host and two guests on a bench, for what host_access.h hands to whom."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address

from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from airtap.bpf.attach import Role
from airtap.bpf.trace_record import NOBODY, record
from airtap.kernel.addresses import Address
from airtap.trace.correlate import COPIED
from tests.bpf.rig import Outcome, Rig

UPLINK, ROUTER = "02:00:00:00:00:01", "02:00:00:00:00:03"
MAC_A, MAC_B, STRANGER = "02:00:00:00:0a:01", "02:00:00:00:0b:01", "02:00:00:00:0c:01"
ALL, BRIDGES, GROUP6 = "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:0e", "33:33:00:00:00:01"
A, B, HOST, LAN, FAR = "192.0.2.100", "192.0.2.200", "192.0.2.10", "192.0.2.1", "198.51.100.7"
A6, HOST6 = "2001:db8::a", "fe80::1"
EVERYBODY, LAN6 = "192.0.2.255", "fe80::3"
# The host is about to have these, and nobody has those.
SOON, SOON6, FREE, FREE6 = "192.0.2.11", "fe80::2", "192.0.2.77", "fe80::77"
PARENT = 1
MARK_FROM_GUEST, MARK_PASSED, OTHER_MARK = 0x6169, 0x6171, 0x1234


def ether(source: str, to: str, packet: Packet) -> bytes:
    return raw(Ether(src=source, dst=to) / packet)


def ipv4(source: str, target: str) -> Packet:
    return IP(src=source, dst=target) / UDP(sport=9, dport=9)


def begin(rig: Rig, kind: str, translate: bool = True) -> tuple[int, int]:
    """Two guests that the host may reach, and their addresses. Returns their ifindexes."""
    rig.reset()
    a, b = rig.devices[:2]
    rig.macnat.config.set_role(Role(kind, translate, host_access=True), "bridge")
    rig.macnat.config.set_parent(PARENT, UPLINK)
    soon: set[Address] = {IPv4Address(SOON), IPv6Address(SOON6)}
    hosts = {IPv4Address(HOST), IPv6Address(HOST6), *soon}
    rig.macnat.hosts.set_addresses(hosts, {IPv4Address(EVERYBODY)}, soon)
    own = IPv4Network("10.0.0.0/8")  # comes first
    rig.macnat.hosts.set_on_link({own, IPv4Network("192.0.2.0/24")}, {own})
    for index, mac, addresses in ((a, MAC_A, (A, FAR)), (b, MAC_B, (B,))):
        rig.macnat.guests.add(index, mac)
        rig.macnat.host_access.add(mac, index)
        for address in addresses:
            rig.run("from_guest", ether(mac, ROUTER, ipv4(address, LAN)), index)
    rig.run("from_guest", ether(MAC_A, ROUTER, IPv6(src=A6, dst=HOST6) / UDP()), a)
    for index, guest in ((a, MAC_A), (b, MAC_B), (NOBODY, None)):
        rig.macnat.tracer.add(index, guest)
    rig.macnat.tracer.read(10_000)
    return a, b


def said(rig: Rig) -> int:
    """The notes of the frame that was run last."""
    found = [record(packed).said for packed in rig.macnat.tracer.read(10_000)]
    return found[-1] if found else 0


def sent(rig: Rig, frame: bytes) -> Outcome:
    """A macvtap's guest's, at the uplink after from_guest has passed it."""
    return rig.run("uplink_egress", frame, PARENT, mark=MARK_PASSED)


def heard(rig: Rig, frame: Packet, why: int) -> None:
    """Whether a guest's packet reaches the host, and why not. why: CONFIGURES, WITHHELD or 0."""
    outcome = sent(rig, ether(MAC_A, UPLINK, frame))
    assert (outcome.passed, outcome.to) == (not why, 0 if why else PARENT), frame
    outcome = sent(rig, ether(MAC_A, GROUP6, frame))
    assert (outcome.passed, outcome.to) == (True, 0)
    assert said(rig) == (why or COPIED)

"""What no guest does to the host, tagged or not: configure it, or speak past from_guest."""

import os
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptPrefixInfo,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from lab.airtap import Airtapd
from lab.kinds import BOTH_KINDS
from lab.lan import FAR_MAC, HOST4, HOST6, NEAR_MAC, ROUTER4, Lan, wait_for
from lab.sandbox import command, packet_socket
from lab.traffic import (
    BROADCAST,
    ROGUE4,
    ROGUE_MAC,
    RawGuest,
    claim,
    collect,
    known,
    mark,
    raw_guest,
    tagged,
)
from tests.macnat.test_host_access import deceive

STRANGER, ALL6 = "02:00:5e:00:53:09", "33:33:00:00:00:01"
OWN6 = "fe80::5054:ff:fe00:3"
TAGS = {"untagged": (), "priority": (Dot1Q(vlan=0, prio=5),), "tagged": (Dot1Q(vlan=5),)}


@dataclass
class Scene:
    """A LAN and an airtapd, and whether its guests and the host meet."""

    lan: Lan
    airtapd: Airtapd
    meets: bool
    own_mac: bool

    @contextmanager
    def guest(self, *, told: bool = True) -> Iterator[RawGuest]:
        """A guest, which has the uplink's own MAC where that must be. told: airtapd knows it."""
        mac = ROGUE_MAC if self.own_mac else NEAR_MAC
        with self.airtapd.attach("up0", ROGUE_MAC if told and self.own_mac else None) as tap:
            yield RawGuest(tap, mac)

    def arriving(self, guest: RawGuest, frames: Sequence[Packet]) -> list[bytes]:
        """Of a guest's frames, those that come in at the host, without their MACs."""
        with packet_socket(None, "up0") as host, self.lan.frames() as far:
            for frame in frames:
                guest.send(frame)
            guest.mark()
            collect(far)
            far.send(bytes(mark(STRANGER)))
            got = collect(host)
        lan = bytes.fromhex(FAR_MAC.replace(":", ""))
        return [frame[12:] for frame in got if frame[6:12] != lan]


# Kind, MAC NAT, host access, mode, and whether guests and the host meet there.
SETTINGS = [
    ("macvtap", "on", "true", "bridge", True),
    ("macvtap", "off", "true", "bridge", True),
    ("macvtap", "on", "false", "bridge", False),
    ("macvtap", "on", "true", "private", False),
    ("ipvtap", "on", "true", "bridge", True),
    ("ipvtap", "on", "false", "bridge", False),
    ("ipvtap", "off", "true", "bridge", False),
    ("ipvtap", "on", "true", "private", False),
    ("ipvtap", "on", "true", "vepa", False),
]


def in_settings(chosen: Callable[[str, str, str], bool]) -> pytest.MarkDecorator:
    """Run a test in those settings of which chosen tells, by kind, MAC NAT and host access."""
    return pytest.mark.parametrize(
        "scene",
        [
            pytest.param(
                setting,
                marks=[pytest.mark.machine("um")] if setting[0] == "ipvtap" else [],
                id=("um-" if setting[0] == "ipvtap" else "") + "-".join(setting[:4]),
            )
            for setting in SETTINGS
            if chosen(*setting[:3])
        ],
        indirect=True,
    )


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    kind, macnat, host_access, mode, meets = request.param
    lines = f'kind = "{kind}"\nmacnat = "{macnat}"\nhost_access = {host_access}\nmode = "{mode}"\n'
    with Lan(one_mac=macnat == "on") as lan, Airtapd(config=f"[parents.up0]\n{lines}") as daemon:
        yield Scene(lan, daemon, meets, kind == "macvtap" or macnat == "on")
        print(daemon.log())
        assert not lan.one_mac or lan.foreign_frames() == 0


def configuring() -> list[Packet]:
    """What would configure who hears it, as the payload of Ethernet."""
    six = IPv6(src=OWN6, dst=HOST6, hlim=255)
    reply = UDP(sport=5547, dport=546) / b"reply"
    prefix = ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::")
    return [
        *(IP(src=ROGUE4, dst=HOST4) / UDP(sport=port, dport=68) / b"offer" for port in (67, 1067)),
        IP(src=ROGUE4, dst="255.255.255.255", flags="MF") / UDP(sport=1067, dport=68) / b"offer",
        IP(src=ROGUE4, dst=HOST4, options=[b"\1\1\1\1"]) / UDP(sport=9, dport=68) / b"offer",
        six / reply,
        six / IPv6ExtHdrDestOpt() / reply,
        six / IPv6ExtHdrFragment(id=7) / reply,
        six / IPv6ExtHdrFragment(m=1, id=8) / reply,
        # Its headers go on in the next fragment, and not in the octets behind its end.
        IPv6(src=OWN6, dst=HOST6, plen=16)
        / (IPv6ExtHdrFragment(m=1, id=9) / IPv6ExtHdrDestOpt(nh=60) / b";\0\1\4\0\0\0\0"),
        six / ICMPv6ND_RA(routerlifetime=9000) / prefix,
        six / IPv6ExtHdrDestOpt() / ICMPv6ND_RA() / prefix,
    ]


def foreign() -> list[Packet]:
    """What is neither IP nor ARP for it: an offer of PPPoE, ARP of another hardware type."""
    seven = raw(ARP(hwsrc=ROGUE_MAC, psrc=ROGUE4, pdst=HOST4))
    return [
        Ether(type=0x8863) / Raw(b"\x11\x07\0\0\0\0"),
        Ether(type=0x0806) / Raw(b"\0\7" + seven[2:]),
    ]


def addressed(guest: RawGuest, payload: Packet, tags: Sequence[Packet]) -> Iterator[Packet]:
    """A payload at the uplink's MAC, to everybody and to a group, behind tags."""
    for to in (NEAR_MAC, BROADCAST, ALL6):
        frame = tagged(Ether(src=guest.mac, dst=to), tags)
        if isinstance(payload, Ether):
            frame.lastlayer().type, inner = payload.type, payload.payload
            yield frame / inner
        else:
            yield frame / payload


def hello(guest: RawGuest) -> Packet:
    words = IP(src=ROGUE4, dst=HOST4) / UDP(sport=9, dport=9) / b"hello"
    return Ether(src=guest.mac, dst=NEAR_MAC) / words


def await_meeting(scene: Scene, guest: RawGuest) -> None:
    if scene.meets:
        wait_for(lambda: scene.airtapd.status()["uplinks"][0]["host_access"], 5, "host access")
        wait_for(lambda: scene.arriving(guest, [hello(guest)]), 5, "the host to hear the guest")


@in_settings(lambda *_: True)
@pytest.mark.parametrize("tags", TAGS)
def test_nothing_configures_the_host(scene: Scene, tags: str) -> None:
    """Nor do a guest's tagged frames reach it, whatever they are."""
    with scene.guest() as guest:
        await_meeting(scene, guest)
        plain = hello(guest)
        withheld = [
            frame
            for payload in (*configuring(), *foreign(), *([plain.payload] if TAGS[tags] else []))
            for frame in addressed(guest, payload, TAGS[tags])
        ]
        expected = [raw(plain)[12:]] if scene.meets else []
        assert scene.arriving(guest, [plain, *withheld]) == expected


@in_settings(lambda *_: True)
@pytest.mark.parametrize("tags", TAGS)
def test_first_frames(scene: Scene, tags: str) -> None:
    """Those of a guest whose MAC is not known yet."""
    with scene.guest(told=False) as guest:
        frames = [one for payload in configuring() for one in addressed(guest, payload, TAGS[tags])]
        assert scene.arriving(guest, frames) == []


@contextmanager
def stopped(airtapd: Airtapd) -> Iterator[None]:
    os.kill(airtapd.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(airtapd.pid, signal.SIGCONT)


@in_settings(lambda kind, _, host_access: (kind, host_access) == ("macvtap", "true"))
def test_device_that_is_not_guarded_yet(scene: Scene) -> None:
    """Its user has another guest, whose MAC it uses."""
    with scene.guest() as guest, scene.airtapd.attach("up0") as tap:
        await_meeting(scene, guest)
        wait_for(lambda: "airtap_from" in _filters(tap.device), 5, "its guards")
        with stopped(scene.airtapd):
            command("tc", "qdisc", "delete", "dev", tap.device, "clsact")
            new = RawGuest(tap)
            deceive(new.send, scene.lan)
            assert scene.arriving(new, [hello(new)]) == []


def _filters(device: str) -> str:
    return command("tc", "filter", "show", "dev", device, "egress")


@in_settings(lambda kind, _, host_access: (kind, host_access) == ("macvtap", "true"))
def test_macvlan_in_another_namespace(scene: Scene) -> None:
    """With a guest's MAC: airtapd cannot see it."""
    with scene.guest() as guest, elsewhere() as namespace:
        await_meeting(scene, guest)
        with packet_socket(namespace, "mv0") as frames:
            deceive(lambda packet: frames.sendall(raw(packet)), scene.lan)


@contextmanager
def elsewhere() -> Iterator[str]:
    """A network namespace with a macvlan of the uplink, as of a container."""
    command("ip", "netns", "add", "elsewhere")
    try:
        words = "link add link up0 name mv0 netns elsewhere type macvlan mode bridge"
        command("ip", *words.split())
        command("ip", "-n", "elsewhere", "link", "set", "mv0", "up")
        yield "elsewhere"
    finally:
        command("ip", "-n", "elsewhere", "link", "delete", "mv0")
        command("ip", "netns", "delete", "elsewhere")


SOON = "2001:db8::aaaa"


def question(mac: str, address: str, to: str) -> Packet:
    """Is this address free? By ARP probe, or by duplicate address detection."""
    if ":" not in address:
        return Ether(src=mac, dst=to) / ARP(hwsrc=mac, psrc="0.0.0.0", pdst=address)
    group = f"ff02::1:ff00:{address.rpartition(':')[2]}"
    return Ether(src=mac, dst=to) / IPv6(src="::", dst=group, hlim=255) / ICMPv6ND_NS(tgt=address)


@in_settings(lambda _, macnat, host_access: (macnat, host_access) != ("off", "false"))
def test_an_address_that_the_host_is_about_to_have(scene: Scene) -> None:
    """No guest's question for it makes the host give it up."""
    Path("/proc/sys/net/ipv6/conf/up0/accept_dad").write_text("1")
    with scene.guest() as guest:
        await_meeting(scene, guest)
        command("ip", "address", "add", f"{SOON}/64", "dev", "up0")
        if scene.meets:
            wait_for(lambda: SOON in _solicited(guest), 5, "the host's question")
        for to in (NEAR_MAC, ALL6):
            guest.send(question(guest.mac, SOON, to))
        wait_for(lambda: not _asks_itself(), 5, "its answer to itself")
        assert "dadfailed" not in command("ip", "address", "show", "dev", "up0")


def _asks_itself() -> bool:
    shown = command("ip", "address", "show", "dev", "up0", "tentative")
    return SOON in shown and "dadfailed" not in shown


def _solicited(guest: RawGuest) -> set[str]:
    """For which addresses the host has asked a guest."""
    found = set()
    for frame in map(Ether, _waiting(guest)):
        if ICMPv6ND_NS in frame:
            found.add(frame[ICMPv6ND_NS].tgt)
    return found


def _waiting(guest: RawGuest) -> Iterator[bytes]:
    while select.select([guest.fd], [], [], 0)[0]:
        yield os.read(guest.fd, 1 << 16)[10:]


@in_settings(lambda _kind, _macnat, host_access: host_access == "true")
def test_questions_whether_an_address_is_free(scene: Scene) -> None:
    """The host hears those for its addresses, and answers; no others."""
    with scene.guest() as guest:
        await_meeting(scene, guest)
        if not scene.meets:
            return
        free = [question(guest.mac, address, BROADCAST) for address in ("192.0.2.77", "fe80::77")]
        own = [question(guest.mac, address, BROADCAST) for address in (HOST4, HOST6)]
        assert scene.arriving(guest, [*free, *own]) == [raw(frame)[12:] for frame in own]
        guest.send(own[1])
        wait_for(lambda: any(ICMPv6ND_NA in Ether(f) for f in _waiting(guest)), 5, "an answer")


@BOTH_KINDS
def test_what_the_lan_sends_back(lan: Lan, airtapd: Airtapd) -> None:
    """A guest's advertisement at the uplink's MAC, reflected with that MAC as its source."""
    Path("/proc/sys/net/ipv6/conf/up0/accept_ra").write_text("1")

    def advertise(source: str, to: str, prefix: str, *tags: Packet) -> bytes:
        frame = tagged(Ether(src=source, dst=to), tags)
        option = ICMPv6NDOptPrefixInfo(prefix=prefix)
        return raw(frame / IPv6(src=OWN6, dst="ff02::1", hlim=255) / ICMPv6ND_RA() / option)

    with raw_guest(airtapd), lan.frames() as far:
        for to in (NEAR_MAC, ALL6, BROADCAST):
            far.send(advertise(NEAR_MAC, to, "2001:db8:bad::"))
            far.send(advertise(NEAR_MAC, to, "2001:db8:bad::", *TAGS["priority"]))
        far.send(advertise(FAR_MAC, ALL6, "2001:db8:900d::"))
        shown = ("ip", "address", "show", "dev", "up0")
        wait_for(lambda: "2001:db8:900d:" in command(*shown), 5, "an advertisement to be heard")
        assert "2001:db8:bad:" not in command(*shown)


@BOTH_KINDS
def test_the_hosts_lease(lan: Lan, airtapd: Airtapd) -> None:
    """A guest that has the address which the host is offered does not get the offer."""
    message = BOOTP(op=2, yiaddr=ROGUE4, chaddr=bytes.fromhex(NEAR_MAC.replace(":", "")))
    offer = IP(src=ROUTER4, dst=ROGUE4) / UDP(sport=67, dport=68) / message
    with raw_guest(airtapd) as guest, lan.frames() as far:
        for vlan in (0, 5):
            guest.send(claim(ROGUE4, guest.mac, vlan=vlan))
        wait_for(lambda: ROGUE4 in known(airtapd, guest.mac), 5, "its address")
        far.send(bytes(mark(STRANGER)))
        guest.received()
        for tags in TAGS.values():
            far.send(raw(tagged(Ether(src=FAR_MAC, dst=NEAR_MAC), tags) / offer))
        far.send(bytes(mark(STRANGER)))
        assert not [frame for frame in guest.received() if BOOTP in Ether(frame)]

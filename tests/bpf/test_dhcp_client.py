"""DHCP in the uplink's name: what a server hears of a guest, and what that hears of its answer."""

from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import IPv4Address
from itertools import product

import pytest
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from airtap.bpf.records import Dhcp, pack_index
from tests.bpf.rig import Rig

GUEST, SIBLING, UPLINK, SERVER = (f"02:00:00:00:00:{n:02x}" for n in (0xA, 0xB, 1, 2))
HOST4 = "192.0.2.10"
ALL = "ff:ff:ff:ff:ff:ff"
NUMBER = 0x1234
CLIENT = 14 + 20 + 8 + 28  # where chaddr is in a frame


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def request(
    *options: object,
    number: int = NUMBER,
    pad: int = 0,
    sum_of: int | None = None,
    **fields: object,
) -> bytes:
    """A guest's, with these options; pad octets behind their end, sum_of: the UDP checksum."""
    message = BOOTP(op=1, xid=NUMBER, chaddr=octets(GUEST))
    message.fields.update(fields)
    message /= DHCP(options=[("message-type", "discover"), *options, "end", *["pad"] * pad])
    return raw(
        Ether(src=GUEST, dst=ALL)
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67, chksum=sum_of)
        / message
    )


def answer(number: int, client: str, address: str, *options: object, to: str = ALL) -> bytes:
    message = BOOTP(op=2, xid=number, chaddr=octets(client), yiaddr=address)
    message /= DHCP(options=[("message-type", "offer"), *options, "end"])
    udp = UDP(sport=67, dport=68) / message
    return raw(Ether(src=SERVER, dst=to) / IP(src="192.0.2.1", dst="255.255.255.255") / udp)


def begin(rig: Rig, choice: str = "uplink") -> int:
    """Two guests behind an uplink; the ifindex of one's device."""
    rig.reset()
    rig.macnat.config.set_parent(1, UPLINK)
    rig.macnat.hosts.set_addresses({IPv4Address(HOST4)}, set())
    for ifindex, mac in zip(rig.devices, (GUEST, SIBLING), strict=False):
        rig.macnat.guests.add(ifindex, mac)
    rig.macnat.dhcp.choose(choice)
    rig.macnat.dhcp.restart()
    return rig.devices[0]


def sent(rig: Rig, frame: bytes) -> Ether:
    """What leaves of a guest's frame, whose sums are right, and its lengths."""
    outcome = rig.run("to_uplink", frame, 1)
    assert outcome.passed
    return checked(outcome.frame)


def checked(frame: bytes) -> Ether:
    ether = Ether(frame)
    if ether[UDP].chksum:
        again = Ether(frame)
        del again[IP].chksum, again[UDP].chksum
        again = Ether(raw(again))
        assert (ether[IP].chksum, ether[UDP].chksum) == (again[IP].chksum, again[UDP].chksum)
    assert ether[IP].len == ether[UDP].len + 20 <= len(frame) - 14
    return ether


def identifier(frame: Ether) -> list[object]:
    named = [o for o in frame[DHCP].options if isinstance(o, tuple) and o[0] == "client_id"]
    return [value for _, value in named]


def requests(rig: Rig) -> None:
    """Their client is the uplink, and the guest's MAC the identifier, wherever the options end."""
    begin(rig)
    names = [("hostname", "g" * n) for n in (1, 2, 3, 4)]
    trailers = (b"", b"U" * 20)  # behind the packet, as padding of Ethernet
    for name, pad, sum_of, trailer in product(names, (0, 1, 8, 12, 60), (None, 0), trailers):
        frame = sent(rig, request(name, pad=pad, sum_of=sum_of) + trailer)
        assert frame[BOOTP].chaddr[:6] == octets(UPLINK)
        assert identifier(frame) == [b"\1" + octets(GUEST)]
        assert name[0] in {option[0] for option in frame[DHCP].options}
        assert frame[BOOTP].flags.B and frame[BOOTP].xid != NUMBER
    own = sent(rig, request(("client_id", b"\0own")))
    assert identifier(own) == [b"\0own"]
    assert own[BOOTP].chaddr[:6] == octets(UPLINK)
    assert sent(rig, request())[BOOTP].xid != sent(rig, request())[BOOTP].xid


def others(rig: Rig) -> None:
    """What is no client's of Ethernet, or not DHCP, is as it is."""
    begin(rig)
    for fields in ({"giaddr": "192.0.2.3"}, {"hlen": 5}):
        frame = sent(rig, request(**fields))
        assert (frame[BOOTP].chaddr[:6], frame[BOOTP].xid) == (octets(GUEST), NUMBER)
    whole = request()
    cookie = whole.index(b"\x63\x82\x53\x63")
    for broken in (whole[:cookie] + b"\0" + whole[cookie + 1 :], whole[: cookie + 4]):
        outcome = rig.run("to_uplink", broken, 1)
        assert outcome.frame[CLIENT : CLIENT + 6] == octets(GUEST)


def answers(rig: Rig) -> None:
    """They are the guest's that has asked, and have only what it has sent."""
    begin(rig)
    for frame, named in ((request(), True), (request(("client_id", b"\1abcdef")), False)):
        number = sent(rig, frame)[BOOTP].xid
        for name in (("hostname", "g" * n) for n in (1, 2)):
            echoed = ("client_id", b"\1" + octets(GUEST))
            for to in (ALL, UPLINK):
                options = name, echoed, ("router", "192.0.2.1")
                came = answer(number, UPLINK, "192.0.2.150", *options, to=to)
                outcome = rig.run("from_uplink", came, 1)
                assert outcome.passed and outcome.frame[:6] == octets(ALL)
                given = checked(outcome.frame)
                assert (given[BOOTP].chaddr[:6], given[BOOTP].xid) == (octets(GUEST), NUMBER)
                assert identifier(given) == ([] if named else [b"\1" + octets(GUEST)])
                assert ("router", "192.0.2.1") in given[DHCP].options
                assert name[0] in {option[0] for option in given[DHCP].options}


def not_theirs(rig: Rig) -> None:
    """The host's answers are the host's, and its address is no guest's."""
    begin(rig)
    hosts = answer(NUMBER, UPLINK, HOST4)
    assert rig.run("from_uplink", hosts, 1).frame == hosts
    number = sent(rig, request())[BOOTP].xid
    for count in (1, 2):
        assert not rig.run("from_uplink", answer(number, UPLINK, HOST4), 1).passed
        assert (state(rig).unanswered, state(rig).hosts_address) == (1, count)
    assert rig.run("from_uplink", hosts, 1).frame == hosts
    rig.run("from_uplink", answer(number, UPLINK, "192.0.2.150"), 1)
    assert (state(rig).unanswered, state(rig).hosts_address) == (0, 0)
    begin(rig, "auto")
    sent(rig, request())  # under the host's number, in its own name
    hosts = answer(NUMBER, UPLINK, "192.0.2.152")
    assert rig.run("from_uplink", hosts, 1).frame == hosts
    begin(rig)
    for address, passes in ((HOST4, False), ("192.0.2.150", True)):
        declined = request(("requested_addr", address))
        assert rig.run("to_uplink", declined, 1).passed is passes


def state(rig: Rig, **changes: int) -> Dhcp:
    """How guests ask now; first changed."""
    table = rig._object.map("dhcp_state")
    found = Dhcp.unpack(table.lookup(pack_index(0)) or b"")._replace(**changes)
    table.update(pack_index(0), found.pack())
    return found


def in_turn(rig: Rig) -> None:
    """Left to it, it asks the other way when two requests in 5 s had no answer."""
    begin(rig, "auto")
    ways = []
    for _ in range(6):
        ways.append(sent(rig, request())[BOOTP].chaddr[:6] == octets(UPLINK))
        if len(ways) % 2 == 0:
            state(rig, since=1)
    assert ways == [False, False, True, True, False, False]
    begin(rig, "auto")
    assert not any(sent(rig, request())[BOOTP].chaddr[:6] == octets(UPLINK) for _ in range(5))


def kept(rig: Rig) -> None:
    """What was answered first stays."""
    begin(rig, "auto")
    sent(rig, request())
    foreign = answer(NUMBER, "02:00:00:00:00:99", "192.0.2.151")
    assert rig.run("from_uplink", foreign, 1).frame == foreign
    assert not state(rig).settled
    rig.run("from_uplink", answer(NUMBER, GUEST, "192.0.2.150"), 1)
    assert (state(rig).settled, state(rig).in_uplinks_name) == (1, 0)
    for _ in range(6):
        state(rig, since=1, tried=9)
        assert sent(rig, request())[BOOTP].chaddr[:6] == octets(GUEST)
    begin(rig, "auto")
    state(rig, since=1, tried=2)
    number = sent(rig, request())[BOOTP].xid
    rig.run("from_uplink", answer(number, UPLINK, "192.0.2.150"), 1)
    assert (state(rig).settled, state(rig).in_uplinks_name) == (1, 1)


def offered(rig: Rig) -> None:
    """Who is offered an address will soon be asked whether it has come to have it."""
    for choice, client in (("keep", GUEST), ("uplink", UPLINK)):
        one = begin(rig, choice)
        rig.macnat.bearers.add(one, GUEST)
        rig.macnat.probed.add_guest(one)
        number = sent(rig, request())[BOOTP].xid
        for address in (HOST4, "0.0.0.0", "192.0.2.150"):
            came = answer(number, client, address)
            rig.run("from_uplink", came[:12] + b"\x81\0\0\5" + came[12:], 1)
        rig.run("from_uplink", answer(number, SIBLING, "192.0.2.151"), 1)
        assert list(rig.macnat.probed.of(one)) == [(IPv4Address("192.0.2.150"), 5)]
        assert not rig.macnat.probed.of(rig.devices[1])
        rig.macnat.bearers.remove(one)


CHECKS = (requests, others, answers, not_theirs, in_turn, kept, offered)
MUTANTS = {
    "an offer is not noted": ("c.ifindex = bearer->ifindex;", "return 0;"),
    "nor in the uplink's name": ("\tnote_offer(&transaction->client, m->yiaddr, vlan);\n", ""),
    "offers in other VLANs": ("c.key.vlan = vlan;", ""),
    "no identifier": ("transaction.is_named = !has_id;", "transaction.is_named = 1;"),
    "the guest's own number": ("number = bpf_get_prandom_u32();", "number = 0x34120000;"),
    "relays": ("if (!last || m.giaddr || m.hlen", "if (!last || m.hlen"),
    "other links": ("m.giaddr || m.hlen != ETH_ALEN ||", "m.giaddr ||"),
    "BOOTP": ("m.hlen != ETH_ALEN || cookie != bpf_htonl(MAGIC_COOKIE))", "m.hlen != ETH_ALEN)"),
    "even places only": ("odd = (at - l4) & 1, start", "odd = 0, start"),
    "what was beyond": ("(counted < WINDOW ? counted : WINDOW) - 1", "WINDOW - 1"),
    "the former length": ("bpf_ntohs(was) + by);\n\treturn", "bpf_ntohs(was));\n\treturn"),
    "no room": ("WINDOW - counted))", "0))"),
    "the host's address declined": ("if (names_host(skb, l4 + OPTIONS, end))", "if (0)"),
    "the host's address": ("dhcp->hosts_address++;\n\t\treturn -1;", "dhcp->hosts_address++;"),
    "it is not counted": ("dhcp->hosts_address++;", ";"),
    "it counts for ever": ("dhcp->hosts_address = 0;", ""),
    "requests uncounted": ("dhcp->unanswered++;", ""),
    "unanswered for ever": ("dhcp->unanswered = 0;", ""),
    "the identifier stays": ("at = is_named ? find", "at = 0 ? find"),
    "every identifier goes": ("at = is_named ? find", "at = 1 ? find"),
    "the option behind it goes": ("at + 9, chunk.octets + 9, 1)", "at + 9, chunk.octets, 1)"),
    "at once": (" && now - dhcp->since >= TRIED_FOR", ""),
    "never the other way": ("dhcp->in_uplinks_name ^= 1;", ""),
    "any client's answer": (" && same(m.chaddr, transaction->client.w))", ")"),
    "the host's answer to a number of a guest's": (
        "!transaction || transaction->is_own)",
        "!transaction)",
    ),
    "never settled": ("dhcp->settled = 1;", ""),
    "settled for the other": ("\tsettle(true);", "\tsettle(false);"),
    "broadcasts unheard": ("if (!(to_us || is_group((__u16 *)eth->h_dest)) ||", "if (!to_us ||"),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_dhcp_in_the_uplinks_name(loaded: Rig, check: Callable[[Rig], None]) -> None:
    check(loaded)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_changed_line_is_noticed(name: str, noticed: dict[str, Future[bool]]) -> None:
    assert noticed[name].result()


def check_all(rig: Rig) -> None:
    for check in CHECKS:
        check(rig)

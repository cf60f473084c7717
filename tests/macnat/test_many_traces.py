"""Many traces at a time: how many run, and who sees what."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from lab.airtap import Airtapd
from lab.lan import FAR_MAC, NEAR_MAC, ROUTER4, Lan, wait_for
from lab.traffic import GUEST4, GUEST_MAC, SIBLING4, SIBLING_MAC, RawGuest, claim
from lab.users import connected_as
from tests.macnat.test_trace import tracing

USERS = range(10001, 10006)
PER_USER = 4
IN_ALL = 16
NOBODYS = "192.0.2.99"


@contextmanager
def asked(airtapd: Airtapd, guest: str, uid: int) -> Iterator[str]:
    """A trace that a user asks for, and what became of that: the problem, if there is one."""
    with connected_as(uid, airtapd.socket) as peer:
        peer.send(json.dumps({"op": "trace", "guest": guest}).encode())
        yield json.loads(peer.recv(1 << 14)).get("problem", "")


def test_traces_of_all_users_are_counted(lan: Lan, airtapd: Airtapd) -> None:
    with ExitStack() as held:
        devices = {
            uid: held.enter_context(airtapd.attach(lan.near, uid=uid)).device for uid in USERS
        }

        def refusal(uid: int, kept: ExitStack) -> str:
            return kept.enter_context(asked(airtapd, devices[max(uid, USERS[0])], uid))

        with ExitStack() as traces:
            for uid in USERS[: IN_ALL // PER_USER]:
                assert [refusal(uid, traces) for _ in range(PER_USER)] == [""] * PER_USER
                assert refusal(uid, traces) == "too-many-traces"
            assert refusal(USERS[-1], traces) == "too-many-traces"
            assert refusal(0, traces) == ""

        def one_more() -> bool:
            with ExitStack() as kept:
                return not refusal(USERS[-1], kept)

        wait_for(one_more, 20, "those that have ended not to count")


def test_each_shows_its_own_guest(lan: Lan, airtapd: Airtapd) -> None:
    """While all are told of at once, another user's guest and what is nobody's are not shown."""
    mine, other = USERS[:2]
    with (
        airtapd.attach(lan.near, GUEST_MAC, uid=mine) as tap,
        airtapd.attach(lan.near, SIBLING_MAC, uid=other) as another,
        tracing(airtapd, tap.device, uid=mine) as trace,
        tracing(airtapd, another.device, uid=other) as others,
        tracing(airtapd, tap.device) as roots,
        lan.frames() as frames,
    ):
        for guest, mac, address in (tap, GUEST_MAC, GUEST4), (another, SIBLING_MAC, SIBLING4):
            ping = IP(src=address, dst=ROUTER4) / ICMP()
            RawGuest(guest, mac).send(Ether(src=mac, dst=FAR_MAC) / ping)
        frames.send(
            bytes(Ether(src=FAR_MAC, dst=NEAR_MAC) / IP(src=NOBODYS, dst="192.0.2.98") / ICMP())
        )
        frames.send(bytes(claim("192.0.2.9", FAR_MAC)))
        for one in trace, others, roots:
            one.says(".*ARP announcement: 192.0.2.9 .*")
        pings = {
            address: re.compile(f"echo request {address} > ")
            for address in (GUEST4, SIBLING4, NOBODYS)
        }
        seen = [
            {address for address, ping in pings.items() if any(map(ping.search, one.lines))}
            for one in (trace, others, roots)
        ]
    assert seen == [{GUEST4}, {SIBLING4}, {GUEST4, NOBODYS}]

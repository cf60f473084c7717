"""How many traces run at a time, of one user and of all."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lab.airtap import Airtapd
from lab.lan import Lan, wait_for
from lab.users import acting_as

USERS = range(10001, 10006)
PER_USER = 4
IN_ALL = 16


@contextmanager
def asked(airtapd: Airtapd, guest: str, uid: int) -> Iterator[str]:
    """A trace that a user asks for, and what became of that: the problem, if there is one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        with acting_as(uid):
            peer.connect(airtapd.socket)
        peer.settimeout(20)
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

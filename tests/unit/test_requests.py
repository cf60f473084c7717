"""How requests are read from messages, and how what fails is answered."""

import asyncio
import errno
import os
from contextlib import aclosing
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtap.bpf.libbpf import BpfError
from airtap.daemon.broker import Broker
from airtap.daemon.server import Requests
from airtap.errors import Problem
from airtap.ipc import protocol, requests
from airtap.ipc.requests import AttachRequest, MapDevicesRequest, Request
from airtap.kernel.credentials import Peer

CLASSES = [of for of in vars(requests).values() if isinstance(of, type) and issubclass(of, Request)]
FIELDS = ["br", "mac", "vnet_hdr", "kind", "device", "uuid", "domain", "parent", "names", "guest"]
VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text() | st.none())
ROOT = Peer(1, 0, 0, ())
USER = Peer(1, 1000, 1000, ())


@given(st.sampled_from(CLASSES), st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_parse_raises_nothing_but_bad_message(of: type[Request], fields: dict[str, object]) -> None:
    try:
        request = of.parse({"op": "x", **fields})
    except Problem as problem:
        assert problem.code == "bad-message"
    else:
        assert vars(request).keys() >= fields.keys()


def test_what_may_be_left_out() -> None:
    assert AttachRequest.parse({"op": "attach", "br": "x"}) == AttachRequest("x", None, False, None)


def test_names_are_a_list() -> None:
    assert MapDevicesRequest.parse({"op": "x", "names": ["a", "b"]}).names == ["a", "b"]


def test_the_complaint_tells_all_fields() -> None:
    with pytest.raises(Problem) as caught:
        AttachRequest.parse({"op": "attach", "br": 5})
    wanted = "attach wants br: text, mac: text, vnet_hdr: true|false, kind: text"
    assert caught.value.message == wanted


class Failing:
    """A broker whose attach() fails, or gives a device."""

    def __init__(self, error: Exception | None = None, descriptor: int = -1) -> None:
        self._error = error
        self._descriptor = descriptor

    async def attach(self, request: AttachRequest, peer: Peer) -> tuple[str, int]:
        if self._error is not None:
            raise self._error
        return "airtap0", self._descriptor


def answered(broker: Failing, message: dict[str, Any], peer: Peer = USER) -> list[Any]:
    """The messages that answer a request."""

    async def ask() -> list[Any]:
        served = Requests(cast(Any, None), cast(Broker, broker), cast(Any, None))
        async with aclosing(served.replies(protocol.encode(message), peer)) as replies:
            return [reply.message async for reply in replies]

    return asyncio.run(ask())


ATTACH = {"op": "attach", "br": "up0"}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Problem("parent-busy", "it is"), "parent-busy", "it is"),
        (BpfError(errno.E2BIG, "write map tables: too long"), "no-device", "write map tables"),
        (ValueError("a bug"), "internal", "airtapd failed: a bug"),
    ],
    ids=["problem", "os", "bug"],
)
def test_one_answer_for_what_fails(error: Exception, code: str, message: str) -> None:
    [answer] = answered(Failing(error), ATTACH)
    assert (answer["ok"], answer["problem"]) == (False, code)
    assert message in answer["message"]


def test_hooks_requests_are_for_root() -> None:
    for op in ("prepare-uplink", "create-device", "set-owner", "map-devices"):
        assert answered(Failing(), {"op": op})[0]["problem"] == "access-denied"
        assert answered(Failing(), {"op": op}, ROOT)[0]["problem"] == "bad-message"


def test_descriptor_is_closed_once_it_is_sent() -> None:
    kept, given_away = os.pipe()
    assert answered(Failing(descriptor=given_away), ATTACH) == [{"ok": True, "device": "airtap0"}]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given_away)
    os.close(kept)

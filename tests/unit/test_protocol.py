"""Messages between clients and airtapd."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airtap.errors import Problem
from airtap.ipc import protocol

ANY_TEXT = st.text(st.characters(exclude_categories=()))
Flat = str | bool | None | Sequence[str]
# Two surrogates that happen to make a pair are one character to JSON; argv has none such.
NO_PAIRS = st.text(st.characters(exclude_categories=["Cs"]))
FLAT = st.none() | st.booleans() | ANY_TEXT | st.lists(ANY_TEXT)


def attach(br: str, mac: str | None, vnet: bool) -> dict[str, Flat]:
    return {"op": "attach", "br": br, "mac": mac, "vnet_hdr": vnet}


@settings(max_examples=500)
@example(attach("br0", None, False))
@example(attach('br\udcff"\\\n\0\x7f\u2028é😀', "\ud800", True))
@given(st.dictionaries(ANY_TEXT, FLAT))
def test_encode_flat_makes_what_json_would(message: dict[str, Flat]) -> None:
    assert protocol.encode_flat(message) == json.dumps(message).encode("ascii")


@given(NO_PAIRS, st.binary(), st.booleans())
def test_attach_request_round_trip(mac: str, raw: bytes, vnet: bool) -> None:
    message = attach(raw.decode("utf-8", "surrogateescape"), mac, vnet)
    assert protocol.decode(protocol.encode_flat(message)) == message


def test_longest_sensible_request_fits() -> None:
    """15 bytes that each need a \\u escape are far below the limit."""
    request = protocol.encode_flat(attach("\udcff" * 15, "52:54:00:12:34:56", True))
    assert len(request) < protocol.MAX_REQUEST // 8


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=10,
)


@given(st.dictionaries(NO_PAIRS, st.none() | st.booleans() | st.integers() | NO_PAIRS))
def test_encode_and_decode(message: dict[str, object]) -> None:
    assert protocol.decode(protocol.encode(message)) == message


@settings(max_examples=500)
@example(b"")
@example(b"{")
@example(b"\xff\xfe{\x00}\x00")
@example(b"[" * 4096)
@example(b'{"a":' * 800)
@example(b'{"a": ' + b"9" * 4090 + b"}")
@example(b'{"a": ' + b"9" * 16000 + b"}")
@example(b'{"a": NaN, "b": -Infinity, "c": 1e999999}')
@example(b'{"a": "\\ud800"}')
@example(b'{"a": "\xed\xa0\x80"}')
@example(b'{"a": "\\u00"}')
@example(b"\xef\xbb\xbf{}")
@example(b"{}\0")
@example(b"\0\0\0{")
@given(st.one_of(st.binary(), JSON.map(json.dumps).map(str.encode), st.text().map(str.encode)))
def test_decode_raises_nothing_but_a_problem(packet: bytes) -> None:
    try:
        message = protocol.decode(packet)
    except Problem as problem:
        assert problem.code == "bad-message"
    else:
        assert isinstance(message, dict)


@pytest.mark.parametrize(
    "packet", [b"", b"null", b"[]", b'"{}"', b"1", b"true", b"{", b"{}{}", b"{'a': 1}", b'{"a"}']
)
def test_what_is_no_message(packet: bytes) -> None:
    with pytest.raises(Problem) as caught:
        protocol.decode(packet)
    assert caught.value.code == "bad-message"


@given(st.text(), st.text(), st.text())
def test_a_problem_survives_the_wire(code: str, message: str, hint: str) -> None:
    answer = protocol.decode(protocol.encode(protocol.failure(Problem(code, message, hint))))
    with pytest.raises(Problem) as caught:
        protocol.check(answer)
    problem = caught.value
    assert (problem.code, problem.message, problem.hint) == (code, message, hint)


def test_a_good_answer_is_returned() -> None:
    answer: dict[str, object] = {"ok": True, "device": "airtap0"}
    assert protocol.check(answer) is answer
    assert protocol.read_answer(protocol.encode(answer)) == answer
    assert protocol.read_answer(protocol.encode({"ok": True})) == {"ok": True}


@pytest.mark.parametrize("ok", [1, "true", "yes", [True], None, False])
def test_only_true_is_good(ok: object) -> None:
    with pytest.raises(Problem):
        protocol.check({"ok": ok})


@given(
    st.dictionaries(
        st.sampled_from(["ok", "problem", "message", "hint", "x"]),
        JSON.filter(lambda v: v is not True),
    )
)
def test_a_senseless_answer_is_a_problem(answer: dict[str, object]) -> None:
    with pytest.raises(Problem) as caught:
        protocol.check(answer)
    assert str(caught.value).isprintable()

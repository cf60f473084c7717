"""Echo requests and what answers them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP

from airtap.packet.icmp import answered, echo_request

TOKEN = bytes(range(16))


def reply(six: bool, sequence: int, token: bytes = TOKEN, kind: int | None = None) -> bytes:
    message = bytearray(echo_request(six, sequence, token))
    message[0] = (129 if six else 0) if kind is None else kind
    return bytes(message) if six else raw(IP(src="192.0.2.1", dst="192.0.2.2")) + bytes(message)


def test_request_over_ipv4_is_sound() -> None:
    request = echo_request(False, 7, TOKEN)
    parsed = ICMP(request)
    assert (parsed.type, parsed.code, parsed.seq) == (8, 0, 7)
    parsed.chksum = None
    assert raw(parsed) == request


@pytest.mark.parametrize("six", [False, True])
def test_answers(six: bool) -> None:
    assert answered(six, reply(six, 3), TOKEN) == 3
    assert answered(six, reply(six, 3, bytes(16)), TOKEN) is None, "to another"
    assert answered(six, reply(six, 3, kind=128 if six else 8), TOKEN) is None, "a request"


@given(st.booleans(), st.binary(max_size=100))
def test_any_bytes(six: bool, packet: bytes) -> None:
    assert answered(six, packet, TOKEN) is None or TOKEN in packet

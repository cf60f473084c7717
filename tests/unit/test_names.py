"""Names and MAC addresses from outside."""

import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airtap.errors import Problem
from airtap.names import device_name, mac_address

# isspace() of the kernel's lib/ctype.c, which is Latin-1's: dev_valid_name() asks it.
KERNEL_SPACE = b"\t\n\v\f\r \xa0"


def accepted(text: str) -> bool:
    try:
        assert device_name(text) == text
    except Problem as problem:
        assert problem.code == "bad-name"
        return False
    return True


def kernel_accepts(name: bytes) -> bool:
    """net/core/dev.c: dev_valid_name(). A NUL would end the name, so none is in one."""
    return (
        0 < len(name) < 16
        and name not in (b".", b"..")
        and not any(byte in b"/:\0" + KERNEL_SPACE for byte in name)
    )


@pytest.mark.parametrize(
    "name",
    [
        *("eth0", "br-lan", "wlp0s20f3", "a", "...", ".a", "a.", "-", "--br=x", "eth0.100"),
        *("tap%d", "all", "abcdefghijklmno", "brücke0", "üüüüüüü1", "日本", "x\x7f", "x\x01"),
        *('"', "'", "\\", "a\u200bb", "\x1c", "\x1f"),
        # White space in Unicode and, byte by byte, none to the kernel.
        *("\u0085", "a\u2003b", "a\u3000b", "\u2028"),
    ],
)
def test_good_names(name: str) -> None:
    assert kernel_accepts(name.encode())
    assert accepted(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "../etc", "a/b", "eth0:1", ":", "a b", " a", "a ", "a\tb", "a\n"),
        *("\n", "a\vb", "a\fb", "a\r", "\0", "a\0", "a\0b", "abcdefghijklmnop", "üüüüüüüü"),
        "x" * 100_000,
        "\u00a0",
        # Their UTF-8 holds the byte 0xa0.
        *("à", "a\u2020b", "㠠"),
    ],
)
def test_bad_names(name: str) -> None:
    assert not kernel_accepts(name.encode())
    assert not accepted(name)


@pytest.mark.parametrize("name", ["\udcff", "br\udc80", "\ud800", "\udfff", "x" * 20 + "\udcff"])
def test_names_that_are_not_utf8(name: str) -> None:
    with pytest.raises(Problem) as caught:
        device_name(name)
    assert caught.value.code == "bad-name"
    str(caught.value).encode()  # can be printed


@settings(max_examples=1000)
@example("\u0085")
@example("à")
@given(
    st.text(
        st.one_of(st.sampled_from("ab./:\0 \t\n\v\f\r\x1c\x85\xa0ü€\u2003\udcff"), st.characters()),
        max_size=18,
    )
)
def test_the_kernels_rule(text: str) -> None:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        assert not accepted(text)
    else:
        assert accepted(text) == kernel_accepts(raw)


@given(st.text(max_size=40))
def test_complaints_are_one_printable_line(text: str) -> None:
    for check in (device_name, mac_address):
        try:
            check(text)
        except Problem as problem:
            assert str(problem).isprintable()


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("52:54:00:12:34:56", "52:54:00:12:34:56"),
        ("52:54:00:AB:cd:EF", "52:54:00:ab:cd:ef"),
        ("02:00:00:00:00:00", "02:00:00:00:00:00"),
        ("00:00:00:00:00:01", "00:00:00:00:00:01"),
        ("FE:FF:FF:FF:FF:FF", "fe:ff:ff:ff:ff:ff"),
    ],
)
def test_good_macs(text: str, mac: str) -> None:
    assert mac_address(text) == mac


@pytest.mark.parametrize(
    "text",
    [
        *("", "52:54:00:12:34", "52:54:00:12:34:56:78", "52-54-00-12-34-56", "525400123456"),
        *("52:54:0:12:34:56", "52:54:000:12:34:5", "52:54:00:12:34:5g", "52.54.00.12.34.56"),
        *(" 52:54:00:12:34:56", "52:54:00:12:34:56\n", "52:54:00:12:34:56 ", "0x52:54:00:12:34:5"),
        *(
            "\u0665\u0662:54:00:12:34:56",
            "\uff15\uff12:54:00:12:34:56",
            "52:54:00:12:34:5\0",
            "+2:54:00:12:34:56",
        ),
        # No station's own: multicast, broadcast, none at all.
        *("01:00:5e:00:00:01", "33:33:00:00:00:01", "53:54:00:12:34:56"),
        *("ff:ff:ff:ff:ff:ff", "FF:FF:FF:FF:FF:FF", "00:00:00:00:00:00"),
        "52:54:00:12:34:56" * 10_000,
        "\udcff",
    ],
)
def test_bad_macs(text: str) -> None:
    with pytest.raises(Problem) as caught:
        mac_address(text)
    assert caught.value.code == "bad-mac"
    assert len(str(caught.value)) < 500


@given(st.binary(min_size=6, max_size=6))
def test_every_mac(raw: bytes) -> None:
    good = not raw[0] & 1 and any(raw)
    for text in (raw.hex(":"), raw.hex(":").upper()):
        try:
            assert mac_address(text) == raw.hex(":")
            assert good
        except Problem:
            assert not good


def test_no_other_character_is_a_digit() -> None:
    """Lower-casing, which is done first, makes no hexadecimal digit of another character."""
    for code in range(128, sys.maxunicode + 1):
        assert chr(code).lower()[0] not in "0123456789abcdef:"

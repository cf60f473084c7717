"""The one error type."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtap.errors import Problem, reason


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("x", "it failed"), "it failed"),
        (Problem("x", "it failed", "do that"), "it failed; do that"),
        (Problem("x", "name 'brücke'"), "name 'brücke'"),
        (Problem("x", "a\nb\tc\x1b[31m\0"), "a\\nb\\tc\\x1b[31m\\x00"),
        (Problem("x", "\udcff \u2028\u202e"), "\\udcff \\u2028\\u202e"),
    ],
)
def test_one_line(problem: Problem, text: str) -> None:
    assert str(problem) == text


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_safe_on_a_terminal(text: str) -> None:
    shown = str(Problem("code", text, text))
    assert shown.isprintable()
    shown.encode()


def test_reason() -> None:
    assert reason(OSError(errno.ENODEV, "No such device", "eth9")) == "No such device"
    assert reason(OSError("cannot")) == "cannot"

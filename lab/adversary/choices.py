"""What adversaries are told to do, in numbers that hypothesis draws."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Choices:
    """A number as a row of choices, the first of which are taken by 0."""

    def __init__(self, number: int) -> None:
        self._left = number

    def of(self, *options: T) -> T:
        self._left, index = divmod(self._left, len(options))
        return options[index]

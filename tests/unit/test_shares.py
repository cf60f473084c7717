"""Whose request is next."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress

import pytest

from airtap.daemon import shares
from airtap.daemon.shares import Shares

ROOT, ALICE, BOB, CAROL = 0, 1001, 1002, 1003


class Office:
    """Who has begun, in that order, at requests that take as long as the test likes."""

    def __init__(self) -> None:
        self._shares = Shares()
        self.begun: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.Event] = []

    async def ask(self, *users: int) -> None:
        for uid in users:
            end = asyncio.Event()
            self._ends.append(end)
            self.tasks.append(asyncio.create_task(self._request(uid, end)))
        await settle()

    async def end(self, number: int) -> None:
        self._ends[number].set()
        await settle()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _request(self, uid: int, end: asyncio.Event) -> None:
        async with self._shares.turn(uid):
            self.begun.append(uid)
            await end.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(story: Callable[[Office], Coroutine[None, None, None]]) -> None:
    async def told() -> None:
        office = Office()
        try:
            await story(office)
        finally:
            await office.close()

    asyncio.run(told())


def test_users_take_turns_however_many_requests_each_has() -> None:
    async def story(office: Office) -> None:
        await office.ask(ALICE, ALICE, ALICE, BOB, CAROL)
        for number in (0, 3, 4, 1):
            await office.end(number)
        assert office.begun == [ALICE, BOB, CAROL, ALICE, ALICE]

    run(story)


def test_who_has_just_been_served_is_behind_those_who_came_meanwhile() -> None:
    async def story(office: Office) -> None:
        await office.ask(ALICE, ALICE)
        await office.ask(BOB)
        await office.end(0)
        assert office.begun == [ALICE, BOB]

    run(story)


def test_a_slow_request_lets_others_begin_but_not_that_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shares, "_ALONE_S", 0.01)

    async def story(office: Office) -> None:
        await office.ask(ALICE, ALICE, ROOT, ROOT, BOB)
        assert office.begun == [ALICE]
        await until(lambda: len(office.begun) == 4)
        await asyncio.sleep(0.03)
        assert sorted(office.begun) == [ROOT, ROOT, ALICE, BOB]
        await office.end(0)
        await until(lambda: len(office.begun) == 5)

    run(story)


def test_who_gives_up_leaves_no_gap() -> None:
    async def story(office: Office) -> None:
        await office.ask(ALICE, BOB, ALICE, CAROL)
        for number in (1, 2, 0):  # two that wait, and the one at work
            office.tasks[number].cancel()
            with suppress(asyncio.CancelledError):
                await office.tasks[number]
        await settle()
        assert office.begun == [ALICE, CAROL]

    run(story)


async def until(happens: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not happens():
            await asyncio.sleep(0.005)

"""Bouts with adversaries: for a time, by seeds; a failure is reduced to what it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from lab.adversary.arena import Arena, Batch, batches
from lab.adversary.attacks import Attack
from lab.adversary.crowd import Crowd, Step, sequences

# For each adversary and kind of device.
SECONDS = float(os.environ.get("AIRTAP_ADVERSARY_SECONDS", "30"))
SEED = int(os.environ.get("AIRTAP_ADVERSARY_SEED", "1"))
# Of one seed.
_EXAMPLES = 50

T = TypeVar("T")


class Bout:
    """For so many seconds an adversary does what hypothesis draws."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._began = time.monotonic()
        self.seed = SEED
        self.played = 0

    def play(self, drawn: SearchStrategy[T], play: Callable[[T], None]) -> None:
        """Play until the time is over. Raises what play raises."""

        def in_time(example: T) -> None:
            if time.monotonic() < self._end:
                self.played += 1
                play(example)

        while time.monotonic() < self._end:
            _drawn(self.seed, drawn, in_time)
            self.seed += 1

    def __str__(self) -> str:
        took = time.monotonic() - self._began
        return f"{self.played} played in {took:.0f} s, seeds {SEED} to {self.seed - 1}"


def _drawn(number: int, strategy: SearchStrategy[T], play: Callable[[T], None]) -> None:
    """Play the examples of a seed. Hypothesis does not shrink them: each may take seconds."""

    @seed(number)
    @settings(
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(strategy)
    def drawn(example: T) -> None:
        play(example)

    drawn()


def fight(arena: Arena, seconds: float) -> str:
    """A hostile guest does its worst. Gives the figures; AssertionError says how it has won."""
    bout, before = Bout(seconds), arena.frames

    def play(batch: Batch) -> None:
        if wrongs := arena.play(batch):
            raise AssertionError(_told(arena, batch, wrongs, bout.seed))

    bout.play(batches, play)
    return f"{arena.setting}: {arena.frames - before} frames, {bout}"


def crowd_out(crowd: Crowd, seconds: float) -> str:
    """Hostile users do their worst. Gives the figures; AssertionError says how they have won."""
    bout, before = Bout(seconds), crowd.packets

    def play(sequence: list[Step]) -> None:
        if wrongs := crowd.play(sequence):
            least = fewest(sequence, lambda tried: _crowded(crowd, tried))
            said = [f"seed {bout.seed}", *wrongs, "reduced:", *map(str, least)]
            raise AssertionError("\n".join(said))

    bout.play(sequences, play)
    return f"{crowd}: {crowd.packets - before} packets, {bout}"


def _crowded(crowd: Crowd, sequence: Sequence[Step]) -> bool:
    crowd.close()
    crowd.start()
    return bool(crowd.play(sequence))


def _told(arena: Arena, batch: Batch, wrongs: list[str], number: int) -> str:
    least = reduced(batch, lambda tried: _fails(arena, tried))
    again = least or batch
    writes = [octets.hex() for attack in again.attacks for octets in attack.writes()]
    how = "reduced" if least else "which did not fail again, after all was mended"
    said = [f"{arena.setting}, seed {number}", *wrongs, f"{how}:", str(again), *writes[:20]]
    return "\n".join(said)


def _fails(arena: Arena, batch: Batch) -> bool:
    arena.mend()
    return bool(arena.play(batch))


def reduced(batch: Batch, fails: Callable[[Batch], bool]) -> Batch | None:
    """The least of a batch that still fails: as few attacks as can be, each as plain as can be.

    None if nothing of it fails when it is tried again.
    """
    if not fails(batch):
        return None
    attacks = fewest(batch.attacks, lambda some: fails(replace(batch, attacks=some)))
    for place, attack in enumerate(attacks):
        for plainer in _plainer(attack):
            tried = [*attacks[:place], plainer(attacks[place]), *attacks[place + 1 :]]
            if tried != attacks and fails(replace(batch, attacks=tried)):
                attacks = tried
    plain = replace(batch, attacks=attacks, mood="plain")
    return plain if batch.mood != "plain" and fails(plain) else replace(plain, mood=batch.mood)


def fewest(all_of_it: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """Halves as long as one of them fails, then one less at a time (Zeller's ddmin, in short)."""
    left = list(all_of_it)
    while len(left) > 1:
        half = len(left) // 2
        found = next((h for h in (left[:half], left[half:]) if fails(h)), None)
        if found is None:
            break
        left = found
    for one in list(left) if len(left) > 1 else ():
        fewer = [other for other in left if other is not one]
        if fewer and fails(fewer):
            left = fewer
    return left


def _plainer(attack: Attack) -> list[Callable[[Attack], Attack]]:
    return [
        lambda a: replace(a, header=0),
        lambda a: replace(a, wrapping=0),
        lambda a: replace(a, tags=0),
        lambda a: replace(a, snap=False),
    ]

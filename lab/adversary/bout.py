"""A bout with a hostile guest: for a time, by a seed; a failure is reduced to what it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, Phase, given, seed, settings

from lab.adversary.arena import Arena, Batch, batches
from lab.adversary.attacks import Attack

# For each adversary and kind of device.
SECONDS = float(os.environ.get("AIRTAP_ADVERSARY_SECONDS", "30"))
SEED = int(os.environ.get("AIRTAP_ADVERSARY_SEED", "1"))
_BATCHES = 50


def fight(arena: Arena, seconds: float) -> str:
    """Have a hostile guest do its worst so long. Gives the figures; AssertionError if it won."""
    end = time.monotonic() + seconds
    number = SEED
    began, frames, played = time.monotonic(), arena.frames, 0

    def play(batch: Batch) -> None:
        nonlocal played
        if time.monotonic() < end:
            played += 1
            if wrongs := arena.play(batch):
                raise AssertionError(_told(arena, batch, wrongs, number))

    while time.monotonic() < end:
        _drawn(number, play)
        number += 1
    took = time.monotonic() - began
    figures = f"{arena.frames - frames} frames in {played} batches, {took:.0f} s"
    return f"{arena.setting}: {figures}, seeds {SEED} to {number - 1}"


def _drawn(number: int, play: Callable[[Batch], None]) -> None:
    """Play the batches that hypothesis draws for a seed; reduced() shrinks them."""

    @seed(number)
    @settings(
        max_examples=_BATCHES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(batches)
    def drawn(batch: Batch) -> None:
        play(batch)

    drawn()


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
    attacks = _fewest(batch.attacks, lambda some: fails(replace(batch, attacks=some)))
    for place, attack in enumerate(attacks):
        for plainer in _plainer(attack):
            tried = [*attacks[:place], plainer(attacks[place]), *attacks[place + 1 :]]
            if tried != attacks and fails(replace(batch, attacks=tried)):
                attacks = tried
    plain = replace(batch, attacks=attacks, mood="plain")
    return plain if batch.mood != "plain" and fails(plain) else replace(plain, mood=batch.mood)


def _fewest(attacks: list[Attack], fails: Callable[[list[Attack]], bool]) -> list[Attack]:
    """Halves as long as one of them fails, then one less at a time (Zeller's ddmin, in short)."""
    while len(attacks) > 1:
        half = len(attacks) // 2
        found = next((h for h in (attacks[:half], attacks[half:]) if fails(h)), None)
        if found is None:
            break
        attacks = found
    for attack in list(attacks) if len(attacks) > 1 else ():
        fewer = [other for other in attacks if other is not attack]
        if fewer and fails(fewer):
            attacks = fewer
    return attacks


def _plainer(attack: Attack) -> list[Callable[[Attack], Attack]]:
    return [
        lambda a: replace(a, header=0),
        lambda a: replace(a, wrapping=0),
        lambda a: replace(a, tags=0),
        lambda a: replace(a, snap=False),
    ]

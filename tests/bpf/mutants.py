"""One line of the C changed at a time, on all processors at once: is it noticed?"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from hatch_build import SOURCES
from lab.probe import compile_probe
from tests.bpf.rig import Rig

_play: Callable[[Rig], None]


def judged(
    mutants: Mapping[str, tuple[str, str]],
    play: Callable[[Rig], None],
    ifindexes: list[int],
) -> dict[str, Future[bool]]:
    """Whether play() fails, with AssertionError, with each of the mutants of the headers.

    mutants: by name, what stands in all of them once, and what stands there instead.
    """
    pool = ProcessPoolExecutor(mp_context=get_context("fork"), initializer=_set, initargs=(play,))
    with pool:
        return {
            name: pool.submit(_is_noticed, change, ifindexes) for name, change in mutants.items()
        }


def _set(play: Callable[[Rig], None]) -> None:
    """Keep what a process of the pool has inherited: it would not travel."""
    global _play
    _play = play


def _is_noticed(change: tuple[str, str], ifindexes: list[int]) -> bool:
    rig = Rig(_compile(*change), ifindexes)
    try:
        _play(rig)
    except AssertionError:
        return True
    finally:
        rig.close()
    return False


def _compile(old: str, new: str) -> bytes:
    with TemporaryDirectory() as directory:
        texts = {path.name: path.read_text() for path in SOURCES.glob("*.h")}
        if sum(text.count(old) for text in texts.values()) != 1:
            raise ValueError(f"{old!r} is not in the headers exactly once")
        for name, text in texts.items():
            Path(directory, name).write_text(text.replace(old, new))
        return compile_probe(Path(directory), "-Wno-error")

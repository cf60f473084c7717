"""Every example in the documentation, run or parsed for real, as it is printed.

A shell example runs command by command on a Host, in the scene of its section (scenes.py). What
cannot be run there stands in ELSEWHERE, with the test that does run it, or the reason for none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from airtap.cli import parser
from lab.examples import ALL, DOCUMENTS, DRAWN, TYPED, Example
from lab.kernels import REPOSITORY
from tests.docs.host import Host
from tests.docs.scenes import ELSEWHERE, SCENES, assert_known


def placed() -> dict[tuple[str, str], list[Example]]:
    """Examples by where they stand, in order."""
    places: dict[tuple[str, str], list[Example]] = {}
    for example in ALL:
        if example.language != DRAWN:
            places.setdefault(example.place, []).append(example)
    return places


PLACES = placed()


def test_no_example_escapes() -> None:
    assert set(PLACES) == set(SCENES)
    assert {e.language for e in ALL} <= {DRAWN, "sh", "toml", "conf", "xml", "json", "python"}
    assert not [e.place for e in ALL if e.language == DRAWN and TYPED.search(e.text)]


def test_what_runs_elsewhere_is_printed_and_has_a_reason() -> None:
    printed = {c for e in ALL if e.language == "sh" for c in e.commands}
    assert set(ELSEWHERE) <= printed
    for command, reason in ELSEWHERE.items():
        if " " not in reason:
            files = [*(REPOSITORY / reason).rglob("*.py"), REPOSITORY / reason]
            text = "".join(file.read_text() for file in files if file.is_file())
            words = re.findall(r"(?<!\S)[a-z0-9]+(?!\S)", command)[:3]
            assert [word for word in words if word not in text] == [], command


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_commands_within_the_text_exist() -> None:
    """`airtap domain move web`: its words up to the first argument, and its options."""
    commands = parser.build()
    for document in DOCUMENTS:
        for told in re.findall(r"`airtap ([a-z]+(?: [^`]*)?)`", document.read_text()):
            assert_known(commands, told.split(), f"{document.name}: airtap {told}")


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host
        assert host.lan.foreign_frames() == 0


@pytest.mark.parametrize("place", sorted(PLACES), ids="-".join)
def test_examples(host: Host, place: tuple[str, str]) -> None:
    SCENES[place](host, *PLACES[place])

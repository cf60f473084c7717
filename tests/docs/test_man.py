"""The manual pages against the programs: every option is in them, and no other is."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from airtap import config, helper
from airtap.cli import parser
from airtap.daemon import main
from lab.examples import doctree
from lab.kernels import REPOSITORY

SOURCES = sorted((REPOSITORY / "docs/man").glob("*.rst"))
PAGES = ("airtap.1", "airtapd.8", "airtap-bridge-helper.8", "airtap.toml.5")

# In every page, in this order, as man-pages(7) has them; others stand before EXIT STATUS.
FIRST, LAST = ["SYNOPSIS", "DESCRIPTION"], ["FILES", "EXAMPLES", "SEE ALSO"]
# Options of other programs that the pages name.
FOREIGN = {"--now"}


class Page:
    """One source, as docutils reads it."""

    def __init__(self, name: str) -> None:
        self.root = doctree(REPOSITORY / f"docs/man/{name}.rst")
        self.text = _words(self.root)

    def sections(self) -> list[str]:
        return [_words(section.find("title")) for section in self.root.findall("section")]

    def section(self, title: str) -> Any:
        [found] = [s for s in self.root.iter("section") if _words(s.find("title")) == title]
        return found

    def terms(self, title: str) -> dict[str, str]:
        """What a section lists, each with its description."""
        items = self.section(title).iterfind("./definition_list/definition_list_item")
        return {_words(item.find("term")): _words(item.find("definition")) for item in items}

    def synopsis(self, title: str) -> str:
        return _words(self.section(title).find("paragraph"))


@cache
def page_of(name: str) -> Page:
    return Page(name)


def _words(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def leaves(
    parser: argparse.ArgumentParser, path: tuple[str, ...]
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands that can be run, by their words."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in nested:
        for name, subparser in action.choices.items():
            yield from leaves(subparser, (*path, name))
    if not nested:
        yield " ".join(path), parser


COMMANDS = dict(leaves(parser.build(), ("airtap",)))


def options(parser: argparse.ArgumentParser) -> set[str]:
    """A parser's options as a page has them: --mode bridge|private, --watch [SECONDS]."""
    return {
        f"{', '.join(action.option_strings)} {_value(action)}".rstrip()
        for action in parser._actions
        if action.option_strings
    }


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    value = str(action.metavar or "|".join(map(str, action.choices or ())))
    return f"[{value}]" if action.nargs == "?" else value


HELP = "-h, --help"


def test_every_command_is_a_section() -> None:
    page = page_of("airtap")
    sections = [
        _words(section.find("title")) for section in page.section("COMMANDS").findall("section")
    ]
    assert sorted(sections) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_commands_options(name: str) -> None:
    page, parser = page_of("airtap"), COMMANDS[name]
    assert set(page.terms(name)) | {HELP} == options(parser)
    synopsis = page.synopsis(name)
    assert synopsis.startswith(name)
    for action in parser._actions:
        shown = action.option_strings[0] if action.option_strings else _value(action)
        assert shown in synopsis or shown == "-h"


def test_airtaps_own_options() -> None:
    assert set(page_of("airtap").terms("OPTIONS")) == options(parser.build())


def test_airtapds_options() -> None:
    assert set(page_of("airtapd").terms("OPTIONS")) == options(main.parser())


def test_the_helpers_options() -> None:
    told = set(re.findall(r"^  (--[a-z-]+\S*)", helper.HELP, re.MULTILINE))
    assert set(page_of("airtap-bridge-helper").terms("OPTIONS")) == {*told, "--help"}
    for option in told:
        words = ["--br=br0", "--fd=3", option.replace("=FD", "=3")]
        assert helper.parse(words)


def test_no_page_names_an_option_that_is_not_there() -> None:
    words = [option for parser in COMMANDS.values() for option in options(parser)]
    words += [*options(parser.build()), *options(main.parser()), *helper.HELP.split(), *FOREIGN]
    there = {name for word in words for name in re.findall(r"--[a-z0-9-]+", word)}
    for source in SOURCES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page_of(source.stem).text))
        assert named <= there, source.name


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("GENERAL", {"acl": config.Config.acl}),
        ("PARENTS", dataclasses.asdict(config.Parent())),
        ("LIMITS", dataclasses.asdict(config.Limits())),
        ("QMP", {"sockets": config.Config.qmp_sockets}),
    ],
)
def test_every_key_of_the_configuration(section: str, keys: dict[str, object]) -> None:
    described = page_of("airtap.toml").terms(section)
    assert set(described) == set(keys)
    for key, default in keys.items():
        assert described[key].endswith(f"Default: {json.dumps(default)}")
    tables = {field.name for field in dataclasses.fields(config.Config)} - {"acl", "path"}
    assert tables == {"parents", "aliases", "limits", "qmp_sockets"}


def test_every_value_of_the_configuration() -> None:
    described = page_of("airtap.toml").terms("PARENTS")
    values = {"kind": {"auto", *config.MODES}, "mode": set().union(*config.MODES.values())}
    for key, words in {**values, "macnat": {"auto", "on", "off"}}.items():
        assert {word for word in words if f'"{word}"' in described[key]} == words


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_its_sections(source: Path) -> None:
    sections = page_of(source.stem).sections()
    assert sections[: len(FIRST)] == FIRST
    assert sections[-len(LAST) :] == LAST
    if source.stem != "airtap.toml":
        assert {"OPTIONS", "EXIT STATUS", "ENVIRONMENT"} <= set(sections)


def test_make_man() -> None:
    """Each page renders, without a word on stderr."""
    subprocess.run(["make", "-s", "-C", str(REPOSITORY), "man"], check=True)
    for page in PAGES:
        done = subprocess.run(
            ["man", "-l", "--warnings", str(REPOSITORY / "build/man" / page)],
            env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MAN_KEEP_FORMATTING": ""},
            text=True,
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        name = page.rpartition(".")[0]
        assert re.search(rf"^NAME\n +{re.escape(name)} - ", done.stdout, re.MULTILINE)
    assert {path.stem for path in SOURCES} == {page.rpartition(".")[0] for page in PAGES}

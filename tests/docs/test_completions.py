"""Shell completion, made by `make completions`, in the shells themselves."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from airtap.cli import parser
from lab.sandbox import command, host_links
from tests.docs import shells
from tools.completions import Command, Value, commands

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = list(commands(parser.build()))

Shell = Callable[[Path, Sequence[str]], list[set[str]]]
SHELLS = pytest.mark.parametrize("shell", [shells.bash, shells.fish, shells.zsh])


@pytest.fixture(scope="module")
def made() -> Path:
    subprocess.run(["make", "-s", "-C", str(REPOSITORY), "completions"], check=True)
    return REPOSITORY / "build/completions"


def typed(row: Command, *words: str) -> str:
    return " ".join(["airtap", *row.path, *words])


def words(value: Value) -> set[str]:
    """What is offered for a value that is completed from here."""
    return host_links() if value.devices else set(value.words)


@SHELLS
def test_subcommands_and_options(made: Path, shell: Shell) -> None:
    wanted = {}
    for row in TABLE:
        if row.subcommands:
            wanted[typed(row, "")] = {name for name, _help in row.subcommands}
        wanted[typed(row, "--")] = {
            name for option in row.options for name in option.names if name.startswith("--")
        }
    assert dict(zip(wanted, shell(made, list(wanted)), strict=True)) == wanted


@pytest.fixture
def enp3s0() -> Iterator[None]:
    """A device that was not there when the completions were made."""
    command("ip", "link", "add", "enp3s0", "type", "bridge")
    yield
    command("ip", "link", "delete", "enp3s0")


@SHELLS
def test_arguments(made: Path, shell: Shell, enp3s0: None) -> None:
    """Choices and network devices; that is, no file names, where those are not asked for."""
    wanted = {}
    for row in TABLE:
        for option in row.options:
            if option.value and not option.value.files:
                wanted[typed(row, option.names[0], "")] = words(option.value)
        for number, value in enumerate(row.positionals):
            if not value.files:
                before = ["wlan0"] * number
                wanted[typed(row, *before, "")] = words(value)
    assert {"enp3s0", "lo"} in wanted.values()
    assert dict(zip(wanted, shell(made, list(wanted)), strict=True)) == wanted


@SHELLS
def test_after_an_options_value(made: Path, shell: Shell) -> None:
    lines = {
        "airtap network define wifi --kind ipv": {"ipvtap"},
        "airtap --version network un": {"undefine"},
        "airtap parent 4addr wlan0 ": {"on", "off"},
        "airtap doctor --connect qemu:///system l": {n for n in host_links() if n[0] == "l"},
        "airtap domain connect web --parent wlan0 --mode p": {"private", "passthrough", "passthru"},
    }
    assert dict(zip(lines, shell(made, list(lines)), strict=True)) == lines


@pytest.mark.parametrize("shell", [shells.bash, shells.fish])
def test_an_equals_sign(made: Path, shell: Shell) -> None:
    """bash sees three words and completes the last; fish says the whole."""
    [found] = shell(made, ["airtap network define --kind=ses"])
    assert found in ({"session"}, {"--kind=session"})


def test_within_a_value_that_bash_takes_apart(made: Path) -> None:
    lines = ["airtap doctor --connect=qemu:", "airtap trace 52:5", "airtap trace 52:54:00:00:00:1 "]
    assert shells.bash(made, lines) == [set(), set(), set()]


def test_a_hostile_device_name_is_only_a_name(made: Path) -> None:
    """compgen -W would run it, and a shell what is inserted unquoted."""
    name = "$(touch${IFS}x)"
    command("ip", "link", "add", name, "type", "bridge")
    try:
        [found] = shells.bash(made, ["airtap release $"])
        assert found == {r"\$\(touch\$\{IFS\}x\)"}
        [found] = shells.fish(made, ["airtap release '$"])
        assert found == {name}
    finally:
        command("ip", "link", "delete", name)

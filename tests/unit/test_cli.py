"""The command line as a whole: what a command loads before it runs."""

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from airtap import cli
from airtap.cli import parser

HEAVY = ("lxml", "libvirt", "pyroute2", "airtap.libvirt", "airtap.kernel")
FILES = sorted(Path(cli.__file__).parent.rglob("*.py"))

# No airtapd is asked, nor started.
RUN = """
import sys
from airtap import cli
from airtap.errors import Problem
from airtap.ipc import client
def refuse(path):
    raise Problem("no-daemon", "not here")
client.Connection = refuse
sys.argv = ["airtap", *sys.argv[1:]]
assert cli.main() == 1
print([name for name in sys.modules if name.startswith({heavy})])
"""


@pytest.mark.parametrize("argv", [["status"], ["status", "--watch"], ["release", "x"]])
def test_these_load_neither_lxml_nor_libvirt_nor_netlink(argv: list[str]) -> None:
    code = RUN.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code, *argv], text=True, capture_output=True)
    assert (done.stdout, done.stderr) == ("[]\n", "airtap: not here\n")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_imports_stand_at_the_top(file: Path) -> None:
    tree = ast.parse(file.read_text())
    imports = {node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}
    assert imports <= set(tree.body)


def commands(of: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield each
                yield from commands(each)


def test_every_command_names_a_function() -> None:
    """That main() imports when the command runs."""
    runs = [each.get_default("run") for each in commands(parser.build())]
    found = [run for run in runs if run]
    assert len(found) == 16
    for module, function in found:
        assert callable(getattr(import_module(f"airtap.cli.commands.{module}"), function))

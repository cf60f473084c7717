"""Who imports whom: the table of docs/architecture.md, held against the code's syntax tree."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/airtap"
MODULES = {path: path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py")}
ROW = re.compile(r"^\| (\d) \| ([^|]+) \| ([^|]*) \|$", re.MULTILINE)
MOST_FLOORS = 8
MOST_AT_THE_TOP = 12


def rooms() -> dict[str, set[str]]:
    """Each room, a package or a module of the top, with those that it imports."""
    found: dict[str, set[str]] = {}
    for path, parts in MODULES.items():
        imported = found.setdefault(room_of(parts), set())
        imported |= {room_of(target) for target in targets(path, parts)}
    return {room: imported - {room} for room, imported in found.items()}


def room_of(parts: tuple[str, ...]) -> str:
    """daemon/main.py is a room of its own: the one entry point that lies in a package."""
    return "daemon/main" if parts[:2] == ("daemon", "main") else (*parts, "__init__")[0]


def targets(path: Path, parts: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The modules that a module imports, wherever in it, as paths below src/airtap."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("airtap") for alias in node.names), path
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: -node.level] + tuple((node.module or "").split("."))
            base = tuple(part for part in base if part)
            found |= {module_of((*base, alias.name)) for alias in node.names}
    return found


def module_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The module that a name is imported from: itself if it is one."""
    known = set(MODULES.values())
    while parts and parts not in known and (*parts, "__init__") not in known:
        parts = parts[:-1]
    return parts or ("__init__",)


def floor(room: str, graph: dict[str, set[str]]) -> int:
    """1 for a room that imports none, else one more than the highest of those it imports."""

    @cache
    def of(room: str) -> int:
        return 1 + max((of(below) for below in graph[room]), default=0)

    return of(room)


def test_the_table() -> None:
    table = {}
    for number, names, below in ROW.findall((ROOT / "docs/architecture.md").read_text()):
        for name in re.findall(r"`([\w/]+)`", names):
            table[name] = (int(number), set(re.findall(r"`([\w/]+)`", below)))
    graph = rooms()
    assert table == {room: (floor(room, graph), graph[room]) for room in graph}


def test_few_floors() -> None:
    graph = rooms()  # a circle would end in a RecursionError
    assert max(floor(room, graph) for room in graph) <= MOST_FLOORS


def test_few_modules_at_the_top() -> None:
    assert len(list(SOURCE.glob("*.py"))) <= MOST_AT_THE_TOP

"""The examples in the documentation, taken from its text."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxml import etree

from lab.kernels import REPOSITORY

DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "HACKING.md", "SECURITY.md", "NEWS.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.rst")),
]

# The language of drawings and transcripts, which nobody types, and how a line that is typed begins.
DRAWN = "text"
TYPED = re.compile(r"^\s*[$#]? ?(airtapd?|make|apt|systemctl|qemu-\S+|virsh) ", re.MULTILINE)

_HEADING = re.compile(r"#+ (.+)")
_FENCE = re.compile(r" *```(\S*)")
_INDENT = re.compile(r" {4}|\t")
_INDENTED = "indented"


@dataclass(frozen=True)
class Example:
    """A block of code. section: the heading that it stands below. language: "" if not told."""

    document: str
    section: str
    language: str
    text: str

    @property
    def place(self) -> tuple[str, str]:
        return self.document, self.section

    @property
    def commands(self) -> list[str]:
        """A shell example's commands, each as printed, without comments behind it."""
        joined = re.sub(r"\\\n", "\\\n\0", self.text).split("\n")
        lines: list[str] = []
        for line in joined:
            if line.startswith("\0"):
                lines[-1] += "\n" + line[1:]
            else:
                lines.append(line)
        told = (re.sub(r"\s+# .*", "", line).rstrip() for line in lines)
        return [line for line in told if line and not line.startswith("#")]


def examples(document: Path) -> list[Example]:
    """All of a document's."""
    read = _of_rst if document.suffix == ".rst" else _of_markdown
    return list(read(document, str(document.relative_to(REPOSITORY))))


def _of_markdown(document: Path, name: str) -> Iterator[Example]:
    """Fenced blocks, and indented ones, whose language is told by their beginning."""
    section, language, block = "", None, list[str]()
    before = ""
    for line in [*document.read_text().splitlines(), "end"]:
        fence = _FENCE.fullmatch(line)
        if language == _INDENTED and line and not _INDENT.match(line):
            text = _dedented(block)
            yield Example(name, section, _guessed(text), text)
            language, block = None, []
        if fence and language is None:
            language = fence[1]
        elif fence:
            yield Example(name, section, language or "", _dedented(block))
            language, block = None, []
        elif language is not None:
            block.append(line)
        elif heading := _HEADING.fullmatch(line):
            section = heading[1]
        elif _INDENT.match(line) and not before.strip():
            language, block = _INDENTED, [line]
        before = line
    assert language is None, f"{name}: a block does not end"


def _guessed(text: str) -> str:
    return "json" if text.startswith("{") else "sh" if TYPED.match(text) else DRAWN


def _dedented(lines: list[str]) -> str:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "".join(f"{line[indent:]}\n" for line in lines)


def _of_rst(document: Path, name: str) -> Iterator[Example]:
    for block in doctree(document).iter("literal_block", "doctest_block"):
        section = block.xpath("string(ancestor::section[1]/title)")
        language = (block.get("classes") or "").removeprefix("code").strip()
        yield Example(name, section, language, f"{''.join(block.itertext())}\n")


def doctree(document: Path) -> Any:
    """A manual page's source as docutils reads it. CalledProcessError if it has a fault."""
    # Debian's, as in `make man`: it is not in the virtual environment.
    argv = ["/usr/bin/python3", "-m", "docutils", "--strict", "--syntax-highlight=none"]
    done = subprocess.run(
        [*argv, "--writer=xml", str(document)],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    return etree.fromstring(done.stdout)


ALL = [example for document in DOCUMENTS if document.exists() for example in examples(document)]

# A newcomer's commands, to a guest on Wi-Fi.
SECTION = "virt-manager, on a laptop with Wi-Fi"
COMMANDS = [
    command
    for example in examples(REPOSITORY / "README.md")
    if example.section == SECTION
    for command in example.commands
]

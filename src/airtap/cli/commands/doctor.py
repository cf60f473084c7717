"""airtap doctor: say what is wrong, why, and what to type."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from ...doctor import diagnosis
from ...doctor.finding import Finding, summary
from ..columns import printable
from ..common import echo

_COLOURS = {"ok": "\x1b[32m", "warning": "\x1b[33m", "problem": "\x1b[31m"}
_PLAIN = "\x1b[0m"
_STATUS = {"ok": 0, "warning": 3, "problem": 1}


def run(arguments: argparse.Namespace) -> None:
    """Exits with the status that the worst finding asks for. Raises Problem."""
    uri = arguments.connect or os.environ.get("LIBVIRT_DEFAULT_URI")
    findings = diagnosis.run(arguments.subject, uri)
    worst = summary(findings)
    if arguments.json:
        echo(json.dumps({"findings": list(map(asdict, findings)), "summary": worst}, indent=2))
    else:
        echo(text(findings, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    sys.exit(_STATUS[str(worst["level"])])


def text(findings: Sequence[Finding], *, colour: bool) -> str:
    """Findings for people: a line each, and what to do under those that are not ok."""
    lines = [line for finding in findings for line in _lines(finding, colour)]
    bad = [finding.level for finding in findings if finding.level != "ok"]
    counts = [_count(bad.count(level), level) for level in ("problem", "warning") if level in bad]
    return "\n".join([*lines, "", ", ".join(counts) or "all is well"])


def _count(number: int, level: str) -> str:
    return f"{number} {level}" + ("" if number == 1 else "s")


def _lines(finding: Finding, colour: bool) -> list[str]:
    level = f"{finding.level:<7}"
    if colour:
        level = f"{_COLOURS[finding.level]}{level}{_PLAIN}"
    head = f"{level}  {printable(finding.subject)}: {printable(finding.what)}"
    if finding.level == "ok":
        return [head]
    return [
        f"{head} [{finding.id}]",
        f"           seen: {printable(finding.evidence)}",
        f"           do:   {printable(finding.remedy)}",
    ]

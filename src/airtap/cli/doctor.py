"""airtap doctor: say what is wrong, why, and what to type."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .columns import printable
from .common import add_uri, say

if TYPE_CHECKING:
    from ..doctor.finding import Finding

_COLOURS = {"ok": "\x1b[32m", "warning": "\x1b[33m", "problem": "\x1b[31m"}
_PLAIN = "\x1b[0m"
_STATUS = {"ok": 0, "warning": 3, "problem": 1}
_EXIT = """\
exit status:
  0  all is well
  1  there is a problem, or this command could not do its work
  2  wrong command line
  3  warnings only

A device's name wins over a domain's. With DEV, libvirt is not looked at. As an ordinary user it
says what that user can see. docs/troubleshooting.md has every id.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what is wrong, and what to do about it",
        description="Look at this host, at the uplinks of airtap and at libvirt's guests on them, "
        "and say what is wrong, why, and what to type. Nothing is changed.",
        epilog=_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "subject",
        metavar="DEV|DOMAIN",
        nargs="?",
        help="only this uplink (or alias), or only this guest of libvirt and its uplinks",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_uri(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Exits with the status that the worst finding asks for. Raises Problem."""
    from ..doctor import diagnosis
    from ..doctor.finding import summary

    uri = arguments.connect or os.environ.get("LIBVIRT_DEFAULT_URI")
    try:
        findings = diagnosis.run(arguments.subject, uri)
    except KeyboardInterrupt:
        sys.exit(130)
    told = summary(findings)
    if arguments.json:
        say(json.dumps({"findings": list(map(asdict, findings)), "summary": told}, indent=2))
    else:
        say(text(findings, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    sys.exit(_STATUS[str(told["level"])])


def text(findings: Sequence["Finding"], *, colour: bool) -> str:
    """Findings for people: a line each, and what to do under those that are not ok."""
    lines = [line for finding in findings for line in _lines(finding, colour)]
    bad = [finding.level for finding in findings if finding.level != "ok"]
    counts = [_count(bad.count(level), level) for level in ("problem", "warning") if level in bad]
    return "\n".join([*lines, "", ", ".join(counts) or "all is well"])


def _count(number: int, level: str) -> str:
    return f"{number} {level}" + ("" if number == 1 else "s")


def _lines(finding: "Finding", colour: bool) -> list[str]:
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

"""A finding: one line of a diagnosis."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from functools import partial

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LEVELS = (OK, WARNING, PROBLEM)
# What others have written (names, logs, errors) goes no further than this, in characters.
_MOST = 600
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # TOML 1.0, "Keys"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Programs get these fields as they are.

    level: one of LEVELS.
    id: kebab-case and stable, for programs.
    subject: a device, a guest, a file or a part of the system.
    what: a short sentence.
    evidence: what was read, and where.
    remedy: the command or the line of a file to type; "" if ok.
    """

    level: str
    id: str
    subject: str
    _: KW_ONLY
    what: str
    evidence: str
    remedy: str

    def __post_init__(self) -> None:
        for name in ("subject", "what", "evidence"):
            text = getattr(self, name)
            if len(text) > _MOST:
                object.__setattr__(self, name, text[: _MOST - 3] + "...")


# It works, but less well or less safely than it should, or perhaps not; and: it does not work.
warning, problem = partial(Finding, WARNING), partial(Finding, PROBLEM)


def ok(id: str, subject: str, *, what: str, evidence: str = "") -> Finding:
    """Find that all is well, or not in use."""
    return Finding(OK, id, subject, what=what, evidence=evidence, remedy="")


def summary(findings: Iterable[Finding]) -> dict[str, object]:
    """Count the findings of each level, and name the worst."""
    counts = Counter(finding.level for finding in findings)
    worst = next((level for level in reversed(LEVELS) if counts[level]), OK)
    return {"level": worst, **{level: counts[level] for level in LEVELS}}


def word(text: str, otherwise: str = "NAME") -> str:
    """Return a name that others chose as a word of a command, quoted where it has to be."""
    return shlex.quote(text) if text.isprintable() else otherwise


def parent_table(name: str) -> str:
    """Return a parent's table of airtap.toml; a name with a dot, as of a VLAN, is quoted."""
    plain = _BARE_KEY.fullmatch(name) is not None
    shown = name if name.isprintable() else "NAME"
    return f"[parents.{name if plain else json.dumps(shown, ensure_ascii=False)}]"


def sysctl_of(family: str, name: str, key: str) -> str:
    """Return a device's sysctl as a word for sysctl(8): a dot within a name is a slash there."""
    return word(f"net.{family}.conf.{name.replace('.', '/')}.{key}")

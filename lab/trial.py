"""airtap try as a user runs it, what it has to leave as it was, and what makes its steps fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

from lab.airtap import Airtapd
from lab.lan import SLOWNESS, Lan, wait_for
from lab.sandbox import command

Json = dict[str, Any]
STEPS = [
    *("uplink", "device", "macnat", "lease", "gateway4", "ping4"),
    *("address6", "gateway6", "ping6"),
    *("guest_to_host4", "host_to_guest4", "guest_to_host6", "host_to_guest6"),
]


@dataclass
class Tried:
    """What came of one run. report: its JSON, whose trials are by_kind."""

    status: int
    report: Json

    def steps(self, kind: str = "macvtap") -> dict[str, Json]:
        """The steps of one trial by name."""
        [trial] = [trial for trial in self.report["trials"] if trial["kind"] == kind]
        return {step["name"]: step for step in trial["steps"]}

    def results(self, kind: str = "macvtap") -> dict[str, str]:
        return {name: step["result"] for name, step in self.steps(kind).items()}

    def but_passed(self, kind: str = "macvtap") -> dict[str, str]:
        """The steps that did not pass, with their results."""
        results = self.results(kind)
        return {name: result for name, result in results.items() if result != "passed"}


def run_try(airtapd: Airtapd, device: str, *options: str, seconds: float = 10) -> Tried:
    """airtap try --json, which leaves the host's network as it was.

    seconds: for each step, on a machine of usual speed.
    """
    timeout = f"--timeout={seconds * SLOWNESS:g}"
    with unchanged():
        done = airtapd.airtap("try", device, "--json", timeout, *options, check=False)
    print(done.stdout, done.stderr)  # shown with a test that fails
    return Tried(done.returncode, json.loads(done.stdout))


def network() -> dict[str, str]:
    """The host's own network: devices, addresses, routes, and what is attached to devices."""
    shown = {
        "links": ("ip", "-br", "link"),
        "addresses": ("ip", "-br", "address"),
        "ipv4": ("ip", "-4", "route", "show", "table", "all"),
        "ipv6": ("ip", "-6", "route", "show", "table", "all"),
        "qdiscs": ("tc", "qdisc", "show"),
        "neighbours": ("ip", "-br", "neighbour", "show", "nud", "permanent"),
    }
    return {"sysctls": _sysctls(), **{name: command(*argv) for name, argv in shown.items()}}


def _sysctls() -> str:
    """Of every device, and of all; some can only be written, or say how often they changed."""
    found = []
    for path in sorted(Path("/proc/sys/net").glob("ipv[46]/conf/*/*")):
        with suppress(OSError):
            found.append(f"{path} {path.read_text()}")
    return "".join(found)


@contextmanager
def unchanged() -> Iterator[None]:
    """The host's network is soon as it was before: airtapd tidies up behind the user's back."""
    settling = ("ip", "-6", "address", "show", "tentative")
    wait_for(lambda: not command(*settling), 10, "the host's own addresses to be ready")
    before = network()
    yield
    try:
        wait_for(lambda: network() == before, 10, "the host's network to be as before")
    except TimeoutError:
        after = network()
        pairs = ((before[what].splitlines(), after[what].splitlines()) for what in before)
        assert after == before, [line for pair in pairs for line in unified_diff(*pair, n=0)]


def drop_at_lan(lan: Lan, rule: str) -> None:
    """Have the LAN's router drop what comes in and a rule of nft's says."""
    rules = f"type filter hook ingress device {lan.far} priority 0; {rule} drop;"
    lan.run("nft", f"table netdev deaf {{ chain deaf {{ {rules} }}; }}")


def deaf(lan: Lan, rule: str, family: str = "inet", hook: str = "input") -> None:
    """Have the LAN's router drop what a rule of nft's says."""
    lan.run("nft", RULES.format(family=family, table="deaf", hook=hook, rule=rule))


RULES = """
table {family} {table} {{
    chain deaf {{ type filter hook {hook} priority 0; {rule} drop; }}
}}
"""


@contextmanager
def firewall(hook: str, rule: str) -> Iterator[None]:
    """The host drops what a rule says."""
    command("nft", RULES.format(family="inet", table=hook, hook=hook, rule=rule))
    try:
        yield
    finally:
        command("nft", f"delete table inet {hook}")

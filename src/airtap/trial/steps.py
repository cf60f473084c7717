"""What became of each step of a trial, as a program or a person gets to know it."""

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Failed(Exception):
    """A step failed.

    seen: what was seen.
    hint: what to do, "" for the doctor alone.
    """

    def __init__(self, seen: str, hint: str = "") -> None:
        super().__init__(seen, hint)
        self.seen = seen
        self.hint = hint


class Skipped(Exception):
    """A step does not apply here, or cannot be tried; the text says why."""


@dataclass(frozen=True)
class Step:
    """One step and its outcome.

    name: stable, for programs.
    result: PASSED, FAILED or SKIPPED.
    seconds: how long it took.
    detail: what was seen.
    hint: what to do, where it failed.
    """

    name: str
    result: str
    seconds: float
    detail: str
    hint: str = ""


@dataclass
class Trial:
    """A trial of one kind of device.

    kind: "macvtap", "ipvtap", or "bridge".
    device: the guest's, "" if none was made.
    not_tried: why there are no steps, "" if there are.
    """

    kind: str
    device: str = ""
    mac: str = ""
    not_tried: str = ""
    steps: list[Step] = field(default_factory=list)

    @property
    def tried(self) -> bool:
        """Whether there was a guest at all."""
        return any((step.name, step.result) == ("device", PASSED) for step in self.steps)


@dataclass
class Report:
    """All trials on a device.

    asked: its name as the user called it.
    type: as airtap status has it.
    """

    asked: str
    device: str
    type: str
    trials: list[Trial] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there was a guest, and nothing failed."""
        return any(trial.tried for trial in self.trials) and not self.failures()

    def failures(self) -> int:
        return sum(step.result == FAILED for trial in self.trials for step in trial.steps)

    def to_json(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "device": self.device,
            "type": self.type,
            "passed": self.passed,
            "trials": [_trial(trial) for trial in self.trials],
        }


class ProgressCallbacks(Protocol):
    """What is told of a trial as it happens."""

    def trial(self, trial: Trial) -> None:
        """A trial begins; one that is not tried says so."""

    def begin(self, name: str) -> None:
        """A step begins."""

    def waits(self, what: str) -> None:
        """The step waits for this now."""

    def end(self, step: Step) -> None:
        """A step has ended."""


def _trial(trial: Trial) -> dict[str, Any]:
    told = {name: value or None for name, value in asdict(trial).items()}
    told["steps"] = [{**asdict(step), "seconds": round(step.seconds, 4)} for step in trial.steps]
    return told

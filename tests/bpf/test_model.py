"""The programs and a plain Python model of their rules never disagree."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.bpf.rig import Rig
from tests.bpf.scenario import SETTINGS, Scenario, Step, scenarios


@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.parametrize("kind, mode", SETTINGS)
@given(scenario=scenarios)
def test_programs_do_as_the_model_says(
    rig: Rig, kind: str, mode: str, scenario: list[Step]
) -> None:
    Scenario(rig, kind, mode).play(scenario)

"""The programs and a plain Python model of their rules never disagree."""

from hypothesis import HealthCheck, given, settings

from tests.bpf.rig import Rig
from tests.bpf.scenario import Scenario, Step, scenarios


@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(scenario=scenarios)
def test_programs_do_as_the_model_says(rig: Rig, scenario: list[Step]) -> None:
    Scenario(rig).play(scenario)

"""The governor of drift, against rates worked by hand."""

from __future__ import annotations

import json
import math

import pytest

from learner.config.control import LrControlConfig
from learner.control.drift_governor import DriftGovernor, Movement

DRIFT = LrControlConfig(mode="drift")


def governor(average: float = 0.0) -> DriftGovernor:
    return DriftGovernor(DRIFT, average)


def test_before_any_measurement_the_rate_climbs_from_a_fiftieth_by_a_quarter_a_step():
    made = rates(governor(), 25)
    assert made[:3] == pytest.approx([0.02, 0.025, 0.03125])
    assert made[17] == pytest.approx(0.02 * 1.25**17)
    assert made[18:] == [1.0] * 7  # 0.02 * 1.25^18 = 1.11


def test_steps_that_change_nothing_do_not_raise_the_rate():
    found = governor()
    climb(found, 2)
    assert [found.decide(1.0, 0).rate for _ in range(5)] == pytest.approx([0.03125] * 5)


def rates(found: DriftGovernor, steps: int, lag: float = 0.0) -> list[float]:
    return [decision.rate for decision in climb(found, steps, lag)]


def climb(found: DriftGovernor, steps: int, lag: float = 0.0):
    """Makes steps, each at the rate that is decided."""
    decisions = []
    for _ in range(steps):
        decisions.append(found.decide(1.0, lag))
        found.updated(decisions[-1].rate)
    return decisions


@pytest.mark.parametrize(
    ("lag", "average", "expected"),
    # m = 0.2 / (sqrt(4) * 0.1) = 1; 0.4 / sqrt(lag + 1 + E)
    [(0, 0.0, 0.4), (3, 0.0, 0.2), (15, 0.0, 0.1), (15, 0.9, 0.08), (54, 0.9, 0.05)],
)
def test_the_bound_falls_with_the_root_of_the_age(lag: float, average: float, expected: float):
    found = governor(average)
    climb(found, 30)
    found.observe(Movement(0.2, 4, 0.1))
    decision = found.decide(1.0, lag)
    assert decision.rate == pytest.approx(expected)
    assert decision.limited
    assert decision.scale == pytest.approx(1.0)
    assert decision.predicted == pytest.approx(DRIFT.drift_target)


def test_a_low_ceiling_stays_and_its_drift_is_predicted():
    found = governor()
    climb(found, 30)
    found.observe(Movement(0.2, 4, 0.1))
    decision = found.decide(0.05, 8)
    assert (decision.rate, decision.limited) == (0.05, False)
    assert decision.predicted == pytest.approx(3 * 1 * 0.05)


def test_measurements_are_averaged_with_a_decay_per_step():
    found = governor()
    found.observe(Movement(0.2, 4, 0.1))  # m = 1
    found.observe(Movement(0.6, 4, 0.1))  # 3
    keep = 0.9**4
    assert found.decide(1.0, 0).scale == pytest.approx(keep + 3 * (1 - keep))


def test_after_a_jump_of_staleness_the_rate_falls_at_once_and_climbs_slowly():
    found = governor()
    climb(found, 30)
    found.observe(Movement(0.2, 4, 0.1))
    assert rates(found, 1, 63) == pytest.approx([0.05])
    assert rates(found, 3) == pytest.approx([0.0625, 0.078125, 0.09765625])


@pytest.mark.parametrize("drift", [math.nan, math.inf])
def test_a_measurement_that_is_not_finite_never_raises_the_rate(drift: float):
    found = governor()
    climb(found, 3)
    found.observe(Movement(drift, 4, 0.1))
    assert rates(found, 3) == pytest.approx([0.03125] * 3)
    assert found.decide(1.0, 0).scale is None
    found.observe(Movement(0.002, 4, 0.1))
    assert found.decide(1.0, 0).rate == pytest.approx(0.03125 * 1.25)


def test_steps_at_rate_0_measure_nothing():
    found = governor()
    found.observe(Movement(0.0, 4, 0.0))
    assert found.decide(1.0, 0).scale is None


def test_a_policy_that_did_not_move_bounds_nothing():
    found = governor()
    climb(found, 30)
    found.observe(Movement(0.0, 4, 0.1))
    assert found.decide(1.0, 100).rate == 1.0


def test_the_state_goes_through_json():
    found, again = governor(0.9), governor(0.9)
    climb(found, 5)
    found.observe(Movement(0.3, 4, 0.02))
    found.observe(Movement(math.nan, 4, 0.02))
    again.load_state_dict(json.loads(json.dumps(found.state_dict())))
    assert climb(again, 3, 16) == climb(found, 3, 16)


def test_noise_of_bfloat16_cannot_bind_once_the_policy_moves():
    """Rounding adds a constant to what is measured, whatever the rate: at the first, small rates it looks like much drift."""
    found, rate, noise, per_step = governor(0.9), 0.0, 0.02, 0.05  # nats; nats per root of a step at the ceiling
    for _ in range(20):
        made = rates(found, 4, 16)
        rate, mean = made[-1], sum(made) / 4
        found.observe(Movement(2 * mean * per_step + noise, 4, mean))
    assert rate == 1.0  # sqrt(26) * (0.05 + 0.01) = 0.31, below the target

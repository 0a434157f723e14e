"""Fleets' weights in the gradient: shares by hand, who is heaviest, and who dominates."""

from __future__ import annotations

import json
import random

import pytest

from learner.config.control import AlarmConfig
from learner.control.alarms import Alarms
from learner.control.fleet_weights import FleetWeights, fleet_shares, heaviest


def test_shares_by_hand():
    # oslo 1 + 3, tokyo 4; a group without contrast counts for nobody, nor does what is behind the last weight
    shares = fleet_shares([1.0, 4.0, 0.0, 3.0], ["oslo", "tokyo", "oslo", "oslo", "lima"])
    assert shares == {"oslo": [0.5, pytest.approx(2 / 3)], "tokyo": [0.5, pytest.approx(1 / 3)]}
    assert heaviest(shares) == ("tokyo", pytest.approx(2.0))  # one group of 4 against two of 2
    assert fleet_shares([], []) == {}
    assert fleet_shares([0.0], ["oslo"]) == {}
    assert heaviest({"oslo": [1.0, 1.0]}) is None


def test_only_the_largest_fleets_are_in_a_row():
    shares = fleet_shares(list(range(1, 41)), [f"f{number}" for number in range(40)])
    assert len(shares) == 16
    assert "f39" in shares
    assert "f0" not in shares


def steps(hot: float, share: int = 1, count: int = 200, seed: int = 0) -> list[dict[str, list[float]]]:
    """Steps of 32 groups with weights of a wide spread; ``share`` of 8 are of a fleet that weighs ``hot`` times more."""
    noise = random.Random(seed)
    fleets = ["hot" if number % 8 < share else f"f{number % 3}" for number in range(32)]
    made = []
    for _ in range(count):
        weights = [noise.lognormvariate(0.0, 1.0) * (hot if fleet == "hot" else 1.0) for fleet in fleets]
        made.append(fleet_shares(weights, fleets))
    return made


@pytest.mark.parametrize("seed", range(10))
def test_the_alarm_is_quiet_on_a_wide_spread_and_names_a_fleet_that_samples_at_a_tiny_temperature(seed: int):
    """At temperature 0.05 a group weighs 20 times one at 1."""
    alarms = Alarms(AlarmConfig())
    assert [alarm for row in steps(1.0, seed=seed) for alarm in alarms.observe({"fleets": row})] == []
    raised = [alarm for row in steps(20.0, seed=seed) for alarm in alarms.observe({"fleets": row})]
    assert [(alarm.rule, alarm.action) for alarm in raised] == [("dominance", "warn")]
    assert "fleet hot dominates the gradient" in raised[0].reason


def test_half_of_the_groups_may_dominate_too():
    weights = FleetWeights(10)
    for row in steps(20.0, share=4):
        weights.add(row)
    found = weights.dominant()
    assert found is not None
    assert found[0] == "hot"
    assert found[1] == pytest.approx(20, rel=0.5)
    assert found[2] > 0.9


def test_a_small_fleet_a_single_fleet_and_a_short_history_dominate_nothing():
    small, single, short = FleetWeights(10), FleetWeights(10), FleetWeights(10)
    for _ in range(20):
        small.add({"small": [0.1, 0.01], "large": [0.9, 0.99]})
        single.add({"only": [1.0, 1.0]})
    for _ in range(4):
        short.add({"a": [0.9, 0.5], "b": [0.1, 0.5]})
    assert [one.dominant() for one in (small, single, short)] == [None, None, None]
    short.add({"a": [0.9, 0.5], "b": [0.1, 0.5]})
    assert short.dominant() == ("a", pytest.approx(9.0), pytest.approx(0.9))


def test_state_survives_a_checkpoint_in_json():
    alarms, again = Alarms(AlarmConfig()), Alarms(AlarmConfig())
    rows = steps(20.0, count=5)
    for row in rows[:4]:
        assert alarms.observe({"fleets": row}) == []
    again.load_state_dict(json.loads(json.dumps(alarms.state_dict())))
    assert [alarm.rule for alarm in again.observe({"fleets": rows[4]})] == ["dominance"]
    assert [alarm.rule for alarm in alarms.observe({"fleets": rows[4]})] == ["dominance"]
    alarms.reset()
    assert alarms.observe({"fleets": rows[4]}) == []

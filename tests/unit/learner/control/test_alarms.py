"""Alarms on histories shaped as metrics/learner.jsonl: silent on a healthy run, early on each kind of collapse."""

from __future__ import annotations

import json
import math
import random
import statistics
from typing import Any

import pytest

from learner.config.control import AlarmConfig
from learner.control.alarms import Alarm, Alarms
from learner.control.tracked_mean import TrackedMean


def row(step: int, noise: random.Random, **values: Any) -> dict[str, Any]:
    """A step of a demo that learns: reward .22 -> .85 with a batch's scatter, NLL of positives .3 -> .1, entropy .6 -> .1."""
    done = 1 - math.exp(-step / 120)
    healthy = {
        "step": step,
        "reward": min(1.0, max(0.0, 0.22 + 0.63 * done + noise.gauss(0, 0.06))),
        "nll_positive": (0.3 - 0.2 * done) * math.exp(noise.gauss(0, 0.25)),
        "rho": 0.08 + noise.gauss(0, 0.02),
        "ballistic": noise.gauss(0.05, 0.1),
        "entropy": (0.6 - 0.5 * done) * math.exp(noise.gauss(0, 0.1)),
        "finite": True,
    }
    return healthy | values


def history(steps: int, seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """Healthy rows in which ``changes`` (field -> function of step and healthy value) replace some fields."""
    noise = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        healthy = row(step, noise)
        rows.append(binary(healthy | {name: change(step, healthy[name]) for name, change in changes.items()}))
    return rows


def binary(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the standard deviation of rewards that are 0 or 1."""
    return row | {"reward_sd": math.sqrt(row["reward"] * (1 - row["reward"]))}


def watch(rows: list[dict[str, Any]], **config: Any) -> list[tuple[int, Alarm]]:
    alarms = Alarms(AlarmConfig.parse(config, "test"))
    return [(item["step"], alarm) for item in rows for alarm in alarms.observe(item)]


@pytest.mark.parametrize("seed", range(20))
def test_no_alarm_on_a_healthy_run(seed: int):
    assert watch(history(480, seed)) == []


def test_a_policy_that_converges_on_hard_prompts_is_no_collapse_of_its_positives():
    """Measured: a governed run with averaged versions to a reward of 0.84; means of 20 steps, 0.07 at its lowest."""
    nll = [0.176, 0.183, 0.167, 0.162, 0.116, 0.1, 0.14, 0.086, 0.066, 0.076, 0.113, 0.146, 0.135, 0.071, 0.088]

    def settled(step: int, value: float) -> float:
        return nll[min((step - 1) // 20, len(nll) - 1)]

    assert watch(history(300, nll_positive=settled)) == []
    raised = watch(history(300, nll_positive=lambda step, value: settled(step, value) * (1 if step < 280 else 5)))
    assert [alarm.rule for _, alarm in raised] == ["nll_positive"]


def test_a_converged_run_is_no_entropy_collapse():
    assert watch(history(400, entropy=lambda step, value: value * (0.01 if step > 200 else 1.0))) == []


def test_rising_nll_of_positives_is_raised_before_the_reward_has_halved():
    raised = watch(
        history(
            400,
            nll_positive=lambda step, value: value * math.exp(max(0, step - 150) / 40),
            reward=lambda step, value: value * math.exp(-max(0, step - 190) / 40),
        )
    )
    assert [alarm.rule for _, alarm in raised] == ["nll_positive", "reward"]
    assert 150 < raised[0][0] < 200 < raised[1][0] < 240
    assert raised[0][1].reason.startswith("the NLL of positives has risen to ")


@pytest.mark.parametrize(
    ("rule", "field", "change"),
    [
        ("rho", "rho", lambda step, value: value + (0.6 if step > 100 else 0.0)),
        ("ballistic", "ballistic", lambda step, value: value + (0.8 if step > 100 else 0.0)),
        ("reward", "reward", lambda step, value: value * (0.2 if step > 100 else 1.0)),
        ("non_finite", "finite", lambda step, value: step not in (103, 107, 110)),
    ],
)
def test_each_condition_is_raised_once_within_a_window(rule: str, field: str, change: Any):
    raised = watch(history(300, **{field: change}))
    assert [alarm.rule for _, alarm in raised] == [rule]
    assert 100 < raised[0][0] <= 120
    assert raised[0][1].action == "warn"


def test_entropy_collapse_with_falling_reward():
    raised = watch(
        history(
            300,
            entropy=lambda step, value: value * (0.01 if step > 150 else 1.0),
            reward=lambda step, value: value * (0.6 if step > 150 else 1.0),
        )
    )
    assert [alarm.rule for _, alarm in raised] == ["entropy"]


def test_one_wild_step_is_no_alarm_and_a_condition_that_returns_is_raised_again():
    assert watch(history(100, rho=lambda step, value: 4.0 if step == 60 else value), rho="warn") == []
    on_and_off = history(400, rho=lambda step, value: 0.9 if 100 < step <= 160 or step > 300 else 0.05)
    assert [alarm.rule for _, alarm in watch(on_and_off)] == ["rho", "rho"]


def test_actions_are_configured_by_rule_and_off_is_silent():
    rows = history(200, rho=lambda step, value: 0.9)
    assert watch(rows, rho="off") == []
    assert [alarm.action for _, alarm in watch(rows, rho="hold")] == ["hold"]


def test_rows_without_a_measurement_are_passed_over():
    rows = history(200, rho=lambda step, value: None if step % 2 else value, ballistic=lambda step, value: None)
    assert watch(rows) == []


def test_state_survives_a_checkpoint_in_json():
    rows = history(300, nll_positive=lambda step, value: value * (3.0 if step > 150 else 1.0))
    whole = watch(rows)
    before = Alarms(AlarmConfig())
    assert [a for item in rows[:155] for a in before.observe(item)] == []
    after = Alarms(AlarmConfig())
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert [(item["step"], a) for item in rows[155:] for a in after.observe(item)] == whole
    assert len(whole) == 1


def test_a_reset_forgets_every_row():
    alarms = Alarms(AlarmConfig())
    for item in history(200):
        alarms.observe(item)
    alarms.reset()
    low = history(200, reward=lambda step, value: 0.1)
    assert [alarm for item in low for alarm in alarms.observe(item)] == []


def test_tracked_mean_by_hand():
    mean = TrackedMean(4)  # a value weighs 3/4 of the next one
    mean.add(1.0)
    assert (mean.mean, mean.lowest) == (None, 1.0)
    mean.add(3.0)
    assert mean.mean == mean.first == mean.highest == pytest.approx((0.75 + 3) / 1.75)
    mean.add(0.0)
    assert mean.mean == pytest.approx(0.75 * 3.75 / (0.75 * 1.75 + 1))
    assert (mean.lowest, mean.highest) == (1.0, mean.first)


# The first steps of `sort` with reinforce, a learning rate of 6e-4 and a staleness that grows to 9, as measured.
COLLAPSE = {
    "reward": [
        0.3, 0.31, 0.32, 0.35, 0.29, 0.33, 0.41, 0.33, 0.23, 0.41, 0.08, 0.01, 0.05, 0.0, 0.01, 0.0, 0.05, 0.0, 0.05, 0.05,
    ],
    "nll_positive": [
        0.148, 0.606, 1.0, 1.035, 1.244, 1.248, 0.804, 0.673, 1.202, 1.029, 0.388, 0.933, 1.118, None, 0.723, None, 0.348,
        None, 0.722, 0.403,
    ],
}  # fmt: skip


def test_a_measured_collapse_is_seen_before_the_reward_falls():
    """In this history the reward falls at step 11."""
    columns = zip(*COLLAPSE.values(), strict=True)
    rows = [
        binary({"step": step, "reward": reward, "nll_positive": nll}) for step, (reward, nll) in enumerate(columns, 1)
    ]
    assert [(step, alarm.rule) for step, alarm in watch(rows)] == [(5, "nll_positive"), (15, "reward")]


def test_an_alarm_is_active_until_its_condition_was_gone_for_a_window():
    alarms = Alarms(AlarmConfig())
    active = []
    for item in history(200, rho=lambda step, value: 0.9 if 50 < step <= 100 else 0.05):
        alarms.observe(item)
        active.append(alarms.has_active)
    assert not any(active[:50])
    assert all(active[60:100])
    assert not any(active[125:])


def sampled(chances: list[float], seed: int = 0, low: float = 0.0, high: float = 1.0) -> list[dict[str, Any]]:
    """Rows of steps with 16 prompts of 8 responses that are rewarded ``high`` with a chance, and ``low`` otherwise."""
    draw = random.Random(seed)
    rows = []
    for step, chance in enumerate(chances, 1):
        rewards = [high if draw.random() < chance else low for _ in range(16 * 8)]
        rows.append({"step": step, "reward": statistics.fmean(rewards), "reward_sd": statistics.pstdev(rewards)})
    return rows


def linear(start: float, end: float, steps: int) -> list[float]:
    return [start + (end - start) * step / (steps - 1) for step in range(steps)]


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e-3])
@pytest.mark.parametrize("zero", [0.0, -1.0, -0.8, 5.0], ids="rewards from {}".format)
def test_a_fall_of_the_reward_does_not_depend_on_its_scale_nor_its_zero(scale: float, zero: float):
    """From -1 to 0 the fall is that from -0.2 to -0.7, around -0.8 one from above 0 to below."""
    rows = sampled([0.8] * 40 + [0.3] * 40, low=scale * zero, high=scale * (1 + zero))
    raised = watch(rows)
    assert [alarm.rule for _, alarm in raised] == ["reward"]
    assert 40 < raised[0][0] <= 52
    risen = watch(sampled(linear(0.2, 0.8, 200) + [0.3] * 40, low=scale * zero, high=scale * (1 + zero)))
    assert [alarm.rule for _, alarm in risen] == ["reward"]
    assert 200 < risen[0][0] <= 220


def test_a_fall_from_a_little_below_zero_to_far_below_is_seen():
    """-0.2 to -0.9 with rewards of -1 and 1."""
    raised = watch(sampled([0.4] * 40 + [0.05] * 40, low=-1.0))
    assert [alarm.rule for _, alarm in raised] == ["reward"]
    assert 40 < raised[0][0] <= 60


@pytest.mark.parametrize("chance", [0.02, 0.1, 0.3, 0.5, 0.8, 0.98])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
def test_the_noise_of_a_plateau_is_no_fall(chance: float, low: float, high: float):
    for seed in range(3):
        assert watch(sampled([chance] * 300, seed, low, high)) == []
    learned = linear(max(0.02, chance - 0.5), chance, 200) + [chance] * 200
    assert watch(sampled(learned, low=low, high=high)) == []


def test_negative_rewards_that_improve_are_no_fall():
    assert watch(sampled(linear(0.05, 0.95, 300), low=-1.0, high=0.0)) == []


def test_rewards_that_are_all_equal_in_a_step_and_fall():
    equal = [{"step": step, "reward": -0.2 if step < 20 else -0.9, "reward_sd": 0.0} for step in range(40)]
    assert [alarm.rule for _, alarm in watch(equal)] == ["reward"]
    assert watch([row | {"reward": -0.2} for row in equal]) == []


@pytest.mark.parametrize("zero", [0.0, -1.0])
def test_entropy_collapse_is_told_from_convergence_whatever_the_zero_of_rewards(zero: float):
    def rows(falls: bool) -> list[dict[str, Any]]:
        chances = linear(0.2, 0.9, 200) + [0.65 if falls else 0.9] * 60
        found = sampled(chances, low=zero, high=1 + zero)
        return [row | {"entropy": 0.5 if row["step"] <= 200 else 0.001} for row in found]

    assert [alarm.rule for _, alarm in watch(rows(falls=True))] == ["entropy"]
    assert watch(rows(falls=False)) == []

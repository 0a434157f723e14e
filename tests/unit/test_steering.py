"""The rate of each step: schedule, law and holds together; and the row a step leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner.batch.groups import GroupStatistics, describe
from learner.config import LearnerConfig
from learner.intake import Taken
from learner.megatron.step import StepStats
from learner.megatron.update import Update
from learner.record import StepRecord, step_row, timing
from learner.steering import Pace, Steering
from leeway.v1 import rollout_pb2 as pb


def config(**values: Any) -> LearnerConfig:
    base = {
        "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1000, "metrics_dir": "x",
        "checkpoint": {"dir": "x"}, "publish": {"dir": "x"}, "optimizer": {"lr": 1.0},
    }  # fmt: skip
    return LearnerConfig.parse({**base, **values}, "test")


def groups(largest: int = 0, mean: float = 0.0) -> GroupStatistics:
    return GroupStatistics(0.5, 0.5, mean, largest, {largest: 10}, 2, 10)


def row(pace: Pace, **values: Any) -> dict[str, Any]:
    return {"reward": 0.5, "update_norm": None, "lr": pace.rate, "lr_active": pace.active, "finite": True, **values}


def test_off_is_the_schedule():
    pace = Steering(config(optimizer={"lr": 1.0, "warmup_steps": 1})).pace(0, groups(9))
    assert (pace.rate, pace.scheduled, pace.bounds, pace.active) == (0.5, 0.5, None, "none")


@pytest.mark.parametrize(("which", "expected"), [("max", 0.5), ("mean", 1.0)])
def test_the_law_caps_with_the_staleness_that_is_configured(which: str, expected: float):
    steering = Steering(config(lr_control={"mode": "cap", "r_batch": 8.0, "staleness": which}))
    steering.observe(row(steering.pace(0, groups()), update_norm=4.0))  # G_upd = 4
    pace = steering.pace(1, groups(largest=4, mean=1.0))
    assert (pace.rate, pace.scheduled) == (expected, 1.0)
    assert pace.active == ("batch" if which == "max" else "none")


def test_the_first_step_is_capped_for_the_staleness_that_is_allowed():
    steering = Steering(config(lr_control={"mode": "cap", "r_batch": 9.0, "smoothing": 0.5}, max_staleness=6))
    steering.expect(weights=16)
    assert steering.pace(0, groups()).rate == pytest.approx(9 / (3 * 4))


def test_a_hold_freezes_the_weights_and_training_goes_on_at_half_the_rate():
    steering = Steering(config(alarms={"window": 2, "reward": "hold", "hold_steps": 3}))
    rates, raised = [], []
    for step in range(12):
        pace = steering.pace(step, groups())
        rates.append(pace.rate)
        raised += [(step, alarm.rule) for alarm in steering.observe(row(pace, reward=0.8 if step < 4 else 0.1))]
    assert raised == [(5, "reward")]  # the reward stays low; it is judged anew by what comes after the hold
    assert rates == [1.0] * 6 + [0.0] * 3 + [0.5] * 3


def drive(steering: Steering, rewards: list[float]) -> list[tuple[int, str]]:
    """Steps 1, 2, ... with these rewards; (step, action) of the alarms raised."""
    raised = []
    for step, reward in enumerate(rewards, 1):
        pace = steering.pace(step - 1, groups())
        raised += [(step, alarm.action) for alarm in steering.observe(row(pace, reward=reward))]
    return raised


def test_weights_have_proved_healthy_a_window_later_and_never_once_a_sign_was_there():
    steering = Steering(config(alarms={"window": 4, "reward": "warn"}))
    proven = []
    for step, reward in enumerate([0.8] * 10 + [0.1] * 5, 1):
        steering.observe(row(steering.pace(step - 1, groups()), reward=reward))
        proven.append(list(steering.proven(step)))
    assert proven[3] == []
    assert proven[4] == [1]
    assert proven[9] == [1, 2, 3, 4, 5, 6]
    alarm = next(step for step, steps in enumerate(proven, 1) if step > 5 and not steps)
    assert 10 < alarm <= 13
    assert proven[alarm - 2][-1] <= 10 - 1  # the newest checkpoint that may be gone back to is of before the fall


def test_a_rollback_lowers_the_rate_and_after_so_many_it_is_a_hold():
    settings = config(alarms={"window": 2, "reward": "rollback", "rollbacks": 1, "hold_steps": 3})
    collapse = [0.8] * 4 + [0.1] * 4
    steering = Steering(settings)
    assert drive(steering, collapse) == [(6, "rollback")]
    assert steering.next_rollback() == (1, 0.5)
    again = Steering(settings)  # the next start, with the state of the healthy checkpoint
    again.load_state_dict(json.loads(json.dumps(Steering(settings).state_dict())))
    again.rolled_back(*steering.next_rollback())
    assert again.pace(0, groups()).rate == 0.5
    assert drive(again, collapse) == [(6, "hold")]
    assert again.pace(8, groups()).rate == 0.0


def test_without_a_checkpoint_to_go_back_to_the_weights_are_held():
    steering = Steering(config(alarms={"window": 2, "reward": "rollback", "hold_steps": 3}))
    assert drive(steering, [0.8] * 4 + [0.1] * 2) == [(6, "rollback")]
    steering.hold()
    assert [steering.pace(step, groups()).rate for step in range(6, 10)] == [0.0, 0.0, 0.0, 0.5]


def test_state_survives_a_checkpoint_in_json():
    settings = config(
        lr_control={"mode": "cap", "r_batch": 8.0}, alarms={"window": 2, "reward": "hold", "hold_steps": 3}
    )

    def walk(steering: Steering, steps: range) -> list[Pace]:
        paces = []
        for step in steps:
            paces.append(steering.pace(step, groups(largest=step % 5)))
            steering.observe(
                row(paces[-1], reward=0.8 if step < 4 else 0.1, update_norm=(2 + step % 3) * paces[-1].rate)
            )
        return paces

    whole = walk(Steering(settings), range(15))
    first, second = Steering(settings), Steering(settings)
    walk(first, range(7))  # in the middle of the hold
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert walk(second, range(7, 15)) == whole[7:]
    assert len({pace.rate for pace in whole}) > 3


def test_an_empty_state_is_a_new_run():
    steering = Steering(config())
    steering.load_state_dict({})
    assert steering.pace(0, groups()).rate == 1.0


def record(tmp_path: Path, stats: StepStats | None, rate: float = 0.5) -> StepRecord:
    tokens = np.array([1, 2], "<i4").tobytes()
    responses = [pb.Response(tokens=tokens, reward=r, spans=[pb.Span(version=3, start=0, end=2)]) for r in (1.0, 0.0)]
    taken = Taken([pb.Group(responses=responses)], [], {3: 2})
    pace = Steering(config(optimizer={"lr": rate})).pace(0, groups())
    return StepRecord(7, taken, describe(taken.groups, taken.staleness), None, stats, pace, 0.9)


def test_row_of_a_step(tmp_path):
    sums = {
        "nll_positive_sum": 1.0, "nll_positive_count": 2.0, "nll_negative_sum": 6.0, "nll_negative_count": 3.0,
        "entropy_sum": 4.0, "entropy_count": 8.0, "rho_sum": 1.0, "rho_count": 4.0, "naive_gap_sum": -0.1,
    }  # fmt: skip
    got = step_row(record(tmp_path, StepStats(0.0, 3.0, sums, None, Update(0.02, 0.9))))
    expected = {
        "step": 7, "reward": 0.5, "informative": 1.0, "staleness_max": 2, "nll_positive": 0.5,
        "nll_negative": 2.0, "entropy": 0.5, "rho": 0.25, "naive_gap": -0.1, "grad_norm": 3.0, "update_norm": 0.02,
        "growth": 0.04, "update_cosine": 0.9, "ballistic": 0.0, "lr": 0.5, "lr_active": "none", "finite": True,
    }  # fmt: skip
    assert {name: got[name] for name in expected} == pytest.approx(expected)
    assert got["reward_staleness"] == {"2": [0.5, 2]}


def test_row_of_a_step_without_contrast_and_of_one_that_broke(tmp_path):
    empty = step_row(record(tmp_path, None))
    assert (empty["nll_positive"], empty["rho"], empty["update_norm"], empty["finite"]) == (None, None, None, True)
    broken = step_row(record(tmp_path, StepStats(float("nan"), 1.0, {}, "non-finite loss (nan)")))
    assert broken["finite"] is False


def test_timing_adds_up():
    parts = timing(1.0, 2.0, 2.5, 4.5, 5.0)
    assert parts == {"wait_s": 1.0, "pack_s": 0.5, "train_s": 2.0, "publish_s": 0.5, "step_s": 4.0}

"""The rate of each step from schedule, governor, rules of others and holds; and the row that a step leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner.batch.statistics import GroupStatistics, group_statistics
from learner.config import LearnerConfig
from learner.control.controller import LearningRateController, LearningRateDecision
from learner.control.drift_governor import Movement
from learner.intake.batch_source import TakenBatch
from learner.megatron.training.trainer import StepStats
from learner.megatron.training.update_meter import Update
from learner.telemetry.step_row import StepRecord, step_row, timing
from leeway.v1 import rollout_pb2 as pb
from runtime.settings import SettingsError


def config(**values: Any) -> LearnerConfig:
    base = {
        "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1000, "metrics_dir": "x",
        "checkpoint": {"dir": "x"}, "publish": {"dir": "x"}, "optimizer": {"lr": 1.0}, "objective": {"name": "asympo"},
    }  # fmt: skip
    return LearnerConfig.parse({**base, **values}, "test")


def groups(staleness: float = 0.0) -> GroupStatistics:
    some = group_statistics([pb.Group(responses=[pb.Response(reward=1.0)])], {}, 4)
    return replace(some, staleness_mean=staleness)


def row(decision: LearningRateDecision, **values: Any) -> dict[str, Any]:
    return {
        "reward": 0.5,
        "reward_sd": 0.8,
        "lr": decision.rate,
        "lr_active": decision.active,
        "finite": True,
        **values,
    }


def test_off_is_the_schedule():
    decision = LearningRateController(config(optimizer={"lr": 1.0, "warmup_steps": 1})).decide(0, groups(9))
    assert (decision.rate, decision.scheduled, decision.drift, decision.active) == (0.5, 0.5, None, "none")


@pytest.mark.parametrize("late", [4, 8, 32])
def test_groups_that_are_late_lower_the_rate_of_the_step_that_trains_them(late: int):
    """A movement of T = 0.4 nats in one step at rate 1: the bound is 1 / sqrt(staleness + 1)."""
    controller = LearningRateController(config(lr_control={"mode": "drift", "drift_start": 1.0}, max_staleness=4))
    controller.updated(controller.decide(0, groups()))
    controller.observe_drift(Movement(drift=0.4, steps=1, rate=1.0))
    decision = controller.decide(1, groups(late))
    assert (decision.rate, decision.scheduled, decision.active) == (pytest.approx((late + 1) ** -0.5), 1.0, "drift")
    assert controller.decide(1, groups()).active == "none"


def test_a_hold_freezes_the_weights_and_training_goes_on_at_half_the_rate():
    controller = LearningRateController(config(alarms={"window": 2, "reward": "hold", "hold_steps": 3}))
    rates, raised = [], []
    for step in range(12):
        decision = controller.decide(step, groups())
        rates.append(decision.rate)
        raised += [(step, alarm.rule) for alarm in controller.observe(row(decision, reward=0.8 if step < 4 else 0.1))]
    assert raised == [(5, "reward")]  # the reward stays low, but only what comes after the hold is compared
    assert rates == [1.0] * 6 + [0.0] * 3 + [0.5] * 3


def test_a_hold_and_a_rollback_lower_a_rate_that_the_drift_bounds():
    """A movement of 0.4 nats at rate 1: the bound is 0.4 / (sqrt(3 + 1) * 0.4) = 0.5 before the hold."""
    controller = LearningRateController(
        config(lr_control={"mode": "drift", "drift_start": 1.0}, alarms={"hold_steps": 1, "hold_factor": 0.5})
    )
    controller.updated(controller.decide(0, groups()))
    controller.observe_drift(Movement(drift=0.4, steps=1, rate=1.0))
    assert controller.decide(1, groups(3)).rate == pytest.approx(0.5)
    controller.hold()
    assert controller.decide(2, groups(3)).active == "hold"
    held = controller.decide(3, groups(3))
    assert (held.rate, held.scheduled, held.active) == (pytest.approx(0.25), 0.5, "drift")
    assert held.drift is not None
    assert held.drift.predicted == pytest.approx(0.2)
    controller.resume_after_rollback(*controller.next_rollback())
    assert controller.decide(4, groups(3)).rate == pytest.approx(0.125)


def drive(controller: LearningRateController, rewards: list[float]) -> list[tuple[int, str]]:
    """Feeds steps 1, 2, ... with these rewards; returns (step, action) of the alarms raised."""
    raised = []
    for step, reward in enumerate(rewards, 1):
        decision = controller.decide(step - 1, groups())
        raised += [(step, alarm.action) for alarm in controller.observe(row(decision, reward=reward))]
    return raised


def test_weights_have_proved_healthy_a_window_later_and_never_once_an_alarm_was_active():
    controller = LearningRateController(config(alarms={"window": 4, "reward": "warn"}))
    healthy = []
    for step, reward in enumerate([0.8] * 10 + [0.1] * 5, 1):
        controller.observe(row(controller.decide(step - 1, groups()), reward=reward))
        healthy.append(list(controller.healthy_steps(step)))
    assert healthy[3] == []
    assert healthy[4] == [1]
    assert healthy[9] == [1, 2, 3, 4, 5, 6]
    alarm = next(step for step, steps in enumerate(healthy, 1) if step > 5 and not steps)
    assert 10 < alarm <= 13
    assert healthy[alarm - 2][-1] <= 10 - 1  # the newest checkpoint that may be gone back to is of before the fall


def test_a_rollback_lowers_the_rate_and_after_so_many_it_is_a_hold():
    settings = config(alarms={"window": 2, "reward": "rollback", "rollbacks": 1, "hold_steps": 3})
    collapse = [0.8] * 4 + [0.1] * 4
    controller = LearningRateController(settings)
    assert drive(controller, collapse) == [(6, "rollback")]
    assert controller.next_rollback() == (1, 0.5)
    again = LearningRateController(settings)  # the next start, with the state of the healthy checkpoint
    again.load_state_dict(json.loads(json.dumps(LearningRateController(settings).state_dict())))
    again.resume_after_rollback(*controller.next_rollback())
    assert again.decide(0, groups()).rate == 0.5
    assert drive(again, collapse) == [(6, "hold")]
    assert again.decide(8, groups()).rate == 0.0


def test_without_a_checkpoint_to_go_back_to_the_weights_are_held():
    controller = LearningRateController(config(alarms={"window": 2, "reward": "rollback", "hold_steps": 3}))
    assert drive(controller, [0.8] * 4 + [0.1] * 2) == [(6, "rollback")]
    controller.hold()
    assert [controller.decide(step, groups()).rate for step in range(6, 10)] == [0.0, 0.0, 0.0, 0.5]


def test_state_survives_a_checkpoint_in_json():
    settings = config(
        lr_control={"mode": "drift", "drift_start": 1.0}, alarms={"window": 2, "reward": "hold", "hold_steps": 3}
    )

    def walk(controller: LearningRateController, steps: range) -> list[LearningRateDecision]:
        decisions = []
        for step in steps:
            decisions.append(controller.decide(step, groups(step % 5)))
            if rate := decisions[-1].rate:
                controller.updated(decisions[-1])
                controller.observe_drift(Movement(drift=(2 + step % 3) * rate, steps=1, rate=rate))
            controller.observe(row(decisions[-1], reward=0.8 if step < 4 else 0.1))
        return decisions

    whole = walk(LearningRateController(settings), range(15))
    first, second = LearningRateController(settings), LearningRateController(settings)
    walk(first, range(7))  # in the middle of the hold
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert walk(second, range(7, 15)) == whole[7:]
    assert len({decision.rate for decision in whole}) > 3


def record(tmp_path: Path, stats: StepStats | None, rate: float = 0.5) -> StepRecord:
    tokens = np.array([1, 2], "<i4").tobytes()
    responses = [pb.Response(tokens=tokens, reward=r, spans=[pb.Span(version=3, start=0, end=2)]) for r in (1.0, 0.0)]
    taken = TakenBatch([pb.Group(responses=responses)] * 2, [], {3: 2}, ["oslo", "tokyo"])
    decision = LearningRateController(config(optimizer={"lr": rate})).decide(0, groups())
    statistics = group_statistics(taken.groups, taken.staleness, 1)
    return StepRecord(7, taken, statistics, None, stats, decision, 0.9, "asympo")


def test_row_of_a_step(tmp_path):
    sums = {
        "nll_positive_sum": 1.0, "nll_positive_count": 2.0, "nll_negative_sum": 6.0, "nll_negative_count": 3.0,
        "entropy_sum": 4.0, "entropy_count": 8.0, "rho_sum": 1.0, "rho_count": 4.0, "naive_gap_sum": -0.1,
    }  # fmt: skip
    got = step_row(record(tmp_path, StepStats(0.0, 3.0, sums, None, Update(0.02, 0.9), [3.0, 1.0])))
    expected = {
        "reward": 0.5, "informative": 1.0, "staleness_max": 2, "nll_positive": 0.5,
        "nll_negative": 2.0, "entropy": 0.5, "rho": 0.25, "naive_gap": -0.1, "grad_norm": 3.0, "update_norm": 0.02,
        "fleet_dominance": 3.0,
        "growth": 0.04, "update_cosine": 0.9, "ballistic": 0.0, "lr": 0.5, "lr_active": "none", "finite": True,
    }  # fmt: skip
    assert {name: got[name] for name in expected} == pytest.approx(expected)
    assert got["reward_staleness"] == {"2": [0.5, 4]}
    assert got["fleets"] == {"oslo": [0.75, 0.5], "tokyo": [0.25, 0.5]}
    assert got["late"] == 2
    assert (got["step"], got["objective"]) == (7, "asympo")


def test_row_has_lengths_shares_and_tasks_as_json_values(tmp_path: Path):
    """Two groups count and have two responses each, of 2 and 6 tokens; the third one was replaced."""
    made = []
    for rewards in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        spans = [[pb.Span(version=1, start=0, end=size)] for size in (2, 6)]
        responses = [
            pb.Response(reward=reward, spans=own, finish_reason=pb.FINISH_REASON_STOP, reward_parts={"exact": reward})
            for reward, own in zip(rewards, spans, strict=True)
        ]
        made.append(pb.Group(task="sort", responses=responses))
    taken = TakenBatch(made, [], {1: 2}, ["oslo"] * 3, uncounted=1, ending="late")
    whole = replace(record(tmp_path, None), taken=taken, groups=group_statistics(made, taken.staleness, 4))
    got = json.loads(json.dumps(step_row(whole)))
    summary = {"mean": 4.0, "p50": 4.0, "p95": pytest.approx(6.0), "max": 6}
    assert (got["groups"], got["replaced"], got["ending"], got["groups_informative"]) == (3, 1, "late", 2)
    assert (got["all_right"], got["all_wrong"], got["informative"]) == (1 / 3, 0.0, 2 / 3)
    assert got["reward_sd"] == pytest.approx((2 / 9) ** 0.5)
    assert (got["truncated"], got["length"]["mean"], got["length"]["max"]) == (0.0, 4.0, 6)
    assert got["length_positive"] == {**summary, "p95": pytest.approx(2 + 0.95 * 4)}
    assert got["length_negative"]["p50"] == 4.0
    assert (got["length_by_finish"]["stop"]["p50"], got["length_by_finish"]["length"]) == (4.0, None)
    task = {"groups": 3, "reward": 2 / 3, "informative": 2 / 3, "parts": {"exact": 2 / 3}}
    assert got["tasks"] == {"sort": {**task, "reward_sd": got["reward_sd"]}}


def test_row_of_a_step_without_contrast_and_of_one_that_broke(tmp_path):
    empty = step_row(record(tmp_path, None))
    assert (empty["nll_positive"], empty["rho"], empty["update_norm"], empty["finite"]) == (None, None, None, True)
    broken = step_row(record(tmp_path, StepStats(float("nan"), 1.0, {}, "non-finite loss (nan)")))
    assert (broken["finite"], broken["fleets"], broken["fleet_dominance"]) == (False, {}, None)


def test_row_of_a_step_without_a_scored_response_has_no_reward_and_raises_no_alarm(tmp_path: Path):
    """A reward of 0 in its place would be a collapse."""
    whole = record(tmp_path, None)
    for response in whole.taken.groups[0].responses:
        response.unscored = "reward_timeout"
    one = whole.taken.groups[0]
    taken = TakenBatch([one, one], [], {3: 2}, ["oslo", "tokyo"])
    unscored = replace(whole, taken=taken, groups=group_statistics(taken.groups, taken.staleness, 1))
    found = step_row(unscored)
    assert (found["reward"], found["segments"], found["reward_staleness"]) == (None, None, {})
    assert (found["unscored"], found["unscored_groups"], found["informative"]) == (1.0, 2, 0.0)
    assert (found["staleness_mean"], found["loss"], found["finite"]) == (2.0, 0.0, True)
    assert (step_row(whole)["unscored"], step_row(whole)["segments"]) == (0.0, 1.0)
    controller = LearningRateController(config(alarms={"window": 2, "reward": "hold", "entropy": "hold"}))
    assert drive(controller, [0.8] * 4) == []
    for _ in range(6):
        assert controller.observe(found) == []
    assert controller.decide(10, unscored.groups).rate == 1.0


def test_timing_adds_up():
    parts = timing(1.0, 2.0, 4.5, 5.0)
    assert parts == {"wait_s": 1.0, "train_s": 2.5, "publish_s": 0.5, "step_s": 4.0}


def weights(*values: float) -> dict[str, float]:
    """Importance weights of responses, as an objective reports them."""
    return {
        "ess_weight": sum(values), "ess_square": sum(value * value for value in values), "ess_count": float(len(values)),
    }  # fmt: skip


def test_ess_lowers_the_rate_by_the_root_of_the_step_s_own_effective_sample_size():
    """Weights 1, 2, 1: a share of 16 / 18."""
    controller = LearningRateController(config(lr_control={"mode": "ess"}, objective={"name": "grpo"}))
    decision = controller.decide(0, groups())
    assert (decision.rate, decision.active) == (1.0, "none")
    settled = controller.settle(decision, weights(1.0, 2.0, 1.0), None)
    assert settled.rate == pytest.approx((16 / 18) ** 0.5)
    assert (settled.scheduled, settled.active) == (1.0, "ess")
    fresh = controller.settle(controller.decide(1, groups()), weights(1.0, 1.0), 0.9)
    assert (fresh.rate, fresh.active) == (1.0, "none")
    empty = controller.settle(controller.decide(2, groups()), weights(), None)
    assert (empty.rate, empty.active) == (1.0, "none")


def test_ess_leaves_a_hold_alone():
    controller = LearningRateController(config(lr_control={"mode": "ess"}, objective={"name": "grpo"}))
    controller.hold()
    settled = controller.settle(controller.decide(0, groups()), weights(1.0, 3.0), None)
    assert (settled.rate, settled.active) == (0.0, "hold")


def test_ess_is_refused_without_importance_weights():
    with pytest.raises(SettingsError, match=r'"ess" with objective.name = \'asympo\'.* use mode = "drift"'):
        config(lr_control={"mode": "ess"})
    controller = LearningRateController(config(lr_control={"mode": "ess"}, objective={"name": "grpo"}))
    with pytest.raises(SettingsError, match="the objective 'grpo' has no importance weights"):
        controller.settle(controller.decide(0, groups()), {"rho_sum": 1.0}, None)


@pytest.mark.parametrize("mode", ["off", "drift"])
def test_other_modes_take_no_notice_of_the_gradient(mode: str):
    controller = LearningRateController(config(lr_control={"mode": mode}))
    decision = controller.decide(0, groups())
    assert controller.settle(decision, weights(1.0, 5.0), 0.99) == decision


def test_gac_says_when_it_projects_a_gradient():
    settings = config(lr_control={"mode": "gac", "gac_limit": 0.3})
    controller = LearningRateController(settings)
    decision = controller.decide(0, groups())
    found = {c: controller.settle(decision, {}, c).active for c in (None, -0.9, 0.3, 0.31)}
    assert found == {None: "none", -0.9: "none", 0.3: "none", 0.31: "gac"}
    assert controller.settle(decision, {}, 0.9).rate == decision.rate
    assert (settings.lr_control.projects_above, config().lr_control.projects_above) == (0.3, None)


def test_the_row_shows_the_settled_rate_and_what_it_came_from(tmp_path: Path):
    stats = StepStats(0.0, 3.0, weights(1.0, 2.0, 1.0), None, Update(0.02, 0.9), [3.0, 1.0], gradient_cosine=0.25)
    controller = LearningRateController(config(lr_control={"mode": "ess"}, objective={"name": "grpo"}))
    settled = controller.settle(controller.decide(0, groups()), stats.metrics, stats.gradient_cosine)
    got = step_row(replace(record(tmp_path, stats), decision=settled))
    rate = (16 / 18) ** 0.5
    assert (got["ess_share"], got["gradient_cosine"], got["lr_active"]) == (pytest.approx(16 / 18), 0.25, "ess")
    assert (got["lr"], got["lr_scheduled"], got["lr_ceiling_share"]) == (pytest.approx(rate), 1.0, pytest.approx(rate))
    assert got["growth"] == pytest.approx(0.02 / rate)
    none = step_row(record(tmp_path, None))
    assert (none["ess_share"], none["gradient_cosine"]) == (None, None)

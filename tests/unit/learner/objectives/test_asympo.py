"""The guard on rho: by hand, and on stationary data against an independent float64 computation."""

import math

import numpy as np
import pytest
import torch

from learner import objectives
from learner.config.control import AlarmConfig
from learner.config.objective import ObjectiveConfig
from learner.control.alarms import Alarms
from learner.objectives import Objective, Responses
from learner.objectives.asympo import RhoGuard
from tests.tools.objective_cases import evaluate, random_groups

RHO_MAX, DECAY, FLOOR, STEPS, GROUPS, SIZE = 0.1, 0.9, 1e-3, 1500, 8, 8


def parse(**values: object) -> ObjectiveConfig:
    return ObjectiveConfig.parse({"name": "asympo", **values}, "f.toml")


def sums(positive: float, negative: float, guard: RhoGuard | None = None) -> dict[str, float]:
    """Reduced metrics of a step with these weights of positives, and of negatives before the guard scales them."""
    return {"rho_count": positive, "rho_sum": negative * (guard.factor() if guard else RHO_MAX)}


def test_guard_by_hand():
    guard = RhoGuard(rho_max=RHO_MAX)
    assert guard.factor() == RHO_MAX  # nothing seen: the weights are taken as equal
    guard.observe(sums(1.0, 2.0, guard))  # f = 0.1 * 0.1 / 0.2
    assert guard.factor() == pytest.approx(0.05)
    guard.observe(sums(3.0, 1.0, guard))  # 0.9 * 0.1 + 0.1 * 3 = 0.39; 0.9 * 0.2 + 0.1 * 1 = 0.28
    assert guard.factor() == pytest.approx(0.1 * 0.39 / 0.28)


def test_a_step_that_says_nothing_leaves_the_factor_as_it_is():
    guard = RhoGuard(RHO_MAX)
    guard.observe(sums(1.0, 2.0, guard))
    for positive, negative in ((0.0, 0.0), (math.nan, 1.0), (1.0, math.inf)):
        guard.observe(sums(positive, negative, guard))
        assert guard.factor() == pytest.approx(0.05)


def test_one_sign_alone_counts_and_the_guard_recovers():
    """Steps without positives switch negatives off, and their weight stays measurable; steps without negatives count too."""
    guard = RhoGuard(RHO_MAX)
    guard.observe(sums(0.0, 2.0, guard))
    assert 0 < guard.factor() < 1e-3
    for _ in range(200):
        guard.observe(sums(1.0, 2.0, guard))
    assert guard.factor() == pytest.approx(0.05)
    alone = RhoGuard(RHO_MAX)
    alone.observe(sums(1.0, 0.0, alone))
    assert alone.factor() == RHO_MAX  # no negatives seen yet
    assert RhoGuard(RHO_MAX, positive=1.0, negative=0.01).factor() == 1.0  # the scales protect: plain ASymPO


def test_guard_holds_rho_at_its_bound_where_nothing_else_does():
    """With equal scales ASymPO's rho is 1 without the guard and rho_max with it."""
    groups = random_groups(9, [[1.0, 0.0]])
    for response in groups[0]:
        response.logp = [-1.0, -2.0, -0.5]
    for bound, expected in ((None, 1.0), (0.1, 0.1), (0.25, 0.25)):
        chosen = objectives.get(parse(rho_max=bound or "off"))
        for _ in range(3):
            metrics = evaluate(groups, chosen)[2]
            assert metrics["rho_sum"] / metrics["rho_count"] == pytest.approx(expected)
            chosen.observe(metrics)


def test_one_confident_negative_in_ten_does_not_break_the_bound():
    """S = 0.5 but for one negative in ten with S = 0.01: the mean of 1 / S is 11.8, where 1 over the mean of S is 2.2."""
    scales = torch.full((20,), 0.5)
    scales[10] = 0.01
    advantage = torch.tensor([0.5] * 10 + [-0.5] * 10)
    chosen = objectives.get(parse())
    rho = math.nan
    for _ in range(2):
        _, metrics = chosen(-scales, Responses(torch.arange(20), advantage, torch.full((20,), 1 / 20)))
        rho = float(metrics["rho_sum"] / metrics["rho_count"])
        chosen.observe({name: float(value) for name, value in metrics.items()})
    assert rho == pytest.approx(RHO_MAX)


def stationary(seed: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scales S and advantages of the responses of every step: S is log-normal, one negative in ten has S = 0.01."""
    noise, steps = np.random.default_rng(seed), []
    for _ in range(STEPS):
        right = noise.integers(1, SIZE, GROUPS)
        positive = np.arange(SIZE) < right[:, None]
        advantage = np.where(positive, SIZE - right[:, None], -right[:, None]) / SIZE
        scale = np.exp(noise.normal(np.log(0.5), 0.7, (GROUPS, SIZE)))
        scale[(noise.random((GROUPS, SIZE)) < 0.1) & ~positive] = 0.01
        steps.append((scale.ravel(), advantage.ravel()))
    return steps


def measured(chosen: Objective, steps: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[float, float]]:
    """Weights of negatives and of positives that each step measures."""
    weights = []
    for scale, advantage in steps:
        count = len(scale)
        responses = Responses(torch.arange(count), torch.tensor(advantage).float(), torch.full((count,), 1 / count))
        _, metrics = chosen(-torch.tensor(scale).float(), responses)
        chosen.observe({name: float(value) for name, value in metrics.items()})
        weights.append((float(metrics["rho_sum"]), float(metrics["rho_count"])))
    return weights


def test_the_mean_of_rho_is_rho_max_whatever_the_spread():
    steps = stationary()
    weights = measured(objectives.get(parse()), steps)
    negatives, positives = (math.fsum(column) for column in zip(*weights, strict=True))
    assert negatives / positives == pytest.approx(RHO_MAX, rel=0.03)
    # The formula in float64, from S and A alone.
    mean_positive = mean_negative = 0.0
    for (scale, advantage), (negative, positive) in zip(steps, weights, strict=True):
        weight = np.abs(advantage) / np.maximum(scale, FLOOR) / len(scale)
        raised, lowered = weight[advantage > 0].sum(), weight[advantage < 0].sum()
        factor = min(1.0, RHO_MAX * mean_positive / mean_negative) if mean_negative else RHO_MAX
        assert (negative, positive) == pytest.approx((factor * lowered, raised), rel=1e-4)
        mean_positive = DECAY * mean_positive + (1 - DECAY) * raised
        mean_negative = DECAY * mean_negative + (1 - DECAY) * lowered


def test_the_rho_alarm_is_quiet_while_the_guard_holds():
    alarms = Alarms(AlarmConfig())
    for negative, positive in measured(objectives.get(parse()), stationary()):
        assert alarms.observe({"rho": negative / positive}) == []


def test_guard_state_survives_a_checkpoint():
    first = objectives.get(parse())
    first.observe(sums(1.0, 2.0))
    second = objectives.get(parse())
    second.load_state_dict(first.state_dict())
    groups = random_groups(10, [[1.0, 0.0, 0.0]])
    torch.testing.assert_close(evaluate(groups, second)[1], evaluate(groups, first)[1])
    assert not torch.allclose(evaluate(groups, objectives.get(parse()))[1], evaluate(groups, first)[1])
    second.load_state_dict({})  # a checkpoint from before the guard was turned on
    assert second.state_dict() == objectives.get(parse()).state_dict()

"""Importance weights of whole responses, against numbers worked by hand and an independent float64 reference."""

from __future__ import annotations

import math

import pytest
import torch

from learner.config import ObjectiveConfig
from learner.config.objectives_table import OBJECTIVES
from learner.control.effective_sample import ess_share
from learner.objectives.base import Objective, Responses
from learner.objectives.effective_sample import effective_sample_sums
from learner.objectives.registry import get

WITH_MU = [name for name, entry in OBJECTIVES.items() if entry.needs_behaviour]


def responses(log_ratios: list[list[float]], logp: float = -2.0) -> tuple[torch.Tensor, Responses]:
    """Responses whose tokens have these log pi - log mu; advantages alternate."""
    rows = [row for row, ratios in enumerate(log_ratios) for _ in ratios]
    current = torch.full((len(rows),), logp)
    mu = current - torch.tensor([ratio for ratios in log_ratios for ratio in ratios])
    advantage = torch.tensor([1.0 if row % 2 == 0 else -1.0 for row in range(len(log_ratios))])
    weight = torch.full((len(log_ratios),), 1 / len(log_ratios))
    return current, Responses(torch.tensor(rows), advantage, weight, mu, current - 0.1, torch.ones(len(rows)))


def totals(objective: Objective, *parts: list[list[float]]) -> dict[str, float]:
    """The objective's metrics, summed over micro-batches."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in objective(*responses(part))[1].items():
            sums[name] = sums.get(name, 0.0) + float(value.double())
    return sums


def test_the_share_by_hand():
    """Weights 1, 2 and 1: (1 + 2 + 1)^2 / (3 * (1 + 4 + 1)) = 16 / 18."""
    sums = effective_sample_sums(torch.tensor([0.0, math.log(2.0), 0.0]).double(), torch.tensor([4.0, 1.0, 2.0]))
    assert [float(sums[name]) for name in ("ess_weight", "ess_square", "ess_count")] == pytest.approx([4.0, 6.0, 3.0])
    assert ess_share({name: float(value) for name, value in sums.items()}) == pytest.approx(16 / 18)


@pytest.mark.parametrize("name", WITH_MU)
def test_every_objective_with_mu_reports_weights_of_responses_that_add_up_over_micro_batches(name: str):
    objective = get(ObjectiveConfig(name=name))
    one, two = [[0.1, 0.3, -0.2], [0.0, -1.0]], [[0.5], [-0.7, 0.2, 0.1, 0.4]]
    logs = torch.tensor([sum(ratios) for ratios in one + two], dtype=torch.float64)
    whole = totals(objective, one + two)
    expected = float(logs.exp().sum() ** 2 / (4 * (2 * logs).exp().sum()))
    assert ess_share(whole) == pytest.approx(expected, rel=1e-6)
    cut = totals(objective, one, two)
    for sums in ("ess_weight", "ess_square", "ess_count"):
        assert cut[sums] == pytest.approx(whole[sums], rel=1e-12)


def test_an_objective_without_mu_reports_none():
    assert ess_share(totals(get(ObjectiveConfig(name="asympo")), [[0.1], [0.2]])) is None


@pytest.mark.parametrize("shift", [0.0, -46.0, -250.0, 250.0])
def test_the_share_does_not_depend_on_the_scale_of_the_weights(shift: float):
    """At -46 nats a weight is 1e-20; a bound of 20 nats would make the three of them equal, and the share 1."""
    logs = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64) + shift
    sums = {name: float(value) for name, value in effective_sample_sums(logs, torch.ones(3)).items()}
    e = math.e
    assert ess_share(sums) == pytest.approx((1 + e + e**3) ** 2 / (3 * (1 + e**2 + e**6)), rel=1e-9)


def test_beyond_300_nats_a_weight_is_bounded_or_none():
    ends = torch.tensor([-1e4, 1e4, 400.0], dtype=torch.float64)
    sums = {name: float(value) for name, value in effective_sample_sums(ends, torch.ones(3)).items()}
    assert all(map(math.isfinite, sums.values()))
    assert ess_share(sums) == pytest.approx(2 / 3)  # two equal ones and one of nothing
    none = effective_sample_sums(torch.full((4,), -1e3).double(), torch.ones(4))
    assert ess_share({name: float(value) for name, value in none.items()}) == 1 / 4


def test_a_response_without_loss_tokens_is_not_counted():
    sums = effective_sample_sums(torch.zeros(3).double(), torch.tensor([2.0, 0.0, 1.0]))
    assert (float(sums["ess_weight"]), float(sums["ess_count"])) == (2.0, 2.0)

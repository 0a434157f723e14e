"""Objectives against numbers worked by hand, an independent float64 reference and finite differences."""

import math
from typing import get_args

import pytest
import torch

from learner import objectives
from learner.config import ObjectiveConfig
from learner.objectives import Responses
from learner.objectives.policy_gradient import asympo, reinforce, spo
from learner.objectives.supervised import sft
from runtime.settings import SettingsError


def one_group() -> tuple[torch.Tensor, Responses]:
    """Two responses of a group of 2: log p (-1, -3) with A = +0.5 and (-2,) with A = -0.5; weight 1 / (2 * 1 prompt)."""
    logp = torch.tensor([-1.0, -3.0, -2.0], requires_grad=True)
    responses = Responses(
        row=torch.tensor([0, 0, 1]), advantage=torch.tensor([0.5, -0.5]), weight=torch.tensor([0.5, 0.5])
    )
    return logp, responses


def test_reinforce_by_hand():
    logp, responses = one_group()
    loss, metrics = reinforce(logp, responses)
    loss.backward()
    # S = (2, 2): 0.5 * 0.5 * 2 - 0.5 * 0.5 * 2 = 0; dL/dlogp = -w A / m
    assert loss.item() == pytest.approx(0.0)
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([-0.125, -0.125, 0.25])
    assert metrics["nll_positive_sum"].item() == 2.0
    assert metrics["nll_negative_sum"].item() == 2.0


def test_spo_by_hand():
    logp, responses = one_group()
    loss, _ = spo(logp, responses, alpha=0.2)
    loss.backward()
    # 0.5 * 0.5 * 2 - 0.2 * 0.5 * 0.5 * 2 = 0.5 - 0.1
    assert loss.item() == pytest.approx(0.4)
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([-0.125, -0.125, 0.05])


def test_asympo_by_hand():
    logp, responses = one_group()
    loss, _ = asympo(logp, responses)
    loss.backward()
    # The forward masses cancel; the gradient is that of reinforce divided by S = 2.
    assert loss.item() == pytest.approx(0.0)
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([-0.0625, -0.0625, 0.125])


def test_sft_by_hand():
    logp, responses = one_group()
    loss, metrics = sft(logp, Responses(responses.row, responses.advantage, torch.tensor([1 / 3, 1 / 3])))
    assert loss.item() == pytest.approx(2.0)  # mean NLL of (1, 3, 2)
    assert metrics["probability_sum"].item() == pytest.approx(math.exp(-4) + math.exp(-2))
    assert metrics["nll_count"].item() == 3


def test_asympo_clip_keeps_clipped_tokens_in_the_scale_without_gradient():
    logp = torch.tensor([math.log(0.999), -1.0, math.log(1e-4), -0.5], requires_grad=True)
    responses = Responses(torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5]))
    _, metrics = asympo(logp, responses, p_low=0.02, p_high=0.98)
    loss, _ = asympo(logp, responses, p_low=0.02, p_high=0.98)
    loss.backward()
    positive = (-math.log(0.98) + 1.0) / 2
    negative = (-math.log(0.02) + 0.5) / 2
    assert metrics["clipped_sum"].item() == 2
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([0.0, -0.5 / (2 * positive), 0.0, 0.5 / (2 * negative)])


def reference_gradient(name: str, logp: torch.Tensor, responses: Responses) -> torch.Tensor:
    """d loss / d logp in float64, written with loops from the formulas and sharing nothing with the code under test."""
    gradient = torch.zeros(len(logp), dtype=torch.float64)
    for r in range(len(responses.advantage)):
        tokens = [i for i in range(len(logp)) if responses.row[i] == r]
        if not tokens:
            continue
        advantage, weight = float(responses.advantage[r]), float(responses.weight[r])
        scale = -sum(float(logp[i]) for i in tokens) / len(tokens)
        factor = {"reinforce": 1.0, "spo": 1.0 if advantage >= 0 else 0.2, "asympo": 1 / max(scale, 1e-3)}[name]
        for i in tokens:
            gradient[i] = -weight * advantage * factor / len(tokens)
    return gradient


def hard_batch() -> tuple[torch.Tensor, Responses]:
    """Both signs, zero advantages, one-token responses, S near 0, 40-nat tokens."""
    generator = torch.Generator().manual_seed(3)
    lengths = [1, 7, 30, 1, 5, 2]
    logp = -torch.rand(sum(lengths), generator=generator) * 3
    logp[0] = -1e-7
    logp[1:8] = -1e-6
    logp[10] = -40.0
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    advantage = torch.tensor([0.75, -0.25, 0.5, -0.5, 0.0, -0.5])
    return logp, Responses(row, advantage, torch.full((len(lengths),), 1 / 24))


@pytest.mark.parametrize("name", ["asympo", "spo", "reinforce"])
def test_gradient_equals_float64_reference(name: str):
    logp, responses = hard_batch()
    logp.requires_grad_()
    loss, _ = objectives.get(ObjectiveConfig.parse({"name": name}, "test"))(logp, responses)
    loss.backward()
    assert logp.grad is not None
    assert torch.isfinite(logp.grad).all()
    expected = reference_gradient(name, logp.detach().double(), responses)
    torch.testing.assert_close(logp.grad.double(), expected, rtol=2e-6, atol=1e-9)


def test_asympo_gradient_is_that_of_a_log_scale_loss_by_finite_differences():
    """The gradient of (1/G) sum A S/sg(S) equals that of (1/G) sum A log S, which has no stop-gradient to differentiate."""
    logp, responses = hard_batch()
    logp = logp.double().clamp(max=-0.01)

    def log_scale(values: torch.Tensor) -> float:
        scale = torch.zeros(len(responses.advantage), dtype=torch.float64).index_add(0, responses.row, -values)
        scale /= torch.bincount(responses.row)
        return float((responses.weight * responses.advantage * scale.log()).sum())

    variable = logp.clone().requires_grad_()
    asympo(variable, responses)[0].backward()
    assert variable.grad is not None
    for i in range(len(logp)):
        nudge = torch.zeros_like(logp)
        nudge[i] = 1e-6
        difference = (log_scale(logp + nudge) - log_scale(logp - nudge)) / 2e-6
        assert float(variable.grad[i]) == pytest.approx(difference, rel=1e-5, abs=1e-10)


def test_asympo_forward_loss_is_zero_per_group_and_gap_is_the_papers():
    """L_naive - L_asympo = (B/G)(mean positive scale - mean negative scale), for scales above the floor."""
    generator = torch.Generator().manual_seed(5)
    logp = -torch.rand(40, generator=generator) * 2 - 0.1
    advantage = torch.tensor([0.6, -0.4, -0.4, 0.6, -0.4]) - torch.tensor(0.0)
    responses = Responses(torch.arange(5).repeat_interleave(8), advantage, torch.full((5,), 1 / 5))
    naive = reinforce(logp, responses)[0]
    balanced = asympo(logp, responses)[0]
    scale = (-logp).view(5, 8).mean(1)
    positive = (scale * advantage)[advantage > 0].sum() / 1.2
    negative = (scale * advantage)[advantage < 0].sum() / -1.2
    assert balanced.item() == pytest.approx(0.0, abs=1e-7)
    assert (naive - balanced).item() == pytest.approx(1.2 / 5 * float(positive - negative), abs=1e-6)


def test_every_configurable_objective_is_registered_and_an_unknown_one_is_named():
    known = get_args(ObjectiveConfig.model_fields["name"].annotation)
    assert sorted(known) == objectives.names()
    with pytest.raises(SettingsError, match=r"f\.toml: name = 'grp0': Input should be 'asympo', 'spo'"):
        ObjectiveConfig.parse({"name": "grp0"}, "f.toml")

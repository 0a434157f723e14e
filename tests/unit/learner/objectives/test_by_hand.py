"""Objectives against numbers worked by hand."""

import math

import pytest
import torch

from learner import objectives
from learner.config.objective import ObjectiveConfig
from learner.config.objectives_table import OBJECTIVES
from learner.objectives import Objective, Responses
from learner.objectives.asympo import Asympo
from learner.objectives.divergence import Dppo, Drpo
from learner.objectives.policy_gradient import Positives, Reinforce, Spo
from learner.objectives.ratio import Grpo
from learner.objectives.second_moment import M2po
from learner.objectives.sequence import Gspo, Topr
from learner.objectives.supervised import Sft
from tests.tools import objective_reference as reference
from tests.tools.objective_cases import evaluate, one_group
from tests.tools.objective_reference import Response

ALL = sorted(reference.TERMS)
MIXED = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0]]


def outcome(chosen: Objective, logp: torch.Tensor, responses: Responses) -> tuple[float, list[float], dict[str, float]]:
    loss, metrics = chosen(logp, responses)
    loss.backward()
    assert logp.grad is not None
    return loss.item(), logp.grad.tolist(), {name: value.item() for name, value in metrics.items()}


def rho(metrics: dict[str, float]) -> float:
    return metrics["rho_sum"] / metrics["rho_count"]


def test_reinforce_by_hand():
    loss, gradient, metrics = outcome(Reinforce(), *one_group())
    # S = (2, 2): 0.5 * 0.5 * 2 - 0.5 * 0.5 * 2 = 0; dL/dlogp = -w A / m
    assert loss == pytest.approx(0.0)
    assert gradient == pytest.approx([-0.125, -0.125, 0.25])
    assert (metrics["nll_positive_sum"], metrics["nll_negative_sum"]) == (2.0, 2.0)
    assert rho(metrics) == pytest.approx(1.0)


def test_spo_by_hand():
    loss, gradient, metrics = outcome(Spo(alpha=0.2), *one_group())
    # 0.5 * 0.5 * 2 - 0.2 * 0.5 * 0.5 * 2 = 0.5 - 0.1
    assert loss == pytest.approx(0.4)
    assert gradient == pytest.approx([-0.125, -0.125, 0.05])
    assert rho(metrics) == pytest.approx(0.2)


def test_positives_by_hand():
    loss, gradient, metrics = outcome(Positives(), *one_group())
    assert loss == pytest.approx(0.5)
    assert gradient == pytest.approx([-0.125, -0.125, 0.0])
    assert rho(metrics) == 0.0


def test_asympo_by_hand():
    loss, gradient, _ = outcome(Asympo(), *one_group())
    # The forward masses cancel; the gradient is that of reinforce divided by S = 2.
    assert loss == pytest.approx(0.0)
    assert gradient == pytest.approx([-0.0625, -0.0625, 0.125])


def test_rho_of_asympo_is_the_ratio_of_the_scales():
    """With S_P = 0.5 and S_N = 2 negatives weigh a quarter of positives."""
    logp = torch.tensor([-0.5, -2.0], requires_grad=True)
    responses = Responses(torch.tensor([0, 1]), torch.tensor([0.5, -0.5]), torch.tensor([0.5, 0.5]))
    assert rho(outcome(Asympo(), logp, responses)[2]) == pytest.approx(0.25)


def test_asympo_clip_keeps_clipped_tokens_in_the_scale_without_gradient():
    logp = torch.tensor([math.log(0.999), -1.0, math.log(1e-4), -0.5], requires_grad=True)
    responses = Responses(torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5]))
    _, gradient, metrics = outcome(Asympo(p_low=0.02, p_high=0.98), logp, responses)
    positive = (-math.log(0.98) + 1.0) / 2
    negative = (-math.log(0.02) + 0.5) / 2
    assert (metrics["clipped_sum"], metrics["clipped_count"]) == (2, 4)
    assert gradient == pytest.approx([0.0, -0.5 / (2 * positive), 0.0, 0.5 / (2 * negative)])


def test_grpo_by_hand():
    # r = e^0.3 = 1.3499 (clipped to 1.2 for A > 0), e^-0.1 = 0.9048, and e^0.3 with A < 0: the pessimistic side, unclipped
    loss, gradient, metrics = outcome(Grpo(), *one_group([-1.3, -2.9, -2.3]))
    assert loss == pytest.approx(-(0.5 * 0.5 * (1.2 + 0.90483742) / 2 - 0.5 * 0.5 * 1.34985881))
    assert gradient == pytest.approx([0.0, -0.125 * 0.90483742, 0.25 * 1.34985881])
    assert metrics["clipped_sum"] == 1
    assert metrics["drift_sum"] == pytest.approx(0.3 - 0.1 + 0.3)


def one_huge_ratio(ratio: float) -> tuple[torch.Tensor, Responses]:
    """A wrong response of three tokens, A = -1, of which one has become ``ratio`` times as likely as when it was sampled."""
    logp = torch.tensor([-0.1, -1.0, -2.0], dtype=torch.float64, requires_grad=True)
    behaviour = logp.detach() - torch.tensor([math.log(ratio), 0.0, 0.0], dtype=torch.float64)
    return logp, Responses(torch.zeros(3, dtype=torch.int64), torch.tensor([-1.0]), torch.ones(1), behaviour)


def test_the_dual_clip_bounds_the_slope_of_a_negative_token_of_a_huge_ratio():
    """Each token weighs 1/3. At r = 7332 the first one's slope is 7332 / 3 = 2444 beside 0.33 without the dual clip."""
    loss, gradient, metrics = outcome(Grpo(dual=None), *one_huge_ratio(7332.0))
    assert gradient == pytest.approx([2444, 1 / 3, 1 / 3])
    assert loss == pytest.approx((7332 + 2) / 3)
    assert metrics["clipped_sum"] == 0
    loss, gradient, metrics = outcome(Grpo(), *one_huge_ratio(7332.0))
    assert gradient == pytest.approx([0, 1 / 3, 1 / 3])
    assert loss == pytest.approx((3 + 2) / 3)  # as much as dual says, 3
    assert metrics["clipped_sum"] == 1
    for ratio in (0.5, 1.0, 1.3, 2.9, 3.1, 50.0, 1e6):
        assert max(outcome(Grpo(), *one_huge_ratio(ratio))[1]) < 3 / 3
    assert outcome(Grpo(), *one_huge_ratio(2.9))[1] == pytest.approx([2.9 / 3, 1 / 3, 1 / 3])


def test_the_dual_clip_leaves_positive_tokens_to_the_clip():
    logp, responses = one_huge_ratio(7332.0)
    positive = Responses(responses.row, -responses.advantage, responses.weight, responses.behaviour_logp)
    loss, gradient, _ = outcome(Grpo(), logp, positive)
    assert loss == pytest.approx(-(1.2 + 2) / 3)
    assert gradient == pytest.approx([0, -1 / 3, -1 / 3])


MEANS = {"response": [1 / 4, 1 / 12, 1 / 4, 1 / 4], "group": [1 / 8, 1 / 8, 1 / 4, 1 / 4], "batch": [1 / 6] * 4}


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if not entry.fixed_mean])
def test_the_mean_over_tokens_is_the_one_that_is_chosen(name: str, mean: str):
    """Responses of 1 and 3 tokens, then of 1 and 1; A = +-1/2; pi = mu, so that every ratio is 1.

    A token weighs 1 / (G P m), or 1 / (P times its group's tokens), or 1 / (the step's 6 tokens); its slope is that times A.
    """
    groups = [
        [Response(1, [-1.0], [-1.0]), Response(0, [-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0])],
        [Response(1, [-2.0], [-2.0]), Response(0, [-2.0], [-2.0])],
    ]
    chosen = objectives.get(ObjectiveConfig.parse({"name": name, "advantage": "mean", "mean": mean}, "test"))
    first, second, third, fourth = MEANS[mean]
    negative = {"spo": 0.2, "positives": 0.0}.get(name, 1.0) / 2
    factor = 0.5 if name == "opmd" else 1.0  # 1 / (1 + tau)
    expected = [-first / 2, *[second * negative] * 3, -third / 2, fourth * negative]
    assert evaluate(groups, chosen)[1].tolist() == pytest.approx([factor * slope for slope in expected], rel=1e-5)


def test_gspo_by_hand():
    # s = e^((0.1 - 0.1) / 2) = 1 and e^0.3
    loss, gradient, _ = outcome(Gspo(), *one_group([-1.1, -2.9, -2.3]))
    assert loss == pytest.approx(-(0.25 * 1 - 0.25 * 1.34985881), abs=1e-6)
    assert gradient == pytest.approx([-0.125, -0.125, 0.25 * 1.34985881])


def test_topr_by_hand():
    # pi(y) / mu(y) of the negative is e^(-2 + 1.6) = 0.67032; log p(y) = -4 and -2, summed over tokens
    loss, gradient, metrics = outcome(Topr(), *one_group([-9.0, -9.0, -1.6]))
    assert loss == pytest.approx(0.25 * 4 - 0.25 * 0.67032 * 2, abs=1e-6)
    assert gradient == pytest.approx([-0.25, -0.25, 0.25 * 0.67032], abs=1e-6)
    assert metrics["clipped_sum"] == 1


def test_drpo_by_hand():
    # pi = 0.5, mu = 0.25, delta = 0.5, A = +-1. Up: 2 - 1 * 0.25 * 1 = 1.75, w = 1 - 0.25 / 0.5; down: -2 - 0.25, w = 1.5
    logp = torch.tensor([math.log(0.5)] * 2, requires_grad=True)
    responses = Responses(
        torch.tensor([0, 1]), torch.tensor([1.0, -1.0]), torch.ones(2), torch.tensor([math.log(0.25)] * 2)
    )
    loss, gradient, _ = outcome(Drpo(delta=0.5), logp, responses)
    assert loss == pytest.approx(-1.75 + 2.25)
    assert gradient == pytest.approx([-2 * 0.5, 2 * 1.5])


def test_dppo_masks_by_hand():
    """Tokens mu -> pi with A > 0: 0.5 -> 0.8, 0.8 -> 0.5, 0.5 -> 0.6; KL(mu || pi) = 0.2231, 0.1927, 0.0204."""
    pi, mu = torch.tensor([0.8, 0.5, 0.6], dtype=torch.float64), torch.tensor([0.5, 0.8, 0.5], dtype=torch.float64)
    for advantage, chosen, expected in (
        (1.0, Dppo("tv"), [0.0, -0.625, -1.2]),  # 0.3 beyond; moving back; 0.1 within
        (1.0, Dppo("kl", 0.20, 0.20), [0.0, -0.625, -1.2]),
        (1.0, Dppo("kl", 0.21, 0.21), [0.0, -0.625, -1.2]),
        (-1.0, Dppo("tv"), [1.6, 0.0, 1.2]),
        (-1.0, Dppo("kl", 0.20, 0.20), [1.6, 0.625, 1.2]),  # 0.1927: within, where KL(pi || mu) = 0.2231 is not
        (1.0, Dppo("tv", low=0.01, high=0.35), [-1.6, -0.625, -1.2]),  # only high counts upwards
        (1.0, Dppo("tv", low=0.35, high=0.05), [0.0, -0.625, 0.0]),
        (-1.0, Dppo("tv", low=0.35, high=0.01), [1.6, 0.625, 1.2]),  # only low counts downwards
        (-1.0, Dppo("tv", low=0.25, high=0.35), [1.6, 0.0, 1.2]),
        (1.0, Dppo("kl", low=0.01, high=0.25), [-1.6, -0.625, -1.2]),
        (-1.0, Dppo("kl", low=0.19, high=0.25), [1.6, 0.0, 1.2]),
    ):
        logp = pi.log().requires_grad_()
        responses = Responses(torch.tensor([0, 0, 0]), torch.tensor([advantage]), torch.ones(1), mu.log())
        assert outcome(chosen, logp, responses)[1] == pytest.approx(expected)


def test_the_term_of_dppo_that_pulls_back_to_the_behaviour_policy_by_hand():
    """Token pi = 0.8, mu = 0.5: log r = log 1.6. It is masked, and still has 0.1 (log r)^2, whose slope is 0.2 log r."""
    logp = torch.tensor([math.log(0.8), math.log(0.5)], dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([math.log(0.5), math.log(0.5)], dtype=torch.float64)
    responses = Responses(torch.tensor([0, 0]), torch.tensor([1.0]), torch.tensor([0.5]), behaviour)
    loss, gradient, _ = outcome(Dppo(kl=0.1), logp, responses)
    assert gradient == pytest.approx([0.5 * 0.2 * math.log(1.6), -0.5])
    assert loss == pytest.approx(0.5 * 0.1 * math.log(1.6) ** 2 - 0.5 * math.log(0.5))


def test_m2po_masks_the_farthest_tokens_of_each_response_until_the_mean_fits():
    """With (log r)^2 = 0.09, 0.01 | 0.01, the mean 0.05 of the first response is above 0.04 until its first token is gone."""
    loss, gradient, metrics = outcome(M2po(threshold=0.04), *one_group([-1.3, -2.9, -2.1]))
    assert gradient == pytest.approx([0.0, -0.125 * 0.90483742, 0.25 * 1.10517092])
    assert metrics["clipped_sum"] == 1
    assert loss == pytest.approx(-0.125 * 0.90483742 + 0.25 * 1.10517092)


def test_sft_by_hand():
    logp, responses = one_group()
    responses = Responses(responses.row, responses.advantage, torch.tensor([1 / 3, 1 / 3]))
    loss, _, metrics = outcome(Sft(), logp, responses)
    assert loss == pytest.approx(2.0)  # mean NLL of (1, 3, 2)
    assert metrics["probability_sum"] == pytest.approx(math.exp(-4) + math.exp(-2))
    assert metrics["nll_count"] == 3

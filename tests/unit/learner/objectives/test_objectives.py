"""Objectives against an independent float64 reference and finite differences, and properties of all objectives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.batch.packing import Layout
from learner.config import ObjectiveConfig
from learner.objectives import MissingInputError, Responses, get, names
from learner.objectives.asympo import Asympo
from learner.objectives.policy_gradient import Reinforce
from tests.tools import objective_reference as reference
from tests.tools.objective_cases import (
    evaluate,
    hard_groups,
    log_probabilities,
    micro_batches,
    objective,
    one_group,
    random_groups,
)
from tests.tools.waits import Waits

ALL = sorted(reference.TERMS)
MIXED = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("case", ["ordinary", "hard"])
def test_loss_and_gradient_equal_the_independent_reference(name: str, case: str):
    groups = random_groups(2, MIXED) if case == "ordinary" else hard_groups()
    loss, gradient, metrics = evaluate(groups, objective(name))
    expected = torch.tensor(reference.gradient(name, groups), dtype=torch.float64)
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)  # weights and advantages are float32
    values = [[complex(v) for v in response.logp] for group in groups for response in group]
    assert loss == pytest.approx(reference.loss(name, groups, values).real, rel=1e-6, abs=1e-7)
    down, up = float(expected.clamp(min=0).sum()), float(-expected.clamp(max=0).sum())
    assert (metrics["rho_sum"], metrics["rho_count"]) == pytest.approx((down, up), rel=1e-6)


@pytest.mark.parametrize("name", ["reinforce", "spo", "positives", "opmd", "asymre", "grpo", "dr_grpo", "gspo", "drpo"])
def test_gradient_is_the_slope_of_the_loss_by_central_differences(name: str):
    """Objectives without a stop-gradient: the gradient is the slope of the code's own loss."""
    groups, h = random_groups(3, [[1.0, 0.0, 0.0], [0.0, 0.5, 1.0]], longest=3), 1e-6
    chosen = objective(name)
    _, gradient, _ = evaluate(groups, chosen)
    (micro,) = micro_batches(groups, chosen, Layout())
    table = log_probabilities(groups)
    for token in range(1, len(table)):
        nudge = torch.zeros_like(table)
        nudge[token] = h
        ends = [chosen((table + move)[micro.loss_target], Responses.of(micro))[0].item() for move in (nudge, -nudge)]
        assert gradient[token - 1].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_the_slope_with_constant_stop_gradients_by_central_differences(name: str):
    """All objectives: the gradient is the slope of the reference's loss, whose stop-gradient terms stay constant."""
    groups = random_groups(4, MIXED, longest=5)
    _, gradient, _ = evaluate(groups, objective(name))
    slopes = torch.tensor(reference.central_difference(name, groups), dtype=torch.float64)
    torch.testing.assert_close(gradient, slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_float32_stays_finite_where_it_is_hard(name: str):
    loss, gradient, metrics = evaluate(hard_groups(), objective(name), dtype=torch.float32)
    assert math.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert all(map(math.isfinite, metrics.values()))


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_bf16_logits_are_finite(name: str):
    """Logits up to +-60 rounded to bf16: many tokens have a log-probability of exactly 0, others of -100 nats."""
    generator = torch.Generator().manual_seed(7)
    logits = (torch.randn(64, 32, generator=generator) * 20).bfloat16().float().requires_grad_()
    target = torch.where(torch.rand(64, generator=generator) < 0.7, logits.argmax(1), torch.arange(64) % 32)
    logp = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    behaviour = (logits.detach() * 1.1).bfloat16().float().log_softmax(1).gather(1, target[:, None])[:, 0]
    assert bool((logp == 0).any())
    assert bool((logp < -40).any())
    row = torch.arange(8).repeat_interleave(8)
    responses = Responses(row, torch.tensor([0.5, -0.5] * 4), torch.full((8,), 1 / 8), behaviour)
    chosen = objective(name)
    if chosen.needs_survey:
        chosen.survey((logp - behaviour).detach(), responses.advantage[row])
    loss, metrics = chosen(logp, responses)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert all(bool(value.isfinite()) for value in metrics.values())


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=6), min_size=1, max_size=3),
    st.integers(0, 10_000),
)
def test_forward_loss_of_asympo_is_zero_in_every_group(rewards: list[list[int]], seed: int):
    """The paper's theorem, for scales above the floor and without a clip: both signs have the forward mass B."""
    for group in random_groups(seed, [[float(r) for r in rewards] for rewards in rewards]):
        assert evaluate([group], objective("asympo"))[0] == pytest.approx(0.0, abs=1e-7)


def test_gap_between_reinforce_and_asympo_is_the_papers():
    """From the paper: L_naive - L_asympo = (B/G)(mean positive scale - mean negative scale), the means weighted by |A|."""
    (group,) = random_groups(5, [[1.0, 0.0, 0.0, 1.0, 0.0]])
    gap = evaluate([group], objective("reinforce"))[0] - evaluate([group], objective("asympo"))[0]
    scales = [-sum(response.logp) / len(response.logp) for response in group]
    positive, negative = (scales[0] + scales[3]) / 2, (scales[1] + scales[2] + scales[4]) / 3
    assert gap == pytest.approx(1.2 / 5 * (positive - negative), rel=1e-6)
    assert evaluate([group], objective("asympo"))[2]["naive_gap_sum"] == pytest.approx(gap, rel=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_groups_without_contrast_shrink_the_step_and_do_nothing_else(name: str):
    """All prompts stay in the denominator, and so do all tokens of an objective with a token mean."""
    groups = random_groups(6, [[1.0, 0.0], [1.0, 1.0]])
    _, gradient, _ = evaluate(groups, objective(name))
    own = sum(len(response.logp) for response in groups[0])
    _, alone, _ = evaluate(groups[:1], objective(name))
    share = own / len(gradient) if name in reference.STEP_MEAN else 0.5
    torch.testing.assert_close(gradient[:own], alone * share, rtol=1e-6, atol=1e-12)
    assert gradient[own:].abs().max() == 0


@settings(deadline=None, max_examples=20)
@given(
    name=st.sampled_from(ALL),
    rewards=st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6), min_size=1, max_size=5),
    seed=st.integers(0, 10_000),
    cut=st.builds(Layout, st.integers(1, 3), st.integers(1, 4), st.integers(3, 60), st.sampled_from([1, 4])),
)
def test_gradient_and_metrics_do_not_depend_on_the_cut(name: str, rewards: list[list[float]], seed: int, cut: Layout):
    """Loss, gradient and metrics are equal for all data-parallel sizes, micro-batches (also empty ones) and paddings."""
    groups = random_groups(seed, rewards)
    whole = evaluate(groups, objective(name), Layout(max_tokens=10**6))
    parts = evaluate(groups, objective(name), cut)
    assert parts[0] == pytest.approx(whole[0], rel=1e-9, abs=1e-12)
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-9, atol=1e-14)
    assert parts[2] == pytest.approx(whole[2], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "tis", "cispo", "gspo", "topr", "dppo", "drpo", "m2po"])
def test_behaviour_probabilities_are_never_made_up(name: str):
    logp, responses = one_group()
    assert objective(name).needs_behaviour
    with pytest.raises(MissingInputError, match="needs behaviour_logp: log mu of each loss token"):
        objective(name)(logp, responses)
    current = Responses(responses.row, responses.advantage, responses.weight, logp)
    with pytest.raises(MissingInputError, match="behaviour_logp carries a gradient"):
        objective(name)(logp, current)


def test_a_scaled_loss_has_a_scaled_gradient():
    logp, responses = one_group()
    (Reinforce()(logp, responses)[0] * 2).backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([-0.25, -0.25, 0.5])


def test_an_evaluation_without_gradients_gives_the_same_numbers():
    logp, responses = one_group()
    trained = Asympo()(logp, responses)
    with torch.no_grad():
        evaluated = Asympo()(logp, responses)
    assert not evaluated[0].requires_grad
    assert evaluated[0].item() == trained[0].item()
    assert evaluated[1] == trained[1]


@pytest.mark.parametrize("name", names())
def test_no_objective_makes_the_host_wait_for_the_device(name: str):
    objective, seen = get(ObjectiveConfig(name=name)), Waits()
    row, advantage = torch.tensor([0, 0, 1, 2]), torch.tensor([0.5, -0.5, 0.0])
    logp, other = torch.tensor([-1.0, -2.0, -0.5, -3.0], requires_grad=True), torch.tensor([-1.1, -1.9, -0.6, -2.0])
    responses = Responses(row, advantage, torch.full((3,), 0.25), other, other, torch.ones(4))
    with seen.watching():
        loss, _ = objective(logp, responses)
        loss.backward()
    assert seen.found == []

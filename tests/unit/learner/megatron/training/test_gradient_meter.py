"""The gradient meter and the projection on gradients that are set by hand, in a process of one rank."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.megatron.training.gradient_meter import GradientMeter
from learner.megatron.training.gradient_projection import GradientProjection


class Rank:
    def __init__(self, rank: int) -> None:
        self._rank = rank

    def rank(self) -> int:
        return self._rank


class Owner:
    """A stand-in for an optimizer, with what meter and projection read of it."""

    def __init__(self, gradients: list[list[float]], rank: int = 0) -> None:
        self.weights = [torch.zeros(len(gradient)) for gradient in gradients]
        self.tp_group = Rank(rank)
        self.set(gradients)

    def set(self, gradients: list[list[float]]) -> None:
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = torch.tensor(gradient)

    def get_parameters(self) -> list[Tensor]:
        return self.weights

    def get_main_grads_for_grad_norm(self, grad_norm_group: Any = None) -> list[Tensor]:
        lead = self.tp_group.rank() == 0
        counted = [
            w for w in self.weights if not hasattr(w, "shared") and (lead or hasattr(w, "tensor_model_parallel"))
        ]
        return [weight.grad for weight in counted if weight.grad is not None]

    get_grads_for_grad_norm = get_main_grads_for_grad_norm

    def gradient(self) -> list[float]:
        return [value for weight in self.weights if weight.grad is not None for value in weight.grad.tolist()]


def meter(owner: Any, stride: int = 1) -> GradientMeter:
    return GradientMeter(owner, stride, torch.device("cpu"))


def projection(owner: Any, limit: float) -> GradientProjection:
    return GradientProjection(owner, limit, torch.device("cpu"))


def measure(meter: GradientMeter, owner: Any, gradients: list[list[float]]) -> float | None:
    owner.set(gradients)
    return meter.cosine(*meter.sums().tolist())


def step(meter: GradientMeter, owner: Any, gradients: list[list[float]]) -> float | None:
    cosine = measure(meter, owner, gradients)
    meter.keep(cosine, math.hypot(*owner.gradient()))
    return cosine


BOTH = pytest.mark.parametrize("build", [meter, lambda owner: projection(owner, 0.99)])


@BOTH
def test_cosine_by_hand(build: Any):
    owner = Owner([[0.0, 0.0], [0.0]])
    measured = build(owner)
    assert step(measured, owner, [[3.0, 0.0], [4.0]]) is None
    assert step(measured, owner, [[2.0, 0.0], [0.0]]) == pytest.approx(0.6)  # 3 * 2 / (5 * 2)
    assert step(measured, owner, [[-1.0, 0.0], [0.0]]) == pytest.approx(-1.0)
    assert step(measured, owner, [[0.0, 7.0], [0.0]]) == pytest.approx(0.0)


@BOTH
def test_a_gradient_of_a_step_that_was_not_made_is_never_the_last(build: Any):
    owner = Owner([[0.0, 0.0]])
    measured = build(owner)
    step(measured, owner, [[1.0, 0.0]])
    assert measure(measured, owner, [[0.0, 1.0]]) == pytest.approx(0.0)  # not kept
    assert step(measured, owner, [[1.0, 1.0]]) == pytest.approx(math.sqrt(0.5))  # to [1, 0]


@BOTH
def test_no_direction_and_no_number_are_unknown(build: Any):
    owner = Owner([[0.0, 0.0]])
    measured = build(owner)
    step(measured, owner, [[1.0, 0.0]])
    assert measure(measured, owner, [[float("nan"), 1.0]]) is None
    assert measure(measured, owner, [[float("inf"), 1.0]]) is None
    assert step(measured, owner, [[0.0, 0.0]]) is None
    assert step(measured, owner, [[1.0, 0.0]]) is None
    assert step(measured, owner, [[2.0, 0.0]]) == pytest.approx(1.0)


@BOTH
def test_what_other_ranks_hold_too_is_counted_once(build: Any):
    owner = Owner([[1.0, 0.0], [5.0], [5.0]], rank=1)
    owner.weights[0].tensor_model_parallel = True  # type: ignore[attr-defined]
    owner.weights[2].shared = True  # type: ignore[attr-defined]  the last stage's copy of a tied embedding
    measured = build(owner)
    step(measured, owner, [[1.0, 0.0], [5.0], [5.0]])
    assert measured.sums().tolist() == [1.0, 1.0]
    assert step(measured, owner, [[0.0, 1.0], [5.0], [5.0]]) == pytest.approx(0.0)


def test_a_sample_estimates_the_whole():
    draw = torch.Generator().manual_seed(1)
    owner = Owner([[0.0], [0.0]])
    owner.weights = [torch.zeros(200, 640), torch.zeros(3)]
    sampled, whole = meter(owner, stride=61), meter(owner)
    shared = torch.randn(200, 640, generator=draw)
    for _ in range(2):
        owner.weights[0].grad = shared + torch.randn(200, 640, generator=draw)
        owner.weights[1].grad = torch.ones(3)
        estimate, exact = (one.cosine(*one.sums().tolist()) for one in (sampled, whole))
        sampled.keep(estimate, 0.0)
        whole.keep(exact, 0.0)
    assert exact == pytest.approx(0.5, abs=0.01)
    assert estimate == pytest.approx(exact, abs=4 / math.sqrt(200 * 640 / 61))


def test_a_rank_that_owns_nothing():
    class Chained:
        chained_optimizers = (Owner([[]]), Owner([]))

    for measured in (meter(Chained()), projection(Chained(), 0.1)):
        assert measured.cosine(*measured.sums().tolist()) is None
        assert measured.keep(None, 0.0) == 0.0


def test_projection_by_hand():
    """Last [3, 0, 4], now [3, 1, 4]: 5 along and 1 across; a cosine of 0.6 leaves 0.6 / 0.8 * 1 = 0.75 of the 5 along."""
    owner = Owner([[3.0, 0.0], [4.0]])
    project = projection(owner, 0.6)
    step(project, owner, [[3.0, 0.0], [4.0]])
    cosine = measure(project, owner, [[3.0, 1.0], [4.0]])
    assert cosine == pytest.approx(5 / math.sqrt(26))
    norm = project.keep(cosine, math.sqrt(26))
    assert owner.gradient() == pytest.approx([0.75 * 0.6, 1.0, 0.75 * 0.8])
    assert norm == pytest.approx(1.25) == math.hypot(*owner.gradient())
    # the next one is compared with [3, 1, 4], not with what was left of it
    assert measure(project, owner, [[3.0, 1.0], [4.0]]) == pytest.approx(1.0)


def test_with_a_limit_of_zero_nothing_along_the_last_gradient_is_left():
    owner = Owner([[0.0, 0.0]])
    project = projection(owner, 0.0)
    step(project, owner, [[2.0, 0.0]])
    step(project, owner, [[5.0, 3.0]])
    assert owner.gradient() == pytest.approx([0.0, 3.0])
    step(project, owner, [[5.0, 3.0]])  # the very same: nothing is left
    assert owner.gradient() == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("gradient", [[-3.0, 1.0], [0.0, 2.0], [1.0, 2.0]])
def test_at_or_below_the_limit_and_against_it_nothing_changes(gradient: list[float]):
    owner = Owner([[0.0, 0.0]])
    project = projection(owner, 0.5)
    step(project, owner, [[4.0, 0.0]])
    cosine = measure(project, owner, [gradient])
    assert project.keep(cosine, 7.0) == 7.0
    assert owner.gradient() == gradient


def test_copies_that_other_ranks_count_are_projected_alike():
    owner = Owner([[1.0, 0.0], [2.0, 0.0]], rank=1)
    owner.weights[0].tensor_model_parallel = True  # type: ignore[attr-defined]
    project = projection(owner, 0.0)
    step(project, owner, [[1.0, 0.0], [2.0, 0.0]])
    step(project, owner, [[3.0, 1.0], [6.0, 5.0]])
    assert owner.gradient() == pytest.approx([0.0, 1.0, 0.0, 5.0])

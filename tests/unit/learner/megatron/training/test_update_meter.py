"""The update meter on weights that are moved by hand, in a process group of one rank."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.config.control import DiagnosticsConfig
from learner.megatron.training.update_meter import UpdateMeter
from runtime.settings import SettingsError


class TensorRank:
    def __init__(self, rank: int) -> None:
        self._rank = rank

    def rank(self) -> int:
        return self._rank


class Owner:
    """A stand-in for an optimizer, with what the meter reads of it."""

    def __init__(self, weights: list[Tensor], tensor_rank: int = 0) -> None:
        self.weights = weights
        self.tp_group = TensorRank(tensor_rank)

    def get_parameters(self) -> list[Tensor]:
        return self.weights


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def meter(owner: Any, **values: Any) -> UpdateMeter:
    return UpdateMeter(owner, DiagnosticsConfig(**values), torch.device("cpu"))


def move(meter: UpdateMeter, weight: Tensor, change: Tensor) -> Any:
    meter.before()
    weight += change
    return meter.after()


def test_norm_and_cosine_by_hand():
    one, two = torch.zeros(2), torch.zeros(3)
    measure = meter(Owner([one, two]), update_stride=1)
    measure.before()
    one += torch.tensor([3.0, 0.0])
    two += torch.tensor([0.0, 4.0, 0.0])
    first = measure.after()
    second = move(measure, one, torch.tensor([2.0, 0.0]))
    third = move(measure, one, torch.tensor([-2.0, 0.0]))
    assert (first.norm, first.cosine) == (5.0, None)
    assert (second.norm, second.cosine) == (2.0, pytest.approx(0.6))  # 3 * 2 / (5 * 2)
    assert third.cosine == pytest.approx(-1.0)


def test_what_other_ranks_hold_too_is_counted_once():
    shared, replica, cut = torch.zeros(4), torch.zeros(4), torch.zeros(4)
    shared.shared = True  # type: ignore[attr-defined]  the last stage's copy of a tied embedding
    cut.tensor_model_parallel = True  # type: ignore[attr-defined]
    measure = meter(Owner([shared, replica, cut], tensor_rank=1), update_stride=1)
    measure.before()
    for weight in (shared, replica, cut):
        weight += 1.0
    assert measure.after().norm == 2.0  # the cut one's alone


def test_a_sample_estimates_the_whole():
    draw = torch.Generator().manual_seed(1)
    weight = torch.zeros(200, 640)
    owner = Owner([weight, torch.zeros(3)])
    sampled, whole = meter(owner, update_stride=61), meter(owner, update_stride=1)
    last = torch.zeros_like(weight)
    for _ in range(2):
        sampled.before()
        whole.before()
        last = 0.5 * last + torch.randn(weight.shape, generator=draw)
        weight += 1e-3 * last
        estimate, exact = sampled.after(), whole.after()
    assert estimate.norm == pytest.approx(exact.norm, rel=4 / math.sqrt(2 * weight.numel() / 61))
    assert exact.cosine == pytest.approx(0.5 / math.sqrt(1.25), abs=0.01)
    assert estimate.cosine == pytest.approx(exact.cosine, abs=4 / math.sqrt(weight.numel() / 61))


def test_a_step_that_moved_nothing_has_no_direction():
    weight = torch.zeros(5)
    measure = meter(Owner([weight]), update_stride=1)
    move(measure, weight, torch.ones(5))
    assert move(measure, weight, torch.zeros(5)).cosine is None
    assert move(measure, weight, torch.ones(5)).cosine is None


def test_without_the_cosine_no_update_is_kept():
    weight = torch.zeros(5)
    measure = meter(Owner([weight]), update_stride=1, update_cosine=False)
    move(measure, weight, torch.ones(5))
    assert move(measure, weight, torch.ones(5)).cosine is None


def test_an_optimizer_in_parts_and_a_rank_that_owns_nothing():
    class Chained:
        chained_optimizers = (Owner([torch.zeros(0)]), Owner([]))

    measure = meter(Chained())
    measure.before()
    assert measure.after().norm == 0.0


def test_after_without_before():
    with pytest.raises(RuntimeError, match="call before"):
        meter(Owner([torch.zeros(1)])).after()


def test_an_even_stride_is_refused():
    with pytest.raises(SettingsError, match="update_stride = 64 is even: take 65"):
        DiagnosticsConfig.parse({"update_stride": 64}, "test")

"""Matrices of adapters before the first step: as in peft, and the same under every layout."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.megatron.model.adapter import Adapter, AdapterSettings, ColumnAdapter, Projection, RowAdapter
from learner.megatron.parallel import Ranks

IN, OUT, RANK = 400, 80, 16


def made(kind: type[Adapter], size: int, name: str = "model.layers.0.mlp.down_proj.weight", seed: int = 3) -> list[Any]:
    """The matrices of one projection's adapter on every one of ``size`` tensor-parallel ranks."""
    projection, like = Projection(name, (OUT, IN), True), AdapterSettings(RANK, 1.0, torch.float32, seed)
    found = []
    for rank in range(size):
        place = SimpleNamespace(tensor_size=size, tensor_rank=rank, sequence=size > 1, device=torch.device("cpu"))
        found.append(kind([projection], cast(Any, None), cast(Ranks, place), like).matrices)
    return found


def whole(kind: type[Adapter], size: int, **options: Any) -> list[Tensor]:
    """A and B, put together of the ranks' parts."""
    pairs = zip(*made(kind, size, **options), strict=True)
    found = []
    for parts in pairs:
        values = [part.parameter.detach() for part in parts]
        found.append(values[0] if parts[0].dim is None else torch.cat(values, parts[0].dim))
    return found


@pytest.mark.parametrize("kind", [ColumnAdapter, RowAdapter])
def test_a_is_drawn_as_peft_draws_it_and_b_is_zero_whatever_the_layout(kind: type[Adapter]):
    first, second = whole(kind, 1)
    bound = 1 / math.sqrt(IN)  # of kaiming_uniform_ with a = sqrt(5)
    assert 0.98 * bound < first.abs().max() <= bound
    assert first.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert (first.shape, second.shape, second.any()) == ((RANK, IN), (OUT, RANK), False)
    cut = whole(kind, 4)
    assert torch.equal(cut[0], first)
    assert cut[1].shape == second.shape
    assert not torch.equal(whole(kind, 1, seed=4)[0], first)
    assert not torch.equal(whole(kind, 1, name="model.layers.1.mlp.down_proj.weight")[0], first)


@pytest.mark.parametrize(("kind", "cut"), [(ColumnAdapter, [False, True]), (RowAdapter, [True, False])])
def test_what_a_rank_has_whole_has_a_gradient_of_its_slice_of_the_tokens_only(kind: type[Adapter], cut: list[bool]):
    """Megatron adds up what is marked by ``sequence_parallel``, and counts what is marked as cut on every rank."""
    matrices = made(kind, 2)[1]
    assert [matrix.name.split(".")[-2] for matrix in matrices] == ["lora_A", "lora_B"]
    assert [getattr(matrix.parameter, "tensor_model_parallel", False) for matrix in matrices] == cut
    assert [getattr(matrix.parameter, "sequence_parallel", False) for matrix in matrices] == [not one for one in cut]

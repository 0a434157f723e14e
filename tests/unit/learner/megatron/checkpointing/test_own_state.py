"""Each rank's own part: together they are the model and its optimizer, nothing twice, and loading writes into them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.megatron.checkpointing.own_state import (
    ShardedTensor,
    ShardedTensorFactory,
    optimizer_shards,
    own_shards,
)
from learner.megatron.patches.checkpoint_writer import is_main_replica
from learner.megatron.patches.optimizer_ranges import own_ranges

COUNT = 24 + 5  # elements of a gated MLP's weight [8, 3], then of a norm's [5]
STATE = ("weight", "exp_avg", "exp_avg_sq")


def _halves(key: str, weight: torch.Tensor, replica: Any, _: Any) -> Any:
    """The gate and the rest, as Megatron cuts them apart: under tensor parallelism they do not follow one another."""
    with torch.no_grad():
        halves = torch.chunk(weight, 2)
    return [
        ShardedTensor.from_rank_offsets(key, half, (0, number, 2), replica_id=replica)
        for number, half in enumerate(halves)
    ]


class Rank:
    """A data-parallel rank: all of the weights, and the optimizer's state of the elements ``start`` to ``end``."""

    def __init__(self, number: int, start: int, end: int) -> None:
        self.mlp = torch.nn.Parameter(torch.arange(24.0).view(8, 3).bfloat16())
        self.norm = torch.nn.Parameter(torch.arange(24.0, 29.0).bfloat16())
        replica = (0, 0, number)
        self.models = {
            "model0": {
                "mlp": ShardedTensorFactory("mlp", self.mlp, _halves, cast(Any, torch.cat), replica),
                "norm": ShardedTensor.from_rank_offsets("norm", self.norm, replica_id=replica),
                "bias": ShardedTensor.from_rank_offsets("bias", torch.full((2,), 7.0), replica_id=replica),
            }
        }
        self.optimizer = self._optimizer(start, end)

    def _optimizer(self, start: int, end: int) -> Any:
        ranges, groups, state, indices = {}, [], {}, {}
        for parameter, before in ((self.mlp, 0), (self.norm, 24)):
            first, last = max(start, before), min(end, before + parameter.numel())
            if first < last:
                values = torch.arange(float(first), float(last))
                ranges[parameter] = {"param": SimpleNamespace(start=first - before, end=last - before)}
                indices[parameter] = (0, len(groups))
                groups.append(values + 100)
                state[groups[-1]] = {"exp_avg": values + 200, "exp_avg_sq": values + 300, "step": torch.tensor(3.0)}
        inner = SimpleNamespace(param_groups=[{"params": groups}], state=state)
        buckets = [{("bf16", "fp32"): [{"param_map": ranges}]}]
        return SimpleNamespace(gbuf_ranges=buckets, model_param_group_index_map=indices, optimizer=inner)


@pytest.mark.parametrize("ends", [(29,), (10, 29), (4, 5, 13, 26, 29), (0, 29), tuple(range(1, 30))])
def test_the_ranks_write_everything_once(ends: tuple[int, ...]):
    ranks = [Rank(n, start, end) for n, (start, end) in enumerate(zip((0, *ends[:-1]), ends, strict=True))]
    whole: dict[str, torch.Tensor] = {}
    for rank, end, start in zip(ranks, ends, (0, *ends[:-1]), strict=True):
        written = [s for s in own_shards(rank.models, own_ranges(rank.optimizer)) if is_main_replica(s.replica_id)]
        size = sum(shard.data.numel() for shard in written if shard.key != "bias")  # type: ignore[attr-defined]
        assert size == 4 * (end - start)  # no more than its own
        for shard in written:
            assert isinstance(shard, ShardedTensor)
            assert shard.data is not None
            place = whole.setdefault(shard.key, torch.full(shard.global_shape, torch.nan, dtype=shard.dtype))
            assert place[shard.global_slice()].isnan().all(), shard
            place[shard.global_slice()] = shard.data
    expected = {f"optimizer.{name}.": torch.arange(29.0) + 100 * n for n, name in enumerate(STATE, start=1)}
    for prefix, values in {"": torch.arange(29.0).bfloat16(), **expected}.items():
        assert torch.equal(whole.pop(f"{prefix}mlp"), values[:24].view(8, 3)), prefix
        assert torch.equal(whole.pop(f"{prefix}norm"), values[24:]), prefix
    assert whole.pop("bias").tolist() == [7.0, 7.0]
    assert not whole


def test_loading_into_the_shards_loads_the_optimizer():
    rank = Rank(1, 7, 27)
    for shard in optimizer_shards(rank.models, own_ranges(rank.optimizer)):
        assert shard.data is not None
        shard.data.neg_()
    weights = rank.optimizer.optimizer.param_groups[0]["params"]
    assert torch.cat(weights).tolist() == [-(100.0 + n) for n in range(7, 27)]
    for name, first in (("exp_avg", 200.0), ("exp_avg_sq", 300.0)):
        values = torch.cat([rank.optimizer.optimizer.state[weight][name] for weight in weights])
        assert values.tolist() == [-(first + n) for n in range(7, 27)]


def test_a_replica_of_another_tensor_parallel_rank_is_not_written():
    rank = Rank(0, 0, COUNT)
    for name in ("norm", "bias"):
        rank.models["model0"][name].replica_id = (0, 1, 0)
    written = [s.key for s in own_shards(rank.models, own_ranges(rank.optimizer)) if is_main_replica(s.replica_id)]
    assert {key.rpartition(".")[2] for key in written} == {"mlp"}

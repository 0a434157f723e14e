"""Reads which part of every parameter a rank's distributed optimizer owns, and the state that it keeps of that part.

What it changes: nothing. It reads attributes of DistributedOptimizer that it does not document: gbuf_ranges, buffers and
model_param_group_index_map.
Why: of Megatron's own ways to save this state, "fully_reshardable" gathers all of a stage's state in the host memory of
every rank, of which one writes it; "dp_reshardable" is resumed only under the same tensor and pipeline parallelism; and
"fully_sharded_model_space" needs a ShardedTensor with a flattened_range, which this Megatron refuses.
Written for: megatron-core 0.16.1 and 0.19.2.
Without it: no checkpoint is saved or loaded (learner.megatron.checkpointing.own_state), and no weights are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from learner.megatron.patches.guard import require_release

require_release("megatron-core")


@dataclass(frozen=True)
class OwnRange:
    """The elements of one parameter that this rank's optimizer updates.

    Attributes:
        parameter: the model's, whole.
        start: the first of its elements, counted in the flattened parameter.
        end: the element after the last.
        state: [end - start] fp32, by name: "weight", and from ``own_ranges`` "exp_avg" and "exp_avg_sq". Views of what the
            optimizer works on.
    """

    parameter: torch.nn.Parameter
    start: int
    end: int
    state: dict[str, Tensor]


def weight_ranges(optimizer: Any) -> Iterator[OwnRange]:
    """Yields what a DistributedOptimizer owns of every parameter of which it owns something, with the fp32 weights only."""
    for buffer in optimizer.gbuf_ranges:
        for buckets in buffer.values():
            for bucket in buckets:
                for parameter, ranges in bucket["param_map"].items():
                    weight = _weight(optimizer, parameter).detach().view(-1)
                    yield OwnRange(parameter, ranges["param"].start, ranges["param"].end, {"weight": weight})


def own_ranges(optimizer: Any) -> Iterator[OwnRange]:
    """Yields the same with Adam's moments, which it must have by now."""
    for own in weight_ranges(optimizer):
        adam = optimizer.optimizer.state[_weight(optimizer, own.parameter)]
        moments = {name: adam[name].detach().view(-1) for name in ("exp_avg", "exp_avg_sq")}
        yield replace(own, state=own.state | moments)


def shared_parameters(optimizer: Any) -> list[torch.nn.Parameter]:
    """All parameters of which the ranks of this optimizer's data-parallel group own parts, in the same order on each."""
    return [parameter for buffer in optimizer.buffers for parameter in buffer.param_index_map]


def _weight(optimizer: Any, parameter: torch.nn.Parameter) -> Tensor:
    """This rank's fp32 weights of a parameter."""
    group, order = optimizer.model_param_group_index_map[parameter]
    return cast(Tensor, optimizer.optimizer.param_groups[group]["params"][order])

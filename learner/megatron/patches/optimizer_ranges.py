"""Reads which part of every parameter a rank's distributed optimizer owns, and the state that it keeps of that part.

What it changes: nothing. It reads private attributes of DistributedOptimizer: gbuf_ranges and model_param_group_index_map.
Why: of Megatron's own ways to save this state, "fully_reshardable" gathers all of a stage's state in the host memory of
every rank, of which one writes it; "dp_reshardable" is resumed only under the same tensor and pipeline parallelism; and
"fully_sharded_model_space" needs a ShardedTensor with a flattened_range, which this Megatron refuses.
Written for: megatron-core 0.16.1 and 0.19.2.
Without it: no checkpoint is saved or loaded (learner.megatron.checkpointing.own_state).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
        state: [end - start] fp32, by name: "weight", "exp_avg" and "exp_avg_sq". Views of what the optimizer works on.
    """

    parameter: torch.nn.Parameter
    start: int
    end: int
    state: dict[str, Tensor]


def own_ranges(optimizer: Any) -> Iterator[OwnRange]:
    """Yields what a DistributedOptimizer, whose Adam has its state, owns of every parameter of which it owns something."""
    for buffer in optimizer.gbuf_ranges:
        for buckets in buffer.values():
            for bucket in buckets:
                for parameter, ranges in bucket["param_map"].items():
                    group, order = optimizer.model_param_group_index_map[parameter]
                    weight = optimizer.optimizer.param_groups[group]["params"][order]
                    adam = optimizer.optimizer.state[weight]
                    tensors = {"weight": weight, **{name: adam[name] for name in ("exp_avg", "exp_avg_sq")}}
                    state = {name: tensor.detach().view(-1) for name, tensor in tensors.items()}
                    yield OwnRange(parameter, ranges["param"].start, ranges["param"].end, state)

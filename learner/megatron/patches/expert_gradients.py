"""Marks the parameters of experts, so that Megatron sums their gradients over the right ranks.

What it changes: the attribute ``allreduce`` of parameters, by which DistributedDataParallel and the optimizer tell experts'
parameters from all others.
Why: Megatron sets it under expert parallelism only. Without expert parallelism, but with tensor parallelism, an expert is
whole on each tensor-parallel rank, and each of those ranks sees only a share of the tokens.
Written for: megatron-core 0.16.1 and 0.19.2.
Without it: with tensor parallelism and no expert parallelism, the gradients of experts miss the other ranks' tokens.
"""

from __future__ import annotations

import torch

from learner.megatron.patches.guard import require_release

require_release("megatron-core")


def mark(model: torch.nn.Module) -> None:
    """Marks every parameter of an expert. Call it before DistributedDataParallel wraps ``model``."""
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            parameter.allreduce = False  # type: ignore[attr-defined]  # no part of the all-reduce of other parameters

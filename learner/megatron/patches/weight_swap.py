"""Runs a model with other weights for a while, without copying over its own.

What it changes: ``parameter.data`` of parameters inside Megatron's DistributedDataParallel, for the length of a ``with``.
Why: scoring under older weights would otherwise need a second model, or a copy of the current weights to restore.
DistributedDataParallel makes parameters views of one buffer that it and the optimizer own. A forward pass reads the
parameters only, never that buffer, and does not notice.
Written for: megatron-core 0.16.1 and 0.19.2.
Without it: log-probabilities under published versions cannot be recomputed (learner.megatron.training.scorer).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from learner.megatron.patches.guard import require_release

require_release("megatron-core")


@contextlib.contextmanager
def swapped(parameters: Sequence[torch.nn.Parameter], weights: Sequence[Tensor]) -> Iterator[None]:
    """Points ``parameters`` at ``weights``, moved to their device and dtype; back at their own data on exit.

    For forward passes only: an optimizer step or a gradient reduction in between would work on the wrong tensors.
    """
    own = [parameter.data for parameter in parameters]
    try:
        for parameter, tensor in zip(parameters, weights, strict=True):
            parameter.data = tensor.to(parameter.device, parameter.dtype, non_blocking=True)
        yield
    finally:
        for parameter, data in zip(parameters, own, strict=True):
            parameter.data = data

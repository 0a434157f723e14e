"""Waits for the weights of the output layer, which is read without calling its module.

What it changes: nothing; it calls methods of Megatron's DistributedDataParallel that its hooks call too.
Why: where gathering the updated weights overlaps with the forward pass, a hook before each module's ``forward`` waits for its
weights. The output layer's ``forward`` is never called: log-probabilities are computed from its weight
(learner.megatron.model.logprobs).
Written for: megatron-core 0.16.1 and 0.19.2.
Without it: with learner.overlap, the last stage may compute losses with weights of which a part is not updated yet.
"""

from __future__ import annotations

from megatron.core.distributed import DistributedDataParallel
from torch import Tensor

from learner.megatron.patches.guard import require_release

require_release("megatron-core")


def finish_gather(chunk: DistributedDataParallel, weight: Tensor) -> None:
    """Returns when ``weight``, a parameter of ``chunk``, has been gathered; does nothing if that does not overlap.

    A frozen one is whole from the start.
    """
    if chunk.ddp_config.overlap_param_gather and weight.requires_grad:
        chunk.param_to_bucket_group[weight].finish_param_sync()

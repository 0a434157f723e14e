"""Waits for the weights of a module that is read without calling it.

What it changes: nothing; it calls the hooks that Megatron's DistributedDataParallel has registered.
Why: where gathering the updated weights overlaps with the forward pass, a hook before each module's ``forward`` waits for its
weights. Experts that are computed together read the weights of their linear layers and never call those
(learner.megatron.model.grouped_experts).
Written for: megatron-core 0.16.1 and 0.19.2.
Without it: with learner.overlap, experts may compute with weights of which a part is not updated yet.
"""

from __future__ import annotations

import torch

from learner.megatron.patches.guard import require_release

require_release("megatron-core")


def finish_gather(module: torch.nn.Module) -> None:
    """Returns when the weights of ``module`` have been gathered; does nothing if that does not overlap."""
    for hook in module._forward_pre_hooks.values():
        hook(module, ())

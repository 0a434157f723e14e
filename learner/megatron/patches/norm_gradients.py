"""Finds the gradients that count in the norm of the whole gradient, by the name that the installed release has for them.

What it changes: nothing; it calls a method of Megatron's optimizers that was renamed between the two releases.
Why: a step's norm is summed together with its loss in one all-reduce (learner.megatron.training.trainer), so the optimizers
are asked for the gradients and not for the norm.
Written for: megatron-core 0.16.1 and 0.19.2.
Without it: no step is taken under one of the two releases.
"""

from __future__ import annotations

from typing import Any

from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from learner.megatron.patches.guard import require_release, require_signature

# In 0.19.2 groups of parameters may have norms of their own; no model of ours has such a group.
_NAME, _PARAMETERS = {
    "0.16.1": ("get_main_grads_for_grad_norm", "(self)"),
    "0.19.2": ("get_grads_for_grad_norm", "(self, grad_norm_group=None)"),
}[require_release("megatron-core")]
require_signature(getattr(MegatronOptimizer, _NAME), _PARAMETERS)


def norm_gradients(optimizer: Any) -> list[Tensor]:
    """Returns this rank's gradients of one Megatron optimizer, without those that another rank counts."""
    return getattr(optimizer, _NAME)()

"""Keeps torch Adam's step counts right when Megatron's distributed optimizer loads a checkpoint.

What it changes: DistributedOptimizer.load_state_dict gives each parameter a ``step`` tensor of its own, and
DistributedOptimizer._set_main_param_and_optimizer_states leaves ``step`` alone.
Why: Megatron's loading is written for the fused Adam of TransformerEngine or apex, which keeps no ``step`` per parameter.
torch.optim.Adam does, and it is what runs wherever neither package is installed, on a GPU too.
Written for: megatron-core 0.16.1, torch 2.13.0.
Without it: loading a checkpoint raises KeyError: 'step'; past that, all parameters share one step count, so that the bias
correction of a resumed run is silently wrong from its second step on.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from learner.megatron.patches.guard import require_release, require_signature


def apply() -> None:
    """Patches DistributedOptimizer, once per process.

    Raises:
        PatchError: megatron-core or torch is not the version that this was written for.
    """
    if getattr(DistributedOptimizer, "_leeway_patched", False):
        return
    require_release("megatron-core")
    require_release("torch")
    require_signature(DistributedOptimizer.load_state_dict, "(self, state_dict)")
    require_signature(DistributedOptimizer._set_main_param_and_optimizer_states, "(self, model_param, tensors)")
    load_state_dict = DistributedOptimizer.load_state_dict
    set_states = DistributedOptimizer._set_main_param_and_optimizer_states

    def load_with_own_steps(self: DistributedOptimizer, state_dict: dict[str, Any]) -> None:
        # The original gives every parameter the *same* `step` tensor, which Adam then advances once per parameter: the
        # bias correction of the second resumed step is wrong.
        load_state_dict(self, state_dict)
        for state in self.optimizer.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].clone()

    def set_without_step(self: DistributedOptimizer, model_param: Any, tensors: dict[str, Any]) -> None:
        # The original copies every key of Adam's state, `step` too, which a checkpoint keeps elsewhere: KeyError.
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        set_states(self, model_param, {**tensors, "step": state["step"]} if "step" in state else tensors)

    DistributedOptimizer.load_state_dict = load_with_own_steps
    DistributedOptimizer._set_main_param_and_optimizer_states = set_without_step
    DistributedOptimizer._leeway_patched = True  # type: ignore[attr-defined]

"""Repairs of Megatron's DistributedOptimizer over torch.optim.Adam.

Not about CUDA: they are needed wherever neither TransformerEngine nor apex is installed, on a GPU too (megatron-core
0.16.1). Without them a resumed run is silently wrong from its second step on.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer


def repair() -> None:
    """Patches DistributedOptimizer's loading, once per process."""
    if getattr(DistributedOptimizer, "_leeway_repaired", False):
        return
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
    DistributedOptimizer._leeway_repaired = True  # type: ignore[attr-defined]


def prime(optimizer: MegatronOptimizer) -> None:
    """Gives Adam its zero state before a first step: saving and loading assume that it is there."""
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        for group in part.optimizer.param_groups:
            for parameter in group["params"]:
                if not part.optimizer.state[parameter]:
                    part.optimizer.state[parameter] = {
                        "step": torch.tensor(0.0),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }

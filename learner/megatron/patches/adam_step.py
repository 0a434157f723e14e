"""Keeps the step count of any Adam right when Megatron's distributed optimizer saves and loads a checkpoint.

What it changes: DistributedOptimizer.state_dict puts the step count into every parameter group, whatever Adam it is;
DistributedOptimizer.load_state_dict takes it from there, and leaves the options of a group as they are;
DistributedOptimizer._set_main_param_and_optimizer_states leaves ``step`` alone.
Why: Megatron decides by which packages are installed where the step count is, and not by the Adam that is used. It loads
groups with the options of the Adam that saved them. And its loading gives all parameters of torch's Adam one tensor.
Written for: megatron-core 0.16.1 and 0.19.2, torch 2.13.0.
Without it: with torch's Adam, loading a checkpoint raises KeyError: 'step'; past that, all parameters share one step count,
so that the bias correction of a resumed run is silently wrong from its second step on. With FusedAdam, a checkpoint of
torch's Adam raises KeyError: 'bias_correction' in the first step.
"""

from __future__ import annotations

from typing import Any

from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from learner.megatron.patches import adam_state
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
    require_signature(DistributedOptimizer.state_dict, "(self)")
    require_signature(DistributedOptimizer.load_state_dict, "(self, state_dict)")
    require_signature(DistributedOptimizer._set_main_param_and_optimizer_states, "(self, model_param, tensors)")
    original_state, original_load = DistributedOptimizer.state_dict, DistributedOptimizer.load_state_dict
    set_states = DistributedOptimizer._set_main_param_and_optimizer_states

    def state_with_step(self: DistributedOptimizer) -> dict[str, Any]:
        # The original looks for torch's step counts only where TransformerEngine and apex are not installed.
        found = original_state(self)
        step = adam_state.read_step(self.optimizer)
        for group in found["optimizer"]["param_groups"]:
            group["step"] = step
        return found

    def load_from_any_adam(self: DistributedOptimizer, state_dict: dict[str, Any]) -> None:
        inner = state_dict["optimizer"]
        groups = adam_state.translate_groups(self.optimizer, inner["param_groups"])
        original_load(self, {**state_dict, "optimizer": {**inner, "param_groups": groups}})
        adam_state.write_step(self.optimizer, groups[0]["step"] if groups else 0)

    def set_without_step(self: DistributedOptimizer, model_param: Any, tensors: dict[str, Any]) -> None:
        # The original copies every key of Adam's state, `step` too, which a checkpoint keeps elsewhere: KeyError.
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        set_states(self, model_param, {**tensors, "step": state["step"]} if "step" in state else tensors)

    DistributedOptimizer.state_dict = state_with_step
    DistributedOptimizer.load_state_dict = load_from_any_adam
    DistributedOptimizer._set_main_param_and_optimizer_states = set_without_step
    DistributedOptimizer._leeway_patched = True  # type: ignore[attr-defined]

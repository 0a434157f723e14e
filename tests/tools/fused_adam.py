"""CPU stand-ins for the FusedAdam of TransformerEngine and of apex: their state, and what they do with a foreign one.

Both have one step count per parameter group, which the first step makes, and insist on their option ``bias_correction``.
Their kernels take an integer for the step count. TransformerEngine's looks the name of every state up in a map of dtypes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch


class _GroupStepAdam(torch.optim.Optimizer):
    """AdamW with one step count per parameter group."""

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), **options: Any
    ) -> None:
        defaults = {"lr": lr, "bias_correction": True, "betas": betas, "eps": 1e-8, "weight_decay": 0.0}
        self.adam_w_mode = options.pop("adam_w_mode", True)
        super().__init__(params, defaults | options)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # as theirs, it takes no closure here
        """Takes one step of every parameter that has a gradient."""
        for group in self.param_groups:
            group["step"] = group["step"] + 1 if "step" in group else 1
            for parameter in group["params"]:
                self._update(parameter, group, operator.index(group["step"]))

    def _update(self, parameter: torch.Tensor, group: dict[str, Any], step: int) -> None:
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=torch.float32)
        if gradient is None:
            return
        first, second = group["betas"]
        corrections = (1 - first**step, 1 - second**step) if group["bias_correction"] else (1.0, 1.0)
        with torch.no_grad():
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            state["exp_avg"].lerp_(gradient, 1 - first)
            state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
            scale = (state["exp_avg_sq"] / corrections[1]).sqrt_().add_(group["eps"])
            parameter.addcdiv_(state["exp_avg"], scale, value=-group["lr"] / corrections[0])


class ApexAdam(_GroupStepAdam):
    """Stand-in for apex.optimizers.FusedAdam."""


class TransformerEngineAdam(_GroupStepAdam):
    """Stand-in for transformer_engine.pytorch.optimizers.FusedAdam."""

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        super().__init__(params, **options)
        self.name_to_dtype_map = dict.fromkeys(("exp_avg", "exp_avg_sq", "master_param"), torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """State as torch has it, after a look at the dtype of each."""
        found = super().state_dict()
        for state in found["state"].values():
            for name, tensor in state.items():
                assert tensor.dtype == self.name_to_dtype_map[name]
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the state into new tensors, of the dtype that each must have."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name, tensor in list(state.items()):
                state[name] = torch.empty_like(tensor, dtype=self.name_to_dtype_map[name]).copy_(tensor)


# Megatron and Leeway know both by this name.
ApexAdam.__name__ = TransformerEngineAdam.__name__ = "FusedAdam"

"""Reads and writes Adam's state, whoever wrote the Adam.

Megatron takes the FusedAdam of TransformerEngine, else that of apex, else torch's AdamW. All three keep the same moments,
exp_avg and exp_avg_sq, for each parameter, so that a checkpoint of one is a checkpoint of every other. They differ in where
the step count is and in the options of a parameter group:

                      step count              options of a group
    torch             a tensor per parameter  amsgrad, foreach, fused, ...
    FusedAdam, both   an int per group        bias_correction

What it changes: the private state dictionaries of the optimizer, and its parameter groups.
Why: Megatron's distributed optimizer saves and loads the moments of every parameter, and takes it for granted that they are
there; each Adam makes them in its first step. TransformerEngine's refuses names that it does not know, such as a ``step`` of
a parameter.
Written for: megatron-core 0.16.1 and 0.19.2; torch 2.13.0; the FusedAdam of TransformerEngine 2 and of apex.
Without it: saving before the first step, and loading into a new learner, raise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Adam, AdamW

from learner.megatron.patches.guard import PatchError, require_release

require_release("megatron-core")
require_release("torch")

# Settings of every Adam, which a checkpoint carries; the other defaults of an Adam are options of its implementation.
_SETTINGS = ("lr", "betas", "eps", "weight_decay")


def initialize(optimizers: Iterable[Any]) -> None:
    """Sets the moments to zero for every parameter that has no state yet; torch's Adam gets its step counts too.

    Args:
        optimizers: Megatron optimizers, each around one Adam.

    Raises:
        PatchError: an optimizer is no Adam that this was written for.
    """
    for optimizer in optimizers:
        adam = optimizer.optimizer
        steps = _steps_per_parameter(adam)
        for group in adam.param_groups:
            for parameter in group["params"]:
                if not adam.state[parameter]:
                    moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                    adam.state[parameter] = moments | ({"step": _step_tensor(0, group, parameter)} if steps else {})


def read_step(adam: Any) -> int:
    """Number of steps that an Adam has taken; 0 before its first.

    Raises:
        PatchError: it is no Adam that this was written for, or its parameters have different counts.
    """
    if _steps_per_parameter(adam):
        return _one_step(state for state in adam.state.values())
    return _one_step(group for group in adam.param_groups if group["params"])


def write_step(adam: Any, step: int) -> None:
    """Sets the number of steps that an Adam has taken: the moments it has belong to that step.

    Raises:
        PatchError: it is no Adam that this was written for.
    """
    steps = _steps_per_parameter(adam)
    for group in adam.param_groups:
        if not steps:
            group["step"] = step
            continue
        group.pop("step", None)  # Megatron's loading leaves it there
        for parameter in group["params"]:
            # Each parameter has a tensor of its own: Adam advances it in place, once per parameter.
            adam.state[parameter]["step"] = _step_tensor(step, group, parameter)


def translate_groups(adam: Any, saved: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a checkpoint's parameter groups as ``adam`` can load them: with its own options, and a step count.

    Options say how an implementation works and not what it computes, and belong to the machine: those of the Adam that saved
    the checkpoint are dropped.

    Raises:
        PatchError: the groups have different step counts.
    """
    own = {name: value for group in adam.param_groups for name, value in group.items()}
    options = {name: own[name] for name in adam.defaults if name in own and name not in _SETTINGS}
    step = _one_step(saved)
    return [{name: group[name] for name in group if name in own} | options | {"step": step} for group in saved]


def _steps_per_parameter(adam: Any) -> bool:
    """Whether each parameter has a step count of its own, as with torch; otherwise each group has one."""
    if isinstance(adam, (Adam, AdamW)):
        return True
    if any(kind.__name__ == "FusedAdam" for kind in type(adam).__mro__):
        return False
    raise PatchError(
        f"the optimizer is {type(adam).__module__}.{type(adam).__qualname__}, whose state this learner can neither save nor "
        "load: it knows torch.optim.AdamW, and the FusedAdam of TransformerEngine and of apex"
    )


def _one_step(holders: Iterable[Mapping[str, Any]]) -> int:
    steps = {int(holder["step"]) for holder in holders if holder.get("step") is not None}
    if len(steps) > 1:
        raise PatchError(f"Adam's step count is not the same everywhere: {', '.join(map(str, sorted(steps)))}")
    return steps.pop() if steps else 0


def _step_tensor(step: int, group: Mapping[str, Any], parameter: torch.Tensor) -> torch.Tensor:
    on_device = group.get("fused") or group.get("capturable")  # such kernels read the count on the device
    return torch.tensor(float(step), device=parameter.device if on_device else "cpu")

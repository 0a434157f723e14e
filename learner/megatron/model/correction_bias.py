"""The correction bias of sigmoid routers, which decides among experts, does not weight them, and has no gradient.

Megatron has it as a buffer, which its own trainer moves. Here it is a parameter without a gradient: versions, log mu under
earlier weights and rollbacks treat it as they treat weights, and no optimizer knows it. It is float32 whatever the model's
dtype and that of published versions, because a rounded one would choose other experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from megatron.core.transformer.moe.router import TopKRouter
from torch.nn import Parameter

_WIDE = "leeway_wide"


def attach(model: torch.nn.Module) -> None:
    """Gives every router of a model its correction bias, of zeros, by which it chooses experts from now on."""
    for router in (module for module in model.modules() if isinstance(module, TopKRouter)):
        bias = Parameter(torch.zeros(len(router.weight), device=router.weight.device), requires_grad=False)
        setattr(bias, _WIDE, True)
        router.expert_bias = bias  # type: ignore[assignment]  # which is None, and read by its top-k


def is_wide(parameter: Parameter) -> bool:
    """Whether a parameter is float32 whatever the dtype of the model and of what is published."""
    return hasattr(parameter, _WIDE)


def published_dtypes(parameters: Sequence[Parameter], dtype: torch.dtype | None) -> list[torch.dtype]:
    """Returns the dtype in which each parameter is published.

    Args:
        parameters: parameters of a model.
        dtype: of weights; None for each parameter's own.
    """
    return [parameter.dtype if dtype is None or is_wide(parameter) else dtype for parameter in parameters]

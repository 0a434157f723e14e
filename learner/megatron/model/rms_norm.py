"""RMSNorm for the layers that are built without TransformerEngine."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.megatron.model.rebuilt import Recipe, rebuildable


class RMSNorm(torch.nn.Module):
    """Computes weight * x / rms(x), with the root mean square in fp32.

    Works under sequence parallelism: the attribute on the weight makes megatron sum its gradient over the tensor-parallel
    ranks, each of which sees a slice of the tokens. With ``persist_layer_norm``, megatron's setting for a fused norm, it is
    torch's own, which has one kernel each way on CUDA. With ``rebuilt``, what keeps its output keeps how it was made instead.
    """

    rebuilt = False

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self._eps = eps
        self._fused: bool = config.persist_layer_norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last dimension of ``x`` [..., hidden_size]; the result has the shape and dtype of ``x``."""
        if self._fused:
            # A view, as the keys of all heads are, is copied by the kernel, twice, and would keep what it is a view of.
            x = x.contiguous()
        normed = self._normalise(x, self.weight)
        return (
            rebuildable(normed, Recipe(self._normalise, (x.detach(), self.weight.detach()))) if self.rebuilt else normed
        )

    def _normalise(self, x: Tensor, weight: Tensor) -> Tensor:
        if self._fused:
            return F.rms_norm(x, weight.shape, weight, self._eps)
        return _Normalise.apply(x, weight, self._eps)  # type: ignore[return-value]


class _Normalise(torch.autograd.Function):
    """RMSNorm as one autograd node instead of five, in less than half their time.

    Norms take half of the time of a small layer.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of ``x`` and ``weight``.

        With h = x * scale and g the gradient of the output: d weight = sum of g * h, d x = scale * (g * weight - h *
        mean(g * weight * h)).
        """
        x, weight, scale = ctx.saved_tensors
        gradient, width = gradients[0].float(), weight.float()
        normed = x.float() * scale
        product = gradient * normed
        mean = product.flatten(0, -2).mv(width).div_(x.shape[-1]).view(scale.shape)
        slope = torch.addcmul(gradient * width, normed, mean, value=-1).mul_(scale)
        return slope.to(x.dtype), product.flatten(0, -2).sum(0).to(weight.dtype), None

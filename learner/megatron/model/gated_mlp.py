"""The gated MLP of a dense layer, and of experts that every token is sent to: it keeps its activation's input only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from learner.megatron.model.kernels import compiled
from learner.megatron.model.rebuilt import Recipe, rebuildable, rebuilding


class RebuildingColumn(ColumnParallelLinear):
    """A linear layer that keeps how its input was made, where that is known, instead of the input."""

    def forward(self, input_: Tensor, *rest: Any, **options: Any) -> Any:
        """Megatron's ``forward``."""
        with rebuilding(input_):
            return super().forward(input_, *rest, **options)


class RebuildingRow(RowParallelLinear):
    """A linear layer that keeps how its input was made, where that is known, instead of the input."""

    def forward(self, input_: Tensor) -> Any:
        """Megatron's ``forward``."""
        with rebuilding(input_):
            return super().forward(input_)


class GatedMLP(MLP):
    """Megatron's MLP with SiLU as its gate and without biases.

    With ``config.bias_activation_fusion``, megatron's setting for a fused activation, the product is computed in one compiled
    kernel. With ``rebuilt`` its second linear layer keeps nothing: the backward pass computes the product again.
    """

    rebuilt = False

    @classmethod
    def adopt(cls, model: torch.nn.Module) -> None:
        """Makes every dense layer's MLP one of these, and the experts that every token is sent to; others stay as they are.

        However megatron's release builds them.
        """
        for layer in (module for module in model.modules() if isinstance(module, TransformerLayer)):
            shared = getattr(layer.mlp, "shared_experts", None)
            if type(layer.mlp) is MLP:
                layer.mlp.__class__ = cls
            elif type(shared) is SharedExpertMLP:
                shared.__class__ = GatedSharedExperts

    def forward(self, hidden_states: Tensor, per_token_scale: Tensor | None = None, **options: Any) -> Any:
        """Megatron's ``forward``: [n, 1, hidden] to the same shape and None, for the bias that there is not."""
        if per_token_scale is not None:
            return super().forward(hidden_states, per_token_scale, **options)
        both, _ = self.linear_fc1(hidden_states)
        fused = bool(self.config.bias_activation_fusion)
        product: Tensor = _Gate.apply(both, fused)  # type: ignore[assignment]
        if self.rebuilt:
            rebuildable(product, Recipe(_gate(fused), (both.detach(),)))
        return self.linear_fc2(product)


class GatedSharedExperts(SharedExpertMLP, GatedMLP):
    """Megatron's experts that every token is sent to: one gated MLP for all of them, computed as a dense layer's is."""


class _Gate(torch.autograd.Function):
    """silu(a) * b of the halves a and b of its input's last dimension."""

    @staticmethod
    def forward(ctx: Any, both: Tensor, fused: bool) -> Tensor:
        ctx.save_for_backward(both)
        ctx.fused = fused
        return _gate(fused)(both.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        slopes = compiled(_slopes) if ctx.fused else _slopes
        return slopes(gradients[0], ctx.saved_tensors[0]), None


def _gate(fused: bool) -> Any:
    return compiled(_product) if fused else _product


def _product(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


def _slopes(gradient: Tensor, both: Tensor) -> Tensor:
    gate, up = both.chunk(2, -1)
    return torch.cat([torch.ops.aten.silu_backward(gradient * up, gate), gradient * F.silu(gate)], -1)

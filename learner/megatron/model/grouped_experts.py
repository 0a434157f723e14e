"""The experts of a mixture's layer as one function: grouped products in place of one MLP after another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.moe.experts import SequentialMLP
from torch import Tensor

from learner.megatron.model.kernels import compiled
from learner.megatron.patches.expert_gather import finish_gather

_KERNEL_CAPABILITY = (8, 0)  # of the first devices that torch's grouped kernel runs on
_KERNEL_MULTIPLE = 8  # of the widths of matrices in bfloat16: its rows begin at multiples of 16 bytes


class GroupedExperts(SequentialMLP):
    """Megatron's experts, each an MLP with SiLU as its gate and without biases, computed together.

    Parameters are those of the MLPs, one by one, so that weights, checkpoints and published versions are the same. The
    backward pass keeps the experts' input, both halves of their hidden layer and the tokens' weights; it makes the rest
    again.

    On a CUDA device in bfloat16 a product with all experts is one kernel, for which their weights are put side by side, in
    the forward pass and again in the backward pass. Elsewhere it is one product after another, of the sizes that MLPs have.
    """

    @classmethod
    def adopt(cls, model: torch.nn.Module) -> None:
        """Makes all experts of a model be computed together, but those whose linear layers are not megatron's own."""
        for module in model.modules():
            if type(module) is SequentialMLP and all(map(_is_plain, module.local_experts)):
                module.__class__ = cls

    def forward(
        self, permuted_local_hidden_states: Tensor, tokens_per_expert: Tensor, permuted_probs: Tensor
    ) -> tuple[Tensor, None]:
        """Megatron's ``forward``.

        Args:
            permuted_local_hidden_states: [n, hidden], the tokens of one expert after those of another.
            tokens_per_expert: [experts] integers.
            permuted_probs: [n], the weight of each token's expert.

        Returns:
            [n, hidden], and None for the bias that there is not.
        """
        pairs: list[tuple[Any, Any]] = [(expert.linear_fc1, expert.linear_fc2) for expert in self.local_experts]
        for layer in itertools.chain.from_iterable(pairs):
            finish_gather(layer)
        weights = [layer.weight for layers in zip(*pairs, strict=True) for layer in layers]
        fused = bool(self.config.bias_activation_fusion)
        counts = tokens_per_expert.tolist()
        output: Any = _Experts.apply(permuted_local_hidden_states, permuted_probs, counts, fused, *weights)
        return output, None


def _is_plain(expert: Any) -> bool:
    return type(expert.linear_fc1) is ColumnParallelLinear and type(expert.linear_fc2) is RowParallelLinear


class _Experts(torch.autograd.Function):
    """The gated MLPs of all experts: those of the first linear layers come first among the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, probs: Tensor, counts: list[int], fused: bool, *weights: Tensor) -> Tensor:
        first, second = weights[: len(counts)], weights[len(counts) :]
        products = products_of(x, first[0], counts)
        both = products.outputs(x, first)
        ctx.save_for_backward(x, probs, both, *weights)
        ctx.counts, ctx.fused = counts, fused
        return products.outputs(_call(_gated, fused)(both, probs), second)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, probs, both, *weights = ctx.saved_tensors
        first, second = weights[: len(ctx.counts)], weights[len(ctx.counts) :]
        gradient = gradients[0].contiguous()
        products = products_of(x, first[0], ctx.counts)
        trained = ctx.needs_input_grad[4]  # experts are frozen where adapters are trained
        gated = _call(_gated, ctx.fused)(both, probs)
        of_second = products.weights(gradient, gated) if trained else [None] * len(second)
        of_both, of_probs = _call(_slopes, ctx.fused)(products.inputs(gradient, second), both, probs)
        of_first = products.weights(of_both, x) if trained else [None] * len(first)
        return products.inputs(of_both, first), of_probs, None, None, *of_first, *of_second


class Products:
    """Products of each expert's tokens with its weight [out, in], one after another; an expert without tokens costs nothing.

    Args:
        counts: tokens of each expert.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        ends = list(itertools.accumulate(counts))
        self._parts = [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]

    def outputs(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Returns [n, out] of inputs [n, in]."""
        return self._each(x, [weight.t() for weight in weights])

    def inputs(self, gradient: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Returns the gradient of the inputs, [n, in], of that of the outputs, [n, out]."""
        return self._each(gradient, weights)

    def weights(self, gradient: Tensor, x: Tensor) -> Sequence[Tensor]:
        """Returns the gradient of every weight, [out, in] each, of that of the outputs, [n, out], and the inputs, [n, in]."""
        return [gradient[part].t() @ x[part] for part in self._parts]  # 0 without tokens

    def _each(self, x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        out = x.new_empty(len(x), matrices[0].shape[1])
        for part, matrix in zip(self._parts, matrices, strict=True):
            if part.start < part.stop:
                torch.mm(x[part], matrix, out=out[part])
        return out


class GroupedProducts(Products):
    """Products of all experts' tokens with their weights in one kernel, torch's ``grouped_mm``.

    Args:
        counts: tokens of each expert.
        device: where the tokens are.
    """

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        ends = torch.tensor(list(itertools.accumulate(counts)), dtype=torch.int32)
        self._ends = ends.to(device, non_blocking=True)

    def outputs(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Returns [n, out] of inputs [n, in]."""
        return F.grouped_mm(x, torch.stack(tuple(weights)).transpose(1, 2), offs=self._ends)

    def inputs(self, gradient: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Returns the gradient of the inputs, [n, in], of that of the outputs, [n, out]."""
        return F.grouped_mm(gradient, torch.stack(tuple(weights)), offs=self._ends)

    def weights(self, gradient: Tensor, x: Tensor) -> Sequence[Tensor]:
        """Returns the gradient of every weight, [out, in] each, of that of the outputs, [n, out], and the inputs, [n, in]."""
        return F.grouped_mm(gradient.t(), x, offs=self._ends).unbind()


def products_of(x: Tensor, weight: Tensor, counts: Sequence[int]) -> Products:
    """Chooses how products of tokens [n, in] with weights [out, in] are computed."""
    fits = x.device.type == "cuda" and x.dtype == torch.bfloat16 and len(x) > 0
    fits = fits and all(width % _KERNEL_MULTIPLE == 0 for width in (weight.shape[1], weight.shape[0] // 2))
    if fits and torch.cuda.get_device_capability(x.device) >= _KERNEL_CAPABILITY:
        return GroupedProducts(counts, x.device)
    return Products(counts)


def _call(function: Any, fused: bool) -> Any:
    return compiled(function) if fused else function


def _gated(both: Tensor, probs: Tensor) -> Tensor:
    """silu(a) * b of the halves a and b, times the tokens' weights, which may be of a wider type."""
    gate, up = both.chunk(2, -1)
    return (F.silu(gate) * up * probs[:, None]).to(both.dtype)


def _slopes(gradient: Tensor, both: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of both arguments of ``_gated``."""
    gate, up = both.chunk(2, -1)
    silu = F.silu(gate)
    of_probs = (gradient.to(probs.dtype) * (silu * up)).sum(-1)
    inner = (gradient * probs[:, None]).to(both.dtype)
    return torch.cat([torch.ops.aten.silu_backward(inner * up, gate), inner * silu], -1), of_probs.to(probs.dtype)

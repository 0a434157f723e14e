"""A stand-in for torch's attention over packed sequences, which runs on CUDA only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class VarlenStandIn:
    """Attends sequence by sequence and checks its arguments as the kernel would; keeps what the kernel keeps.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, of_q: Tensor, of_k: Tensor, longest_q: int, longest_k: int, scale: Any
    ) -> Tensor:
        self.calls += 1
        assert of_q is of_k
        assert of_q.dtype == torch.int32
        lengths = of_q.diff().tolist()
        assert (type(longest_q), longest_q, longest_k) == (int, max(lengths), max(lengths))
        assert int(of_q[0]) == 0
        assert len(q) == len(k) == len(v) == int(of_q[-1]), "the kernel does not write the output of other tokens"
        assert q.shape[-1] == k.shape[-1] == v.shape[-1], "the kernel wants heads of one width"
        assert all(t.stride(-1) == 1 for t in (q, k, v))
        assert v.is_contiguous()
        return _Attend.apply(q, k, v, lengths, scale)  # type: ignore[return-value]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scale: float | None) -> Tensor:
        output = _attend(q, k, v, lengths, scale)
        ctx.save_for_backward(q, k, v, output, torch.empty(q.shape[1], len(q)))  # the last is the softmax's logarithm
        ctx.lengths, ctx.scale = lengths, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors[:3]]
            q, k, v = inputs
            output = _attend(q, k, v, ctx.lengths, ctx.scale)
        return *torch.autograd.grad(output, inputs, gradients[0]), None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scale: float | None) -> Tensor:
    outputs = [
        F.scaled_dot_product_attention(
            *(t.transpose(0, 1)[None] for t in parts), is_causal=True, scale=scale, enable_gqa=True
        )[0].transpose(0, 1)
        for parts in zip(*(t.split(lengths) for t in (q, k, v)), strict=True)
    ]
    return torch.cat(outputs)

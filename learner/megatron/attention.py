"""Attention over packed rows, with rotary positions, on torch's scaled_dot_product_attention; and the norm around it.

megatron's stock attention refuses packed rows without TransformerEngine, and its rotary embedding loops over sequences.
Here everything that depends on how a row is packed is worked out once per micro-batch (``PackedRow``) and shared by all
layers; sequences of similar length attend together in one padded call.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from learner.batch.types import MicroBatch

_FREE_PADDING = (
    64  # tokens a sequence may be padded by, whatever its length: a call costs more than so little arithmetic
)


@dataclass
class PackedRow(PackedSeqParams):
    """How one row of T tokens is packed; megatron hands it through to every layer.

    The first ``live`` tokens attend. The others are padding at the row's end, whose hidden states nobody reads: their
    attention output is zero.
    """

    cos: Tensor = None  # type: ignore[assignment]  # [T, 1, d] model dtype
    sin: Tensor = None  # type: ignore[assignment]  # [T, 1, d]; the first half negated, see _Rotate
    gather: Tensor = None  # type: ignore[assignment]  # [M] int64: token of each padded slot
    restore: Tensor = None  # type: ignore[assignment]  # [live] int64: padded slot of each token
    buckets: tuple[tuple[int, int], ...] = ()  # (sequences, length each is padded to); M is the sum of the products
    live: int = 0

    @classmethod
    def of(
        cls, micro_batch: MicroBatch, inverse_frequencies: Tensor, dtype: torch.dtype, device: torch.device
    ) -> PackedRow:
        """Plans a micro-batch that lies in host memory.

        Args:
            inverse_frequencies: [d / 2] float32, radians per position.
            dtype: of the hidden states.
            device: where the plan is used.
        """
        bounds = micro_batch.cu_seqlens.tolist()
        if len(bounds) > 2 and _ends_with_padding(micro_batch, bounds[-2]):
            bounds.pop()
        gather, restore, buckets = _plan(bounds)
        angles = torch.outer(micro_batch.positions[0].float(), inverse_frequencies).to(device)
        cos, sin = angles.cos(), angles.sin()
        return cls(
            qkv_format="thd",
            cos=torch.cat([cos, cos], -1)[:, None].to(dtype),
            sin=torch.cat([-sin, sin], -1)[:, None].to(dtype),
            gather=gather.to(device, non_blocking=True),
            restore=restore.to(device, non_blocking=True),
            buckets=buckets,
            live=bounds[-1],
        )


def _ends_with_padding(micro_batch: MicroBatch, last_start: int) -> bool:
    loss_index = micro_batch.loss_index
    return not len(loss_index) or int(loss_index[-1]) < last_start


def _plan(bounds: list[int]) -> tuple[Tensor, Tensor, tuple[tuple[int, int], ...]]:
    """Longest first; a sequence joins the bucket before it unless that pads it by over a third and by over _FREE_PADDING."""
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    buckets: list[list[int]] = []  # [sequences, length]
    slot_start = [0] * len(lengths)
    slots = 0
    for i in order:
        if not buckets or lengths[i] < min(buckets[-1][1] * 3 // 4, buckets[-1][1] - _FREE_PADDING):
            buckets.append([0, lengths[i]])
        buckets[-1][0] += 1
        slot_start[i] = slots
        slots += buckets[-1][1]
    sizes = torch.tensor(lengths)
    shift = torch.tensor(slot_start) - torch.tensor(bounds[:-1])
    tokens = torch.arange(bounds[-1])
    restore = tokens + shift.repeat_interleave(sizes)
    gather = torch.zeros(
        slots, dtype=torch.int64
    )  # slots without a token read token 0; nobody reads what comes of them
    gather[restore] = tokens
    return gather, restore, tuple((count, length) for count, length in buckets)


class PackedAttention(torch.nn.Module):
    """Causal core attention of one layer over a packed row: rotates queries and keys, then attends within each sequence."""

    def __init__(self, config: Any, softmax_scale: float | None = None, **_: Any) -> None:
        super().__init__()
        if config.context_parallel_size != 1:
            raise ValueError(
                f"context_parallel_size = {config.context_parallel_size}: attention over packed rows needs 1"
            )
        self._scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        packed_seq_params: PackedRow | None = None,
        **_: Any,
    ) -> Tensor:
        """query [T, heads, d], key and value [T, groups, d] -> [T, heads * d]. The mask is causal; none is read."""
        row = packed_seq_params
        if row is None:
            raise ValueError("PackedAttention attends over packed rows only: pass a PackedRow as packed_seq_params")
        query, key = rotate(query, row.cos, row.sin), rotate(key, row.cos, row.sin)
        query, key, value = (_Spread.apply(tensor, row.gather, row.restore) for tensor in (query, key, value))
        outputs, start = [], 0
        for count, length in row.buckets:
            stop = start + count * length
            q, k, v = (t[start:stop].view(count, length, *t.shape[1:]).transpose(1, 2) for t in (query, key, value))
            grouped = q.shape[1] != k.shape[1]
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self._scale, enable_gqa=grouped)
            outputs.append(attended.transpose(1, 2).reshape(count * length, -1))
            start = stop
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return _Restore.apply(output, row.restore, len(row.cos))  # type: ignore[return-value]

    def sharded_state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """No parameters."""
        return {}


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: pairs (x[i], x[i + d/2]) turned by the angle of their position (Hugging Face's layout).

    Args:
        x: [T, heads, d].
        cos: [T, 1, d].
        sin: [T, 1, d], its first half negated.
    """
    return _Rotate.apply(x, cos, sin)  # type: ignore[return-value]


class _Rotate(torch.autograd.Function):
    """x * cos + swap_halves(x) * sin. A rotation's gradient is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        gradient = gradients[0]
        return torch.addcmul(gradient * cos, gradient.roll(gradient.shape[-1] // 2, -1), sin, value=-1), None, None


class _Spread(torch.autograd.Function):
    """[T, ...] packed tokens -> [M, ...] padded slots. Backward gathers too (no atomics), because a token has one slot."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: Tensor, restore: Tensor) -> Tensor:
        ctx.save_for_backward(restore)
        ctx.tokens = len(x)
        return x.index_select(0, gather)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _restored(gradients[0], ctx.saved_tensors[0], ctx.tokens), None, None


class _Restore(torch.autograd.Function):
    """[M, ...] padded slots -> [T, ...] packed tokens, zero where a token does not attend."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, restore: Tensor, tokens: int) -> Tensor:
        ctx.save_for_backward(restore)
        ctx.slots = len(x)
        return _restored(x, restore, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        restore = ctx.saved_tensors[0]
        gradient = gradients[0][: len(restore)]
        spread = gradient.new_zeros(ctx.slots, *gradient.shape[1:])
        return spread.index_copy_(0, restore, gradient), None, None


def _restored(slots: Tensor, restore: Tensor, tokens: int) -> Tensor:
    if len(restore) == tokens:
        return slots.index_select(0, restore)
    out = slots.new_zeros(tokens, *slots.shape[1:])
    torch.index_select(slots, 0, restore, out=out[: len(restore)])
    return out


class RMSNorm(torch.nn.Module):
    """weight * x / rms(x), the root mean square in fp32.

    Allowed under sequence parallelism: the flag on the weight makes megatron sum its gradient over the tensor-parallel
    ranks, each of which sees a slice of the tokens.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden_size] -> the same shape and dtype."""
        return _Normed.apply(x, self.weight, self._eps)  # type: ignore[return-value]


class _Normed(torch.autograd.Function):
    """One node instead of five, and less than half their time: half of a small layer's arithmetic is its norms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """With h = x * scale: d weight = sum of g * h; d x = scale * (g * weight - h * mean(g * weight * h))."""
        x, weight, scale = ctx.saved_tensors
        gradient, width = gradients[0].float(), weight.float()
        normed = x.float() * scale
        product = gradient * normed
        mean = product.flatten(0, -2).mv(width).div_(x.shape[-1]).view(scale.shape)
        slope = torch.addcmul(gradient * width, normed, mean, value=-1).mul_(scale)
        return slope.to(x.dtype), product.flatten(0, -2).sum(0).to(weight.dtype), None

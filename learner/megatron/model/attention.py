"""Attention over packed rows, with rotary positions, on torch's scaled_dot_product_attention; and the norm around it.

megatron's stock attention refuses packed rows without TransformerEngine, and its rotary embedding loops over sequences. Here
what depends on how a row is packed is planned beforehand (learner.megatron.model.packed_row).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.megatron.model.context_parallel import gather_tokens
from learner.megatron.model.packed_row import AttentionCall, PackedRow


class PackedAttention(torch.nn.Module):
    """Causal core attention of one layer over a packed row: rotates queries and keys, then attends within each sequence.

    Under context parallelism the keys and values of all ranks are gathered, rotated already; queries and output are this
    rank's.
    """

    def __init__(self, config: Any, softmax_scale: float | None = None, **_: Any) -> None:
        super().__init__()
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
        """query [n, heads, d], key and value [n, groups, d] -> [n, heads * d]. The mask is causal; none is read."""
        row = packed_seq_params
        if row is None:
            raise ValueError("PackedAttention attends over packed rows only: pass a PackedRow as packed_seq_params")
        query, key = rotate(query, row.cos, row.sin), rotate(key, row.cos, row.sin)
        if row.context.group is not None:
            both = torch.stack([key[: row.live], value[: row.live]], 1)
            key, value = gather_tokens(both, row.context.group).unbind(1)
        query = _Spread.apply(query, row.queries.gather, row.queries.restore)
        key, value = (_Spread.apply(tensor, row.keys.gather, row.keys.restore) for tensor in (key, value))
        outputs, slot, start = [], 0, 0
        for bucket in row.buckets:
            stop = start + bucket.count * bucket.length
            k, v = (t[start:stop].view(bucket.count, bucket.length, *t.shape[1:]).transpose(1, 2) for t in (key, value))
            start = stop
            for call in bucket.calls:
                size = call.count * call.queries
                q = query[slot : slot + size].view(call.count, call.queries, *query.shape[1:]).transpose(1, 2)
                attended = self._attend(q, k[:, :, : call.seen], v[:, :, : call.seen], call)
                outputs.append(attended.transpose(1, 2).reshape(size, -1))
                slot += size
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return _Restore.apply(output, row.queries.restore, len(row.cos))  # type: ignore[return-value]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        mask, square = call.mask, call.queries == call.seen
        if mask is None and not square:
            # Brings the compiler along, seconds of every start: for those only who need it.
            from torch.nn.attention.bias import causal_lower_right

            mask = causal_lower_right(call.queries, call.seen)  # never made where CUDA has a kernel for it
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self._scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )

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

"""Attention over packed rows, with rotary positions, on torch's attention kernels.

megatron's stock attention refuses packed rows without TransformerEngine, and its rotary embedding loops over sequences. Here
everything that depends on how a row is packed is computed beforehand (learner.megatron.model.packed_row). One call attends
within all sequences of a row where the device has a kernel for that (learner.megatron.model.kernels); elsewhere sequences of
similar length share a padded call of scaled_dot_product_attention.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.megatron.model.context_parallel import gather_tokens
from learner.megatron.model.kernels import compiled, varlen_attention
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.model.rebuilt import Recipe, rebuildable, rebuilding, recipe_of
from learner.megatron.model.slot_plan import AttentionCall


class PackedAttention(torch.nn.Module):
    """Causal core attention of one layer over a packed row: rotates queries and keys, then attends within each sequence.

    Under context parallelism it gathers the rotated keys and the values of all ranks; queries and output stay this rank's.
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
        """Attends within each sequence of the row.

        Args:
            query: [n, heads, d].
            key: [n, groups, d].
            value: [n, groups, d].
            attention_mask: not read; attention is causal.
            packed_seq_params: how the row is packed.

        Returns:
            [n, heads * d].

        Raises:
            ValueError: ``packed_seq_params`` is None.
        """
        row = packed_seq_params
        if row is None:
            raise ValueError("PackedAttention attends over packed rows only: pass a PackedRow as packed_seq_params")
        return self.attend(_rotated(query, row), _rotated(key, row), value, row)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, row: PackedRow) -> Tensor:
        """Attends within each sequence of the row, with queries and keys that are rotated already.

        Kernels want heads of one width: the narrower ones of values, or of queries and keys, get zeros, which change nothing.

        Args:
            query: [n, heads, d].
            key: [n, groups, d].
            value: [n, groups, v].
            row: how the row is packed.

        Returns:
            [n, heads * v].
        """
        if row.context.group is not None:
            both = torch.cat([key[: row.live], value[: row.live]], -1)
            key, value = gather_tokens(both, row.context.group).split([key.shape[-1], value.shape[-1]], -1)
        width, scale = value.shape[-1], self._scale or 1 / math.sqrt(query.shape[-1])
        query, key, value = _widened(query, key, value)
        attend = self._attend_in_slots if row.cu_seqlens is None else self._attend_row
        attended = attend(query, key, value, row, scale)
        return attended if width == value.shape[-1] else attended.unflatten(1, query.shape[1:])[..., :width].flatten(1)

    def _attend_in_slots(self, query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float) -> Tensor:
        """Attends in padded calls, each for sequences of similar length."""
        query = _Spread.apply(query, row.queries.gather, row.queries.restore)
        key, value = (_Spread.apply(tensor, row.keys.gather, row.keys.restore) for tensor in (key, value))
        outputs, slot, start = [], 0, 0
        for batch in row.attention_batches:
            stop = start + batch.count * batch.length
            k, v = (t[start:stop].view(batch.count, batch.length, *t.shape[1:]).transpose(1, 2) for t in (key, value))
            start = stop
            for call in batch.calls:
                size = call.count * call.queries
                q = query[slot : slot + size].view(call.count, call.queries, *query.shape[1:]).transpose(1, 2)
                attended = self._attend(q, k[:, :, : call.seen], v[:, :, : call.seen], call, scale)
                outputs.append(attended.transpose(1, 2).reshape(size, -1))
                slot += size
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return _Restore.apply(output, row.queries.restore, len(row.cos))  # type: ignore[return-value]

    def _attend_row(self, query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float) -> Tensor:
        """Attends within every sequence in one call; padding at the row's end is a sequence of its own."""
        # Megatron's value is a view of the product of queries, keys and values, which it would keep until the backward pass.
        value = value.contiguous()
        attend = varlen_attention()
        with rebuilding(query, key):
            bounds, longest = row.cu_seqlens, row.longest
            out = attend(query, key, value, bounds, bounds, longest, longest, scale=scale)
        return out.flatten(1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, scale: float) -> Tensor:
        mask, square = call.mask, call.queries == call.seen
        if mask is None and not square:
            # Imports torch's compiler, which takes seconds: only context parallelism needs it.
            from torch.nn.attention.bias import causal_lower_right

            mask = causal_lower_right(call.queries, call.seen)  # not materialised where CUDA has a kernel for it
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )

    def sharded_state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Empty state for a checkpoint: there are no parameters."""
        return {}


def _widened(*tensors: Tensor) -> list[Tensor]:
    """Tensors [..., d] of equal widths d, with zeros behind those that are narrower."""
    widest = max(tensor.shape[-1] for tensor in tensors)
    return [t if t.shape[-1] == widest else F.pad(t, (0, widest - t.shape[-1])) for t in tensors]


def _rotated(x: Tensor, row: PackedRow) -> Tensor:
    """Rotates queries or keys; if it is known how a norm made them, it is known how these are made, too."""
    turned, recipe = rotate(x, row.cos, row.sin, row.kernels.fused), recipe_of(x)
    if recipe is None:
        return turned
    return rebuildable(turned, Recipe(partial(_rotate_again, recipe, x.shape, row.kernels.fused), (row.cos, row.sin)))


def _rotate_again(recipe: Recipe, shape: torch.Size, fused: bool, cos: Tensor, sin: Tensor) -> Tensor:
    return rotate(recipe.make().view(shape), cos, sin, fused)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, fused: bool = False) -> Tensor:
    """Applies rotary positions: turns the pairs (x[i], x[i + r/2]) by their position's angle (Hugging Face's layout).

    Channels from r on stay as they are.

    Args:
        x: [T, heads, d].
        cos: [T, 1, r], cosine of the angles, r at most d.
        sin: [T, 1, r], sine of the angles, first half negated.
        fused: whether to compute it in one compiled kernel.
    """
    return _Rotate.apply(x, cos, sin, fused)  # type: ignore[return-value]


class _Rotate(torch.autograd.Function):
    """Computes x * cos + swap_halves(x) * sin. A rotation's gradient is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, fused: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.fused = fused
        # Detached: the compiler would make one kernel for tensors that require a gradient and one for others.
        return (compiled(_turn) if fused else _turn)(x.detach(), cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        turn = compiled(_turn_back) if ctx.fused else _turn_back
        return turn(gradients[0], *ctx.saved_tensors), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _turned(x, cos, sin, 1)


def _turn_back(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _turned(x, cos, sin, -1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    width = cos.shape[-1]
    if width == x.shape[-1]:
        return torch.addcmul(x * cos, x.roll(width // 2, -1), sin, value=direction)
    return torch.cat([_turned(x[..., :width], cos, sin, direction), x[..., width:]], -1)


class _Spread(torch.autograd.Function):
    """Spreads packed tokens [T, ...] over padded slots [M, ...].

    The backward pass is a gather too, without atomics, because a token has one slot.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: Tensor, restore: Tensor) -> Tensor:
        ctx.save_for_backward(restore)
        ctx.tokens = len(x)
        return x.index_select(0, gather)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _restore(gradients[0], ctx.saved_tensors[0], ctx.tokens), None, None


class _Restore(torch.autograd.Function):
    """Brings padded slots [M, ...] back to packed tokens [T, ...]; zero for tokens that do not attend."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, restore: Tensor, tokens: int) -> Tensor:
        ctx.save_for_backward(restore)
        ctx.slots = len(x)
        return _restore(x, restore, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        restore = ctx.saved_tensors[0]
        gradient = gradients[0][: len(restore)]
        spread = gradient.new_zeros(ctx.slots, *gradient.shape[1:])
        return spread.index_copy_(0, restore, gradient), None, None


def _restore(slots: Tensor, restore: Tensor, tokens: int) -> Tensor:
    if len(restore) == tokens:
        return slots.index_select(0, restore)
    out = slots.new_zeros(tokens, *slots.shape[1:])
    torch.index_select(slots, 0, restore, out=out[: len(restore)])
    return out

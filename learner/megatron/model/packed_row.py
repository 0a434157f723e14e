"""How a micro-batch lies in memory: what attention, rotary positions and the output layer need to know of it.

All that depends on how a row is packed and on which of its tokens this rank holds is worked out once per micro-batch and
shared by all layers. Sequences of similar length attend together in one padded call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from learner.batch.types import MicroBatch
from learner.megatron.model.context_parallel import ALONE, Context, token_owners

# Tokens a sequence may be padded by, whatever its length: a call costs more than so little arithmetic.
_FREE_PADDING = 64
# Under context parallelism sequences of unequal length need a mask to share a call; longer ones than this do without both.
_LONGEST_MASKED = 1024


@dataclass(frozen=True)
class PaddedSlots:
    """Where tokens stand in padded slots, each in one.

    Attributes:
        gather: [M] int64, the token of each slot; slots without one read token 0, and nobody reads what comes of them.
        restore: [live] int64, the slot of each token.
    """

    gather: Tensor
    restore: Tensor

    @classmethod
    def of(cls, restore: Tensor, count: int) -> PaddedSlots:
        gather = torch.zeros(count, dtype=torch.int64)
        gather[restore] = torch.arange(len(restore))
        return cls(gather, restore)

    def to(self, device: torch.device) -> PaddedSlots:
        return PaddedSlots(self.gather.to(device, non_blocking=True), self.restore.to(device, non_blocking=True))


@dataclass(frozen=True)
class AttentionCall:
    """Queries of some sequences that attend together.

    Attributes:
        count: sequences.
        queries: slots of each.
        seen: the first keys of each sequence, which are all that its queries may see.
        mask: [count, 1, queries, seen] model dtype, 0 or -inf. None: query i sees key j when j <= i + seen - queries.
    """

    count: int
    queries: int
    seen: int
    mask: Tensor | None = None


@dataclass(frozen=True)
class AttentionBatch:
    """Sequences of similar length: ``count`` of them, each padded to ``length`` keys."""

    count: int
    length: int
    calls: tuple[AttentionCall, ...]


@dataclass
class PackedRow(PackedSeqParams):
    """A row of T tokens, and this rank's n of them; megatron hands it through to every layer.

    The first ``live`` tokens of the rank attend. The others are padding at the row's end, whose hidden states nobody reads:
    their attention output is zero.

    Under context parallelism the keys and values of a layer are brought together on every rank, in the order of the ranks;
    queries stay where they are. A rank then holds 2 T groups d elements of keys and values for each layer whose attention is
    not recomputed, and masks for the micro-batch (all layers share them) of 640 n elements at most. Long sequences have none
    where CUDA has a kernel for it; elsewhere torch makes one for each of their calls.
    """

    own: Tensor = None  # type: ignore[assignment]  # [n] int64: which tokens of the row
    cos: Tensor = None  # type: ignore[assignment]  # [n, 1, d] model dtype
    sin: Tensor = None  # type: ignore[assignment]  # [n, 1, d]; the first half negated, see learner.megatron.model.attention
    queries: PaddedSlots = None  # type: ignore[assignment]  # of this rank's tokens
    keys: PaddedSlots = None  # type: ignore[assignment]  # of all tokens, in the order of the ranks
    buckets: tuple[AttentionBatch, ...] = ()
    live: int = 0
    loss_owner: Tensor = None  # type: ignore[assignment]  # [L] int64: which rank holds the position of each loss token
    own_loss: Tensor = None  # type: ignore[assignment]  # [l] int64: which of the loss tokens are this rank's
    own_loss_index: Tensor = None  # type: ignore[assignment]  # [l] int64: where their positions stand among the n
    context: Context = ALONE

    @classmethod
    def of(
        cls,
        micro_batch: MicroBatch,
        inverse_frequencies: Tensor,
        dtype: torch.dtype,
        device: torch.device,
        context: Context = ALONE,
    ) -> PackedRow:
        """Plans a micro-batch that lies in host memory.

        Args:
            inverse_frequencies: [d / 2] float32, radians per position.
            dtype: of the hidden states.
            device: where the plan is used.

        Raises:
            ValueError: see learner.megatron.model.context_parallel.holders.
        """
        holder = token_owners(micro_batch, context.size)
        own = (holder == context.rank).nonzero().flatten()
        plan = _Plan(_attending(micro_batch), context)
        angles = torch.outer(micro_batch.positions[0, own].float(), inverse_frequencies).to(device)
        cos, sin = angles.cos(), angles.sin()
        owner = holder[micro_batch.loss_index]
        own_loss = (owner == context.rank).nonzero().flatten()
        queries = plan.queries(own).to(device)
        there = partial(Tensor.to, device=device, non_blocking=True)
        return cls(
            qkv_format="thd",
            own=there(own),
            cos=torch.cat([cos, cos], -1)[:, None].to(dtype),
            sin=torch.cat([-sin, sin], -1)[:, None].to(dtype),
            queries=queries,
            keys=queries if context.size == 1 else plan.keys(holder).to(device),
            buckets=plan.buckets(dtype, device),
            live=plan.live // context.size,
            loss_owner=there(owner),
            own_loss=there(own_loss),
            own_loss_index=there(torch.searchsorted(own, micro_batch.loss_index[own_loss])),
            context=context,
        )


def _attending(micro_batch: MicroBatch) -> Tensor:
    """Lengths of the sequences that attend, [N] int64: all but padding at the row's end."""
    bounds, loss_index = micro_batch.cu_seqlens.long(), micro_batch.loss_index
    padded = len(bounds) > 2 and not (len(loss_index) and int(loss_index[-1]) >= int(bounds[-2]))
    return (bounds[:-1] if padded else bounds).diff()


class _Plan:
    """Which sequences attend together: longest first; one joins the bucket before it unless that pads it too much.

    In slots: a bucket's sequences one after another; for the queries under context parallelism, first the early parts of all
    of them, then the late ones.
    """

    def __init__(self, lengths: Tensor, context: Context) -> None:
        self._lengths = lengths
        self._context = context
        self._parts = 2 * context.size if context.size > 1 else 1
        self.live = int(lengths.sum())
        self._members: list[list[int]] = []
        sizes = lengths.tolist()
        for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
            if not self._members or not self._may_join(sizes[i], sizes[self._members[-1][0]]):
                self._members.append([])
            self._members[-1].append(i)
        self._padded = [sizes[members[0]] for members in self._members]

    def _may_join(self, length: int, longest: int) -> bool:
        if self._context.size == 1:
            return length >= min(longest * 3 // 4, longest - _FREE_PADDING)
        return length == longest or (longest <= _LONGEST_MASKED and length >= longest - _FREE_PADDING)

    def keys(self, holder: Tensor) -> PaddedSlots:
        starts, total = self._starts(1, 0)
        slot = torch.arange(self.live) + (starts - self._before()).repeat_interleave(self._lengths)
        return PaddedSlots.of(slot[holder[: self.live].argsort(stable=True)], total)

    def queries(self, own: Tensor) -> PaddedSlots:
        """``own``: [n] int64, this rank's tokens of the row."""
        own = own[: self.live // self._context.size]
        sequence = torch.arange(len(self._lengths)).repeat_interleave(self._lengths)[own]
        each = (self._lengths // self._parts)[sequence]
        position = own - self._before()[sequence]
        part = position // each
        (early, total), (late, _) = (self._starts(self._parts, call) for call in (0, 1))
        start = torch.where(part < self._context.size, early[sequence], late[sequence])
        return PaddedSlots.of(start + position - part * each, total)

    def buckets(self, dtype: torch.dtype, device: torch.device) -> tuple[AttentionBatch, ...]:
        rank, last = self._context.rank, self._parts - 1 - self._context.rank
        made = []
        for members, length in zip(self._members, self._padded, strict=True):
            lengths = self._lengths[members]
            parts = (0,) if self._parts == 1 else (rank, last)
            masks = [None if self._parts == 1 else _mask(lengths // self._parts, part, dtype, device) for part in parts]
            each = length // self._parts
            calls = (
                AttentionCall(len(members), each, (p + 1) * each, mask) for p, mask in zip(parts, masks, strict=True)
            )
            made.append(AttentionBatch(len(members), length, tuple(calls)))
        return tuple(made)

    def _before(self) -> Tensor:
        """Where each sequence starts in the row, [N]."""
        return self._lengths.cumsum(0) - self._lengths

    def _starts(self, parts: int, call: int) -> tuple[Tensor, int]:
        """Where each sequence's slots of that call start, [N], and how many slots there are, when of each sequence only one
        part of ``parts`` has a slot in each call."""
        starts, slots = torch.zeros(len(self._lengths), dtype=torch.int64), 0
        calls = 1 if parts == 1 else 2
        for members, length in zip(self._members, self._padded, strict=True):
            block = len(members) * (length // parts)
            first = slots + (call % calls) * block
            starts[members] = first + torch.arange(len(members)) * (length // parts)
            slots += calls * block
        return starts, slots


def _mask(lengths: Tensor, part: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """For queries of one part of some sequences; None where the parts ``lengths`` [count], longest first, are all equal."""
    longest = int(lengths[0])
    if int(lengths[-1]) == longest:
        return None
    position = part * lengths[:, None] + torch.arange(longest)
    hidden = torch.arange((part + 1) * longest) > position[..., None]
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))[:, None].to(device)

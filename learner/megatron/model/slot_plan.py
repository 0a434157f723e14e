"""Plans which sequences of a packed row attend together, and in which padded slots.

Sequences of similar length attend together in one padded call; a rank under context parallelism needs two calls, for its
early and its late block of each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.megatron.model.context_parallel import ContextGroup, copy_to

# Tokens that any sequence may be padded by, whatever its length: a call of its own costs more than that little arithmetic.
_FREE_PADDING = 64
# Under context parallelism, sequences of unequal length need a mask to share a call. Longer ones than this do not share one.
_LONGEST_MASKED = 1024


@dataclass(frozen=True)
class PaddedSlots:
    """The mapping between packed tokens and padded slots; each token has one slot.

    Attributes:
        gather: [M] int64, the token in each slot; a slot of padding reads token 0, and its result is not used.
        restore: [live] int64, the slot of each token.
    """

    gather: Tensor
    restore: Tensor

    @classmethod
    def of(cls, restore: Tensor, count: int) -> PaddedSlots:
        """Builds the mapping from the slot of each token and the number of slots."""
        gather = torch.zeros(count, dtype=torch.int64)
        gather[restore] = torch.arange(len(restore))
        return cls(gather, restore)

    def to(self, device: torch.device) -> PaddedSlots:
        """A copy on ``device``, made without waiting for it."""
        return PaddedSlots(copy_to(self.gather, device), copy_to(self.restore, device))


@dataclass(frozen=True)
class AttentionCall:
    """One call of the attention kernel: queries of several sequences.

    Attributes:
        count: number of sequences.
        queries: query slots of each sequence.
        seen: number of keys, counted from the start of each sequence, that the call reads.
        mask: [count, 1, queries, seen] model dtype, 0 or -inf. None: query i sees key j if j <= i + seen - queries.
    """

    count: int
    queries: int
    seen: int
    mask: Tensor | None = None


@dataclass(frozen=True)
class AttentionBatch:
    """Sequences of similar length: ``count`` of them, each padded to ``length`` keys, and the calls that attend to them."""

    count: int
    length: int
    calls: tuple[AttentionCall, ...]


class SlotPlan:
    """Which sequences attend together, and in which slots.

    Sequences are sorted by length, longest first; each joins the batch before it unless that would pad it too much. The
    sequences of a batch have their slots one after another. For queries under context parallelism, where a rank holds an
    early and a late block of each sequence, the slots of all early blocks of the batch come before those of its late blocks.
    """

    def __init__(self, lengths: Tensor, context: ContextGroup) -> None:
        self._lengths = lengths
        self._context = context
        self._blocks = 2 * context.size if context.size > 1 else 1  # per sequence
        self.live = int(lengths.sum())
        self._batches: list[list[int]] = []  # indices of each batch's sequences
        sizes = lengths.tolist()
        for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
            if not self._batches or not self._may_join(sizes[i], sizes[self._batches[-1][0]]):
                self._batches.append([])
            self._batches[-1].append(i)
        self._padded = [sizes[members[0]] for members in self._batches]  # length in slots of each batch's sequences

    def _may_join(self, length: int, longest: int) -> bool:
        if self._context.size == 1:
            return length >= min(longest * 3 // 4, longest - _FREE_PADDING)
        return length == longest or (longest <= _LONGEST_MASKED and length >= longest - _FREE_PADDING)

    def keys(self, owners: Tensor) -> PaddedSlots:
        """Slots of the keys of all tokens, which are gathered in the order of the ranks.

        Args:
            owners: [T] int64, index of the context rank that holds each token.
        """
        starts, total = self._starts(1, 0)
        slot = torch.arange(self.live) + (starts - self._offsets()).repeat_interleave(self._lengths)
        return PaddedSlots.of(slot[owners[: self.live].argsort(stable=True)], total)

    def queries(self, own: Tensor) -> PaddedSlots:
        """Slots of the queries of this rank's tokens.

        Args:
            own: [n] int64, indices in the row of this rank's tokens.
        """
        own = own[: self.live // self._context.size]
        sequence = torch.arange(len(self._lengths)).repeat_interleave(self._lengths)[own]
        block_size = (self._lengths // self._blocks)[sequence]
        position = own - self._offsets()[sequence]
        block = position // block_size
        (early, total), (late, _) = (self._starts(self._blocks, call) for call in (0, 1))
        start = torch.where(block < self._context.size, early[sequence], late[sequence])
        return PaddedSlots.of(start + position - block * block_size, total)

    def attention_batches(self, dtype: torch.dtype, device: torch.device) -> tuple[AttentionBatch, ...]:
        """The batches and their calls, in the order of their slots; masks are on ``device``."""
        rank, last = self._context.rank, self._blocks - 1 - self._context.rank
        blocks = (0,) if self._blocks == 1 else (rank, last)  # that this rank holds of each sequence
        made = []
        for members, length in zip(self._batches, self._padded, strict=True):
            sizes, size = self._lengths[members] // self._blocks, length // self._blocks
            masks = [None if self._blocks == 1 else _mask(sizes, block, dtype, device) for block in blocks]
            calls = (
                AttentionCall(len(members), size, (block + 1) * size, mask)
                for block, mask in zip(blocks, masks, strict=True)
            )
            made.append(AttentionBatch(len(members), length, tuple(calls)))
        return tuple(made)

    def _offsets(self) -> Tensor:
        """Index in the row of each sequence's first token, [N]."""
        return self._lengths.cumsum(0) - self._lengths

    def _starts(self, blocks: int, call: int) -> tuple[Tensor, int]:
        """First slot of each sequence, [N], and the number of slots of all calls together.

        Args:
            blocks: blocks that each sequence is split into. If more than 1, a batch has two calls, each with one block of
                every sequence; else one call with whole sequences.
            call: the call whose slots are asked for, 0 or 1.
        """
        starts, slots = torch.zeros(len(self._lengths), dtype=torch.int64), 0
        calls = 1 if blocks == 1 else 2
        for members, length in zip(self._batches, self._padded, strict=True):
            call_slots = len(members) * (length // blocks)
            first = slots + (call % calls) * call_slots
            starts[members] = first + torch.arange(len(members)) * (length // blocks)
            slots += calls * call_slots
        return starts, slots


def _mask(sizes: Tensor, block: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Mask for the queries of one block of several sequences, or None if all their blocks have one size.

    Args:
        sizes: [count], size of each sequence's blocks, largest first.
        block: index of the block within its sequence.

    Returns:
        [count, 1, size, (block + 1) * size] with ``size`` the largest block's, 0 or -inf.
    """
    largest = int(sizes[0])
    if int(sizes[-1]) == largest:
        return None
    position = block * sizes[:, None] + torch.arange(largest)
    hidden = torch.arange((block + 1) * largest) > position[..., None]
    return copy_to(torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))[:, None], device)

"""Packing: sequences into micro-batches, balanced over data-parallel ranks and micro-batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence as Sequences
from dataclasses import dataclass

import torch

from learner.batch.types import Batch, MicroBatch, Sequence

_EVEN = 1.01  # a bin so much above the mean is even enough


@dataclass(frozen=True)
class Layout:
    """What packing has to respect.

    Attributes:
        data_ranks: data-parallel size; every rank gets the same number of micro-batches.
        min_micro_batches: per rank; the pipeline's depth keeps every stage busy.
        max_tokens: token budget of a micro-batch; a longer single sequence gets one of its own size.
        multiple: what one context rank holds of a micro-batch is padded to a multiple of this (the tensor-parallel size under
            sequence parallelism).
        context: ranks that share each micro-batch. With more than one, every sequence is padded to a multiple of twice as
            many, which is how many parts it is cut into (learner.megatron.context).
    """

    data_ranks: int = 1
    min_micro_batches: int = 1
    max_tokens: int = 16_384
    multiple: int = 1
    context: int = 1

    @property
    def parts(self) -> int:
        """A sequence is padded to a multiple of this."""
        return 2 * self.context if self.context > 1 else 1

    @property
    def row(self) -> int:
        """A micro-batch is padded to a multiple of this."""
        return math.lcm(self.parts, self.context * self.multiple)


def pack(sequences: Sequences[Sequence], layout: Layout, data_rank: int = 0) -> Batch:
    """Cuts a step's sequences into micro-batches and returns those of ``data_rank``.

    Deterministic: every rank that calls it with the same sequences gets the same cut. A sequence is never split, so every
    per-response sum is complete in one micro-batch. Each micro-batch is as long as what is in it, so that only the balance
    between ranks can waste time.

    Raises:
        ValueError: no sequences, or only some of them carry versions, behaviour or reference log-probabilities.
    """
    if not sequences:
        raise ValueError("pack: no sequences")
    carried = _carried(sequences)
    bins = _bins([_up(len(sequence.tokens), layout.parts) for sequence in sequences], layout)[data_rank]
    return Batch(
        micro_batches=[_micro_batch([sequences[i] for i in members], layout, carried) for members in bins],
        members=bins,
        sequences=len(sequences),
        tokens=sum(len(sequence.tokens) for sequence in sequences),
    )


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def idle(layout: Layout) -> MicroBatch:
    """A micro-batch of padding alone, which carries no loss."""
    return _micro_batch([], layout, [])


def _bins(lengths: list[int], layout: Layout) -> list[list[list[int]]]:
    """For each rank, the indices of the sequences of each micro-batch: as many micro-batches as the budget asks for.

    The sequences of a rank are chosen first: equal work for the ranks, whatever the micro-batches hold.
    """
    budget = max(layout.max_tokens, max(lengths))
    shares = _fill(lengths, layout.data_ranks)
    loads = [sum(lengths[i] for i in share) for share in shares]
    count = max(math.ceil(max(loads) / budget), layout.min_micro_batches)
    while True:
        cut = [
            [[share[i] for i in members] for members in _fill([lengths[i] for i in share], count)] for share in shares
        ]
        if max(sum(lengths[i] for i in members) for bins in cut for members in bins) <= budget:
            return cut
        count += 1


def _fill(lengths: list[int], count: int) -> list[list[int]]:
    """Longest first into the emptiest bin; then the fullest gives up what evens it out, until it is within 1% of the mean or
    nothing helps."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        emptiest = min(range(count), key=loads.__getitem__)
        bins[emptiest].append(index)
        loads[emptiest] += lengths[index]
    while max(loads) > _EVEN * sum(loads) / count:
        fullest = max(range(count), key=loads.__getitem__)
        emptier = sorted(range(count), key=loads.__getitem__)
        trades = (_trade(lengths, bins[fullest], bins[i], loads[fullest] - loads[i]) for i in emptier)
        found = next(((i, trade) for i, trade in zip(emptier, trades, strict=True) if trade), None)
        if found is None:
            break
        other, (given, taken) = found
        bins[fullest] = [i for i in bins[fullest] if i != given] + taken
        bins[other] = [i for i in bins[other] if i not in taken] + [given]
        moved = lengths[given] - sum(lengths[i] for i in taken)
        loads[fullest] -= moved
        loads[other] += moved
    return bins


def _trade(lengths: list[int], full: list[int], other: list[int], gap: int) -> tuple[int, list[int]] | None:
    """Which sequence should leave the full bin, and which one, if any, come back for it: what brings two bins that are
    ``gap`` tokens apart closest together. None: nothing does."""
    best, least = None, gap
    for given in full:
        for taken in ([], *([i] for i in other)):
            left = abs(gap - 2 * (lengths[given] - sum(lengths[i] for i in taken)))
            if left < least:
                best, least = (given, taken), left
    return best


_OPTIONAL = {"behaviour_logp": torch.float32, "reference_logp": torch.float32, "version": torch.int64}


def _carried(sequences: Sequences[Sequence]) -> list[str]:
    """Which optional per-token fields the sequences carry: all of them or none."""
    carried = []
    for name in _OPTIONAL:
        there = [getattr(sequence, name) is not None for sequence in sequences]
        if any(there) and not all(there):
            raise ValueError(f"pack: {name} is missing in {there.count(False)} of {len(there)} sequences: all or none")
        if all(there):
            carried.append(name)
    return carried


def _micro_batch(sequences: list[Sequence], layout: Layout, carried: list[str]) -> MicroBatch:
    lengths = [_up(len(sequence.tokens), layout.parts) for sequence in sequences]
    width = _up(max(1, sum(lengths)), layout.row)
    if sum(lengths) < width:
        lengths.append(width - sum(lengths))

    def row(fields: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Per-token fields of the sequences side by side, zero in the padding."""
        out = torch.zeros(width, dtype=dtype)
        for field, start in zip(fields, itertools.accumulate(lengths, initial=0), strict=False):
            out[start : start + len(field)] = field
        return out

    tokens = row([sequence.tokens for sequence in sequences], torch.int64)
    generated = row([sequence.generated for sequence in sequences], torch.bool)
    sizes = torch.tensor(lengths)
    ends = sizes.cumsum(0)
    starts = ends - sizes
    positions = torch.arange(width) - starts.repeat_interleave(sizes)
    owner = torch.arange(len(lengths)).repeat_interleave(sizes)
    # Position i predicts token i + 1, so the first token of a sequence is predicted by nobody.
    predicted = generated.clone()
    predicted[starts] = False
    target_index = predicted.nonzero().flatten()
    loss_row = owner[target_index]
    optional = {
        name: row([getattr(sequence, name) for sequence in sequences], _OPTIONAL[name])[target_index]
        for name in carried
    }
    temperature = torch.tensor([sequence.temperature for sequence in sequences] or [1.0], dtype=torch.float32)
    return MicroBatch(
        tokens=tokens[None],
        positions=positions[None],
        cu_seqlens=torch.cat([torch.zeros(1, dtype=torch.int64), ends]).int(),
        max_seqlen=max(lengths),
        loss_index=target_index - 1,
        loss_target=tokens[target_index],
        loss_row=loss_row,
        temperature=temperature[loss_row],
        advantage=torch.tensor([sequence.advantage for sequence in sequences], dtype=torch.float32),
        weight=torch.tensor([sequence.weight for sequence in sequences], dtype=torch.float32),
        **optional,
    )

"""Packing: sequences into micro-batches, balanced over data-parallel ranks and micro-batches."""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterable
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
            many, which is how many parts it is cut into (learner.megatron.model.context_parallel).
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
    shares = _share(lengths, layout.data_ranks)
    tight = [_tight(lengths, share, budget) for share in shares]
    count = max(layout.min_micro_batches, *map(len, tight))
    return [_cut(lengths, bins, count, budget) for bins in tight]


def _cut(lengths: list[int], tight: list[list[int]], count: int, budget: int) -> list[list[int]]:
    """``count`` micro-batches of what is in fewer that keep to the budget: about equal ones where those keep to it too."""
    even = _even(lengths, list(itertools.chain(*tight)), count)
    if max(sum(lengths[i] for i in members) for members in even) <= budget:
        return even
    bins = list(tight)
    while len(bins) < count:
        most = max(range(len(bins)), key=lambda i: len(bins[i]))
        bins += _even(lengths, bins.pop(most), 2)
    return bins


def _tight(lengths: list[int], members: list[int], budget: int) -> list[list[int]]:
    """As few bins as best-fit decreasing finds: the longest first, each where it leaves least room."""
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what is left and in which bin, ascending
    for index in _longest_first(lengths, members):
        place = bisect.bisect_left(rooms, (lengths[index], 0))
        if place == len(rooms):
            bins.append([])
            room, number = budget, len(bins) - 1
        else:
            room, number = rooms.pop(place)
        bins[number].append(index)
        bisect.insort(rooms, (room - lengths[index], number))
    return bins


def _even(lengths: list[int], members: list[int], count: int) -> list[list[int]]:
    """The longest first, each into the emptiest of ``count`` bins."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]
    for index in _longest_first(lengths, members):
        load, number = loads[0]
        bins[number].append(index)
        heapq.heapreplace(loads, (load + lengths[index], number))
    return bins


def _longest_first(lengths: list[int], members: Iterable[int]) -> list[int]:
    return sorted(members, key=lambda i: (-lengths[i], i))


def _share(lengths: list[int], ranks: int) -> list[list[int]]:
    """Equal work: the fullest rank gives up what evens it out, until it is within 1% of the mean or nothing helps."""
    bins = _even(lengths, list(range(len(lengths))), ranks)
    loads = [sum(lengths[i] for i in members) for members in bins]
    while max(loads) > _EVEN * sum(loads) / ranks:
        fullest = max(range(ranks), key=loads.__getitem__)
        emptier = sorted(range(ranks), key=loads.__getitem__)
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

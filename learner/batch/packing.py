"""Packing: sequences into micro-batches, balanced over data-parallel ranks and micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence as Sequences
from dataclasses import dataclass

import torch

from learner.batch.types import Batch, MicroBatch, Sequence


@dataclass(frozen=True)
class Layout:
    """What packing has to respect.

    Attributes:
        data_ranks: data-parallel size; every rank gets the same number of micro-batches.
        min_micro_batches: per rank; the pipeline's depth keeps every stage busy.
        max_tokens: token budget of a micro-batch; a longer single sequence gets one of its own size.
        multiple: micro-batch lengths are padded to a multiple of this (the tensor-parallel size under sequence parallelism).
        one_length: every micro-batch is padded to the longest, because pipeline stages exchange tensors of one shape.
            Otherwise each is as long as what is in it, and only the balance between ranks can waste time.
    """

    data_ranks: int = 1
    min_micro_batches: int = 1
    max_tokens: int = 16_384
    multiple: int = 1
    one_length: bool = True


def pack(sequences: Sequences[Sequence], layout: Layout, data_rank: int = 0) -> Batch:
    """Cuts a step's sequences into micro-batches and returns those of ``data_rank``.

    Deterministic: every rank that calls it with the same sequences gets the same cut. Longest first into the emptiest
    micro-batch; a sequence is never split, so every per-response sum is complete in one micro-batch.

    Raises:
        ValueError: no sequences, or only some of them carry versions, behaviour or reference log-probabilities.
    """
    if not sequences:
        raise ValueError("pack: no sequences")
    carried = _carried(sequences)
    lengths = [len(sequence.tokens) for sequence in sequences]
    bins = _equal_bins(lengths, layout) if layout.one_length else _own_bins(lengths, layout)
    loads = [[max(1, sum(lengths[i] for i in members)) for members in share] for share in bins]
    widths = [[-(-load // layout.multiple) * layout.multiple for load in share] for share in loads]
    longest = max(map(max, widths))
    mine = bins[data_rank]
    each = [longest] * len(mine) if layout.one_length else widths[data_rank]
    return Batch(
        micro_batches=[
            _micro_batch([sequences[i] for i in members], width, carried)
            for members, width in zip(mine, each, strict=True)
        ],
        members=mine,
        tokens_per_micro_batch=max(each),
        sequences=len(sequences),
        tokens=sum(len(sequence.tokens) for sequence in sequences),
    )


def idle(width: int) -> MicroBatch:
    """A micro-batch of padding alone, which carries no loss."""
    return _micro_batch([], width, [])


def _equal_bins(lengths: list[int], layout: Layout) -> list[list[list[int]]]:
    """For each rank, the indices of the sequences of each micro-batch; as many micro-batches as the budget and the ranks
    ask for, all about equally full."""
    budget = max(layout.max_tokens, max(lengths))
    count = max(math.ceil(sum(lengths) / budget), layout.min_micro_batches * layout.data_ranks)
    while True:
        count = -(-count // layout.data_ranks) * layout.data_ranks
        bins, loads = _fill(lengths, count)
        if max(loads) <= budget:
            return [bins[rank :: layout.data_ranks] for rank in range(layout.data_ranks)]
        count += 1


def _own_bins(lengths: list[int], layout: Layout) -> list[list[list[int]]]:
    """The same, but each rank's sequences are chosen first: equal work for the ranks, whatever the micro-batches hold."""
    budget = max(layout.max_tokens, max(lengths))
    shares, loads = _fill(lengths, layout.data_ranks)
    count = max(math.ceil(max(loads) / budget), layout.min_micro_batches)
    while True:
        cut = [_fill([lengths[i] for i in share], count) for share in shares]
        if max(max(loads) for _, loads in cut) <= budget:
            return [
                [[share[i] for i in members] for members in bins] for share, (bins, _) in zip(shares, cut, strict=True)
            ]
        count += 1


def _fill(lengths: list[int], count: int) -> tuple[list[list[int]], list[int]]:
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        emptiest = min(range(count), key=loads.__getitem__)
        bins[emptiest].append(index)
        loads[emptiest] += lengths[index]
    return bins, loads


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


def _micro_batch(sequences: list[Sequence], width: int, carried: list[str]) -> MicroBatch:
    lengths = [len(sequence.tokens) for sequence in sequences]
    used = sum(lengths)
    if used < width:
        lengths.append(width - used)
    tokens = torch.zeros(width, dtype=torch.int64)
    generated = torch.zeros(width, dtype=torch.bool)
    if sequences:
        tokens[:used] = torch.cat([sequence.tokens for sequence in sequences])
        generated[:used] = torch.cat([sequence.generated for sequence in sequences])
    sizes = torch.tensor(lengths)
    ends = sizes.cumsum(0)
    starts = ends - sizes
    positions = torch.arange(width) - starts.repeat_interleave(sizes)
    owner = torch.arange(len(lengths)).repeat_interleave(sizes)
    # Position i predicts token i + 1, so the first token of a sequence is predicted by nobody.
    predicted = generated.clone()
    predicted[starts] = False
    target_index = predicted.nonzero().flatten()
    row = owner[target_index]
    optional = {
        name: torch.cat([torch.zeros(0, dtype=_OPTIONAL[name]), *(getattr(sequence, name) for sequence in sequences)])[
            target_index
        ]
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
        loss_row=row,
        temperature=temperature[row],
        advantage=torch.tensor([sequence.advantage for sequence in sequences], dtype=torch.float32),
        weight=torch.tensor([sequence.weight for sequence in sequences], dtype=torch.float32),
        **optional,
    )

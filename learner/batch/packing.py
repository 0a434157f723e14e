"""Packing: sequences into equally long micro-batches, balanced over data-parallel ranks and micro-batches."""

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
    """

    data_ranks: int = 1
    min_micro_batches: int = 1
    max_tokens: int = 16_384
    multiple: int = 1


def pack(sequences: Sequences[Sequence], layout: Layout, data_rank: int = 0) -> Batch:
    """Cuts a step's sequences into micro-batches and returns those of ``data_rank``.

    Deterministic: every rank that calls it with the same sequences gets the same cut. Longest first into the emptiest
    micro-batch; a sequence is never split, so every per-response sum is complete in one micro-batch.

    Raises:
        ValueError: no sequences, or only some of them carry behaviour or reference log-probabilities.
    """
    if not sequences:
        raise ValueError("pack: no sequences")
    carried = _carried(sequences)
    bins = _bins([len(sequence.tokens) for sequence in sequences], layout)
    longest = max(sum(len(sequences[i].tokens) for i in members) for members in bins)
    width = -(-longest // layout.multiple) * layout.multiple
    mine = bins[data_rank :: layout.data_ranks]
    return Batch(
        micro_batches=[_micro_batch([sequences[i] for i in members], width, carried) for members in mine],
        tokens_per_micro_batch=width,
        sequences=len(sequences),
        tokens=sum(len(sequence.tokens) for sequence in sequences),
    )


def _bins(lengths: list[int], layout: Layout) -> list[list[int]]:
    """Indices of the sequences of each micro-batch; as many micro-batches as the budget and the ranks ask for."""
    budget = max(layout.max_tokens, max(lengths))
    count = max(math.ceil(sum(lengths) / budget), layout.min_micro_batches * layout.data_ranks)
    while True:
        count = -(-count // layout.data_ranks) * layout.data_ranks
        bins, loads = _fill(lengths, count)
        if max(loads) <= budget:
            return bins
        count += 1


def _fill(lengths: list[int], count: int) -> tuple[list[list[int]], list[int]]:
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        emptiest = min(range(count), key=loads.__getitem__)
        bins[emptiest].append(index)
        loads[emptiest] += lengths[index]
    return bins, loads


def _carried(sequences: Sequences[Sequence]) -> list[str]:
    """Which optional per-token fields the sequences carry: all of them or none."""
    carried = []
    for name in ("behaviour_logp", "reference_logp"):
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
        name: torch.cat([torch.zeros(0), *(getattr(sequence, name) for sequence in sequences)])[target_index]
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

"""Packs some of a batch's loss tokens into a batch of their own: those that one version generated, or a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from learner.batch.packing import Layout, pack, padding_only
from learner.batch.types import Batch, MicroBatch, Sequence

# Per-token fields of MicroBatch, each [L].
TokenField = Literal["loss_row", "behaviour_logp", "reference_logp", "version"]


@dataclass(frozen=True)
class BatchSubset:
    """A batch that predicts only some of another batch's loss tokens.

    Attributes:
        batch: the smaller batch. Its advantages and weights are 0, unless all tokens were chosen.
        origin: for each of its micro-batches, [l] int64: indices of its loss tokens among those of the whole batch, counted
            through all micro-batches.
    """

    batch: Batch
    origin: list[Tensor]


def flatten(batch: Batch, field: TokenField) -> Tensor:
    """Concatenates a per-token field over the micro-batches: [L of all micro-batches]. No micro-batch may lack it."""
    return torch.cat([getattr(micro_batch, field) for micro_batch in batch.micro_batches])


def with_field(batch: Batch, field: TokenField, values: Tensor) -> Batch:
    """Returns the batch with ``values`` [L of all micro-batches] as that field: the inverse of ``flatten``."""
    pieces = values.split([len(micro_batch.loss_row) for micro_batch in batch.micro_batches])
    changed = [replace(one, **{field: piece}) for one, piece in zip(batch.micro_batches, pieces, strict=True)]
    return replace(batch, micro_batches=changed)


def select_tokens(batch: Batch, chosen: Tensor, layout: Layout) -> BatchSubset | None:
    """Packs the chosen loss tokens anew; None if none is chosen.

    Segments without chosen tokens are left out, and each segment ends with its last chosen token: a causal model does not
    need what follows. Every segment becomes a sequence of its own, as nothing is summed by response here.

    Args:
        batch: the whole batch of one data rank.
        chosen: [L of all micro-batches] bool.
        layout: layout of the new batch, with data_ranks = 1.
    """
    sizes = [len(micro_batch.loss_row) for micro_batch in batch.micro_batches]
    if bool(chosen.all()):
        return BatchSubset(batch, list(torch.arange(len(chosen)).split(sizes)))
    sequences: list[Sequence] = []
    indices: list[Tensor] = []
    first = 0
    for micro_batch, mine in zip(batch.micro_batches, chosen.split(sizes), strict=True):
        for sequence, tokens in _segments(micro_batch, mine.nonzero().flatten()):
            sequences.append(sequence)
            indices.append(first + tokens)
        first += len(mine)
    if not sequences:
        return None
    packed = pack(sequences, layout)
    nothing = torch.zeros(0, dtype=torch.int64)
    return BatchSubset(packed, [torch.cat([nothing, *(indices[i] for i in members)]) for members in packed.members])


def padded_to(subset: BatchSubset | None, count: int, layout: Layout) -> BatchSubset:
    """Appends micro-batches of nothing but padding, up to ``count``: for ranks that must all run the same number.

    Args:
        subset: the batch to extend; None for an empty one.
        count: number of micro-batches in the result.
        layout: layout that the subset was packed with.
    """
    batch = Batch([], [], 0, 0) if subset is None else subset.batch
    missing = count - len(batch.micro_batches)
    batch = replace(
        batch,
        micro_batches=[*batch.micro_batches, *[padding_only(layout)] * missing],
        members=[*batch.members, *[[]] * missing],
    )
    origin = [] if subset is None else subset.origin
    return BatchSubset(batch, [*origin, *[torch.zeros(0, dtype=torch.int64)] * missing])


def _segments(micro_batch: MicroBatch, chosen: Tensor) -> Iterator[tuple[Sequence, Tensor]]:
    """Yields every segment that has chosen loss tokens ([l] int64, ascending), with the indices of its chosen ones."""
    bounds = micro_batch.cu_seqlens.long()
    owner = torch.searchsorted(bounds, micro_batch.loss_index[chosen], right=True) - 1
    segments, counts = owner.unique_consecutive(return_counts=True)
    for segment, tokens in zip(segments.tolist(), chosen.split(counts.tolist()), strict=True):
        start = int(bounds[segment])
        targets = micro_batch.loss_index[tokens] + 1 - start
        length = int(targets[-1]) + 1
        generated = torch.zeros(length, dtype=torch.bool)
        generated[targets] = True
        temperature = float(micro_batch.temperature[tokens[0]])
        part = slice(start, start + length)
        routed = None if micro_batch.routed is None else micro_batch.routed[part]
        yield Sequence(micro_batch.tokens[0, part], generated, 0.0, 0.0, temperature, routed=routed), tokens

"""Some of a batch's loss tokens, packed anew: what one version generated, or a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from learner.batch.packing import Layout, idle, pack
from learner.batch.types import Batch, MicroBatch, Sequence

Field = Literal["loss_row", "behaviour_logp", "reference_logp", "version"]


@dataclass(frozen=True)
class BatchSubset:
    """A batch of its own that predicts some of another one's loss tokens, and nothing else. Advantages are zero.

    Attributes:
        origin: for each micro-batch [l] int64: where its loss tokens stand among those of the whole batch, counted through
            all micro-batches.
    """

    batch: Batch
    origin: list[Tensor]


def flatten(batch: Batch, field: Field) -> Tensor:
    """A per-token field of all loss tokens of this data rank, [L of all micro-batches]. It must be there."""
    return torch.cat([getattr(micro_batch, field) for micro_batch in batch.micro_batches])


def spread(batch: Batch, field: Field, values: Tensor) -> Batch:
    """The batch with ``values`` [L of all micro-batches] as that field: the inverse of ``flatten``."""
    pieces = values.split([len(micro_batch.loss_row) for micro_batch in batch.micro_batches])
    changed = [replace(one, **{field: piece}) for one, piece in zip(batch.micro_batches, pieces, strict=True)]
    return replace(batch, micro_batches=changed)


def subset(batch: Batch, chosen: Tensor, layout: Layout) -> BatchSubset | None:
    """The chosen loss tokens; sequences without any are left out, and what follows a sequence's last is cut off: a causal
    model does not need it. None when none is chosen.

    Args:
        chosen: [L of all micro-batches] bool.
        layout: of the part; for one data rank.
    """
    sizes = [len(micro_batch.loss_row) for micro_batch in batch.micro_batches]
    if bool(chosen.all()):
        return BatchSubset(batch, list(torch.arange(len(chosen)).split(sizes)))
    sequences: list[Sequence] = []
    places: list[Tensor] = []
    first = 0
    for micro_batch, mine in zip(batch.micro_batches, chosen.split(sizes), strict=True):
        for sequence, tokens in _sequences(micro_batch, mine.nonzero().flatten()):
            sequences.append(sequence)
            places.append(first + tokens)
        first += len(mine)
    if not sequences:
        return None
    packed = pack(sequences, layout)
    nothing = torch.zeros(0, dtype=torch.int64)
    return BatchSubset(packed, [torch.cat([nothing, *(places[i] for i in members)]) for members in packed.members])


def lengthened(subset: BatchSubset | None, count: int, layout: Layout) -> BatchSubset:
    """The part, or nothing, with micro-batches of padding up to ``count``: for ranks that work together and have not all got
    as much to do.

    Args:
        layout: that the part was packed with.
    """
    batch = Batch([], [], 0, 0) if subset is None else subset.batch
    missing = count - len(batch.micro_batches)
    batch = replace(
        batch,
        micro_batches=[*batch.micro_batches, *[idle(layout)] * missing],
        members=[*batch.members, *[[]] * missing],
    )
    origin = [] if subset is None else subset.origin
    return BatchSubset(batch, [*origin, *[torch.zeros(0, dtype=torch.int64)] * missing])


def _sequences(micro_batch: MicroBatch, chosen: Tensor) -> Iterator[tuple[Sequence, Tensor]]:
    """The sequences that hold the chosen loss tokens [l] int64, each with those it holds."""
    rows, counts = micro_batch.loss_row[chosen].unique_consecutive(return_counts=True)
    for row, tokens in zip(rows.tolist(), chosen.split(counts.tolist()), strict=True):
        start = int(micro_batch.cu_seqlens[row])
        targets = micro_batch.loss_index[tokens] + 1 - start
        length = int(targets[-1]) + 1
        generated = torch.zeros(length, dtype=torch.bool)
        generated[targets] = True
        temperature = float(micro_batch.temperature[tokens[0]])
        yield Sequence(micro_batch.tokens[0, start : start + length], generated, 0.0, 0.0, temperature), tokens

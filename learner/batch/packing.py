"""Packs a step's sequences into micro-batches, balanced over data-parallel ranks and micro-batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator
from collections.abc import Sequence as Sequences
from dataclasses import dataclass, replace

import torch

from learner.batch.bins import assign
from learner.batch.types import Batch, MicroBatch, Sequence


@dataclass(frozen=True)
class Layout:
    """Sizes that packing has to respect.

    Attributes:
        data_ranks: data-parallel size; every rank gets the same number of micro-batches.
        min_micro_batches: fewest micro-batches per rank; as many as the pipeline has stages keep every stage busy.
        max_tokens: token budget of a micro-batch; a single longer sequence gets a micro-batch of its own size.
        multiple: each context rank's share of a micro-batch is padded to a multiple of this (the tensor-parallel size under
            sequence parallelism).
        context: ranks that share each micro-batch. With more than one, every sequence is padded to a multiple of twice as
            many, because it is cut into that many chunks (learner.megatron.model.context_parallel). Segments of a response
            are sequences here: each is padded by itself.
    """

    data_ranks: int = 1
    min_micro_batches: int = 1
    max_tokens: int = 16_384
    multiple: int = 1
    context: int = 1

    @property
    def sequence_multiple(self) -> int:
        """Every sequence is padded to a multiple of this many tokens."""
        return 2 * self.context if self.context > 1 else 1

    @property
    def row_multiple(self) -> int:
        """Every micro-batch is padded to a multiple of this many tokens."""
        return math.lcm(self.sequence_multiple, self.context * self.multiple)


def pack(sequences: Sequences[Sequence], layout: Layout, data_rank: int = 0) -> Batch:
    """Cuts a step's sequences into micro-batches and returns those of ``data_rank``.

    Deterministic: every rank that calls it with the same sequences gets the same cut. A sequence is never split, with all its
    segments, so every per-response sum is complete in one micro-batch. Each micro-batch is only as long as its sequences, so
    that nothing but an imbalance between ranks can waste time.

    Raises:
        ValueError: no sequences, or only some of them carry versions, behaviour or reference log-probabilities, or experts.
    """
    if not sequences:
        raise ValueError("pack: no sequences")
    carried = _carried(sequences)
    segments = [sequence.lengths for sequence in sequences]
    lengths = [_padded(each, layout) for each in segments]
    bins = assign(lengths, layout.data_ranks, layout.min_micro_batches, layout.max_tokens)[data_rank]
    return Batch(
        micro_batches=[_micro_batch([sequences[i] for i in members], layout, carried) for members in bins],
        members=bins,
        sequences=len(sequences),
        tokens=sum(map(sum, segments)),
        groups=1 + max(sequence.group for sequence in sequences),
    )


def _padded(segments: tuple[int, ...], layout: Layout) -> int:
    """Tokens of all segments of a response, with the padding of each."""
    return sum([_round_up(length, layout.sequence_multiple) for length in segments])


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def padding_only(layout: Layout) -> MicroBatch:
    """Makes a micro-batch of nothing but padding, which carries no loss."""
    return _micro_batch([], layout, [])


def without_groups(batch: Batch, groups: Collection[int], layout: Layout) -> Batch:
    """Leaves the sequences of some groups out, not even as context: whatever they hold cannot reach the gradient.

    The others stay on their rank and in their micro-batch, with their weights. So every rank can do it by itself, with what
    was added to the batch since it was packed, and all ranks still have equally many micro-batches.

    Args:
        batch: the batch of one data rank.
        groups: indices of groups of the step.
        layout: the layout that the batch was packed with.
    """
    packed, members = [], []
    for micro_batch, old in zip(batch.micro_batches, batch.members, strict=True):
        kept = [row for row, group in enumerate(micro_batch.group.tolist()) if group not in groups]
        carried = [name for name in (*_OPTIONAL, _ROUTED) if getattr(micro_batch, name) is not None]
        packed.append(_micro_batch([_unpacked(micro_batch, row, carried) for row in kept], layout, carried))
        members.append([old[row] for row in kept])
    return replace(batch, micro_batches=packed, members=members)


def _unpacked(micro_batch: MicroBatch, row: int, carried: list[str]) -> Sequence:
    """Returns a sequence of a micro-batch, as it was before it was packed."""
    first, count = int(micro_batch.segments[:row].sum()), int(micro_batch.segments[row])
    bounds = micro_batch.cu_seqlens[first : first + count + 1].tolist()
    start, end = bounds[0], bounds[-1]
    own = micro_batch.loss_row == row
    real = micro_batch.real[start:end]
    length = int(real.sum())
    targets = (real.cumsum(0) - 1)[micro_batch.loss_index[own] + 1 - start]
    generated = torch.zeros(length, dtype=torch.bool)
    generated[targets] = True
    optional = {}
    for name in carried:
        if name == _ROUTED:
            optional[name] = getattr(micro_batch, name)[start:end][real]
            continue
        optional[name] = torch.zeros(length, dtype=_OPTIONAL[name])
        optional[name][targets] = getattr(micro_batch, name)[own]
    return Sequence(
        micro_batch.tokens[0, start:end][real],
        generated,
        float(micro_batch.advantage[row]),
        float(micro_batch.weight[row]),
        float(micro_batch.temperature[own][0]) if len(targets) else 1.0,
        group=int(micro_batch.group[row]),
        segments=tuple(int(real[a - start : b - start].sum()) for a, b in itertools.pairwise(bounds)),
        **optional,
    )


# Optional per-token fields: of loss tokens in a micro-batch, and of all tokens.
_OPTIONAL = {"behaviour_logp": torch.float32, "reference_logp": torch.float32, "version": torch.int64}
_ROUTED = "routed"


def _carried(sequences: Sequences[Sequence]) -> list[str]:
    """Names of the optional per-token fields that the sequences carry. Raises ValueError if only some of them carry one."""
    carried = []
    for name in (*_OPTIONAL, _ROUTED):
        present = [getattr(sequence, name) is not None for sequence in sequences]
        if any(present) and not all(present):
            raise ValueError(
                f"pack: {name} is missing in {present.count(False)} of {len(present)} sequences: all or none"
            )
        if all(present):
            carried.append(name)
    return carried


def _micro_batch(sequences: list[Sequence], layout: Layout, carried: list[str]) -> MicroBatch:
    segments = [sequence.lengths for sequence in sequences]
    own = list(itertools.chain.from_iterable(segments))
    lengths = [_round_up(length, layout.sequence_multiple) for length in own]
    width = _round_up(max(1, sum(lengths)), layout.row_multiple)
    rest = width - sum(lengths)

    def row(name: str, dtype: torch.dtype) -> torch.Tensor:
        """Concatenates a per-token field of all segments, with zeros in the padding."""
        zeros = torch.zeros(max(rest, layout.sequence_multiple), dtype=dtype)
        pieces = []
        for field, used, length in zip(_by_segment(sequences, name), own, lengths, strict=True):
            pieces.append(field)
            if used < length:
                pieces.append(zeros[: length - used])
        return torch.cat([*pieces, zeros[:rest]]).to(dtype)

    tokens = row("tokens", torch.int64)
    generated = row("generated", torch.bool)
    padding = [rest] if rest else []
    sizes = torch.tensor(lengths + padding)
    ends = sizes.cumsum(0)
    starts = ends - sizes
    positions = torch.arange(width) - starts.repeat_interleave(sizes)
    used = torch.tensor(own + [0] * len(padding))
    real = positions < used.repeat_interleave(sizes)
    by_response = torch.tensor([_padded(each, layout) for each in segments] + padding)
    owner = torch.arange(len(by_response)).repeat_interleave(by_response)
    # Position i predicts token i + 1, so no position predicts the first token of a segment.
    predicted = generated.clone()
    predicted[starts] = False
    target_index = predicted.nonzero().flatten()
    loss_row = owner[target_index]
    optional = {name: row(name, _OPTIONAL[name])[target_index] for name in carried if name != _ROUTED}
    routed = _routed(sequences, real) if _ROUTED in carried else None
    if routed is not None:
        optional[_ROUTED] = routed
    temperature = torch.tensor([sequence.temperature for sequence in sequences] or [1.0], dtype=torch.float32)
    return MicroBatch(
        tokens=tokens[None],
        positions=positions[None],
        real=real,
        cu_seqlens=torch.cat([torch.zeros(1, dtype=torch.int64), ends]).int(),
        segments=torch.tensor([len(each) for each in segments], dtype=torch.int64),
        max_seqlen=max(lengths + padding),
        loss_index=target_index - 1,
        loss_target=tokens[target_index],
        loss_row=loss_row,
        temperature=temperature[loss_row],
        advantage=torch.tensor([sequence.advantage for sequence in sequences], dtype=torch.float32),
        weight=torch.tensor([sequence.weight for sequence in sequences], dtype=torch.float32),
        group=torch.tensor([sequence.group for sequence in sequences], dtype=torch.int64),
        **optional,
    )


def _routed(sequences: list[Sequence], real: torch.Tensor) -> torch.Tensor | None:
    """Experts to replay of a row's tokens, [T, layers, k] int16: none of padding. None without sequences."""
    records = [sequence.routed for sequence in sequences if sequence.routed is not None]
    if not records:
        return None
    routed = torch.full((len(real), *records[0].shape[1:]), -1, dtype=torch.int16)
    routed[real] = torch.cat(records)
    return routed


def _by_segment(sequences: list[Sequence], name: str) -> Iterator[torch.Tensor]:
    """Yields a per-token field of the sequences, segment after segment."""
    for sequence in sequences:
        field = getattr(sequence, name)
        if sequence.segments:
            yield from field.split(sequence.segments)
        else:
            yield field

"""Makes a training batch of the groups of a step: decodes, weighs and packs them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from learner.batch.packing import Layout, pack
from learner.batch.routing import Record, count_records
from learner.batch.sequences import to_sequences
from learner.batch.statistics import GroupStatistics, group_statistics
from learner.batch.types import Batch, MicroBatch, Sequence
from learner.batch.weighting import Weighting
from learner.intake.batch_source import TakenBatch
from runtime.routing_record import RoutingShape


@dataclass(frozen=True)
class PreparedBatch:
    """One step's groups, decoded and packed.

    Attributes:
        taken: the groups as they were taken from the queue.
        groups: statistics of the groups.
        sequences: training sequences, without records of experts; empty if the objective's weighting keeps none.
        batch: this data rank's part of them, packed; None if there are none.
        seconds: how long it took to make this of the groups.
        records: sequences by what becomes of their record of experts; empty where none is replayed.
    """

    taken: TakenBatch
    groups: GroupStatistics
    sequences: list[Sequence]
    batch: Batch | None
    seconds: float = 0.0
    records: Mapping[Record, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Preparation:
    """Makes the batch of one data rank; equal groups make the same cut on every rank.

    Attributes:
        weighting: the objective's weighting of sequences.
        layout: sizes that packing has to respect.
        max_staleness: optimizer steps within which a group counts as on time in the statistics.
        data_rank: index of the data rank.
        replayed: mixture layers in which the engine's choice of experts is replayed; None: in none.
        pinned: whether the batch is put into page-locked memory, from which a CUDA device copies without anyone waiting.
    """

    weighting: Weighting
    layout: Layout
    max_staleness: int
    data_rank: int = 0
    replayed: RoutingShape | None = None
    pinned: bool = False

    def prepare(self, taken: TakenBatch) -> PreparedBatch:
        """Decodes and packs the groups of a step.

        Raises:
            ValueError: see learner.batch.packing.pack.
        """
        began = time.monotonic()
        statistics = group_statistics(taken.groups, taken.staleness, self.max_staleness)
        sequences = to_sequences(taken.counted, self.weighting, self.replayed)
        records = {} if self.replayed is None else count_records(taken.counted, self.replayed)
        batch = pack(sequences, self.layout, self.data_rank) if sequences else None
        if self.replayed is not None:
            # Records are packed. Those of all ranks' sequences would fill the host's memory until the step ends.
            sequences = [replace(one, routed=None) for one in sequences]
        if batch is not None and self.pinned:
            batch = replace(batch, micro_batches=[_pinned(one) for one in batch.micro_batches])
        return PreparedBatch(taken, statistics, sequences, batch, time.monotonic() - began, records)


def _pinned(micro_batch: MicroBatch) -> MicroBatch:
    """Copies a micro-batch to page-locked memory."""
    locked = {name: value.pin_memory() for name, value in vars(micro_batch).items() if isinstance(value, Tensor)}
    return replace(micro_batch, **locked)

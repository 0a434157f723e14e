"""Collects the groups of one step from the queue, on rank 0, and decides when the step has enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from learner.batch.contrast import clear_tokens, counts
from learner.batch.weighting import Keep
from learner.config import LearnerConfig
from learner.intake.consumption import Consumption
from learner.queue import GroupRef, LearnerQueue, StillAwayError, TakenGroup
from leeway.v1 import rollout_pb2 as pb
from runtime.response_spans import spans_of

_PATIENCE_S = 2.0  # how long the queue may wait for Redis in one call: its outage is no reason to miss a heartbeat

# How a step's collection ends: it has groups_per_step groups that count; it has taken as many groups as learner.refill.most
# allows; a group in it is late and no other waits; take_timeout_s is over.
Ending = Literal["full", "most", "late", "timeout"]
ENDINGS: tuple[Ending, ...] = ("full", "most", "late", "timeout")


@dataclass
class _Collected:
    """Groups of a step so far.

    Attributes:
        counted: those that something is trained of; all, without refill.
        uncounted: the others, without their tokens.
        oldest: staleness in optimizer steps of the oldest group in ``counted``.
    """

    counted: list[tuple[GroupRef, pb.Group]] = field(default_factory=list)
    uncounted: list[tuple[GroupRef, pb.Group]] = field(default_factory=list)
    oldest: int = 0

    def __len__(self) -> int:
        return len(self.counted) + len(self.uncounted)


class StepGroups:
    """Takes groups until ``groups_per_step`` of them count, within the bounds of ``learner.refill``.

    A group that does not count is kept without its tokens, and frees its place in the capacity that gateways lease: what it
    is replaced by must be leased while the step still collects, also with max_staleness = 0.

    Waiting makes no group in hand staler, because staleness is counted in steps and the step is not made. So a step waits for
    groups that are still to be generated until it has its number, with one exception: once it has taken groups_per_step
    groups, as it would without refill, a group in hand that is late already (older than max_staleness) waits for none.

    Args:
        config: sizes and bounds.
        queue: the queue.
        keep: the objective's choice of responses, by which a group counts.
    """

    def __init__(self, config: LearnerConfig, queue: LearnerQueue, keep: Keep) -> None:
        self._config = config
        self._queue = queue
        self._keep: Keep = keep
        self._consumption = Consumption(config.groups_per_step, config.most_groups_per_step, queue.consumed)
        self._collected = _Collected()
        self._to_free: list[GroupRef] = []

    def __len__(self) -> int:
        """Groups collected so far, those included that do not count."""
        return len(self._collected)

    @property
    def counted(self) -> int:
        """Groups collected so far that count."""
        return len(self._collected.counted)

    def collect(self, step: int) -> Ending | None:
        """Takes once from the queue what the step lacks; returns how the collection has ended, None if it goes on.

        Args:
            step: number of the step, 0-based.
        """
        try:
            with self._queue.waiting_at_most(_PATIENCE_S):
                self._free()
                return self._collect(step)
        except StillAwayError:
            return None

    def cut_short(self) -> bool:
        """Whether the step may be made with what there is: as many groups as it would have without refill."""
        return len(self._collected) >= self._config.groups_per_step

    def hand_over(self) -> tuple[list[tuple[GroupRef, pb.Group]], int]:
        """Returns the step's groups, and how many of them, the last ones, do not count. Begins the next step's."""
        done, self._collected = self._collected, _Collected()
        self._consumption.add(len(done))
        self._queue.consumes(self._consumption.groups)
        return [*done.counted, *done.uncounted], len(done.uncounted)

    def staleness(self, step: int, groups: Sequence[pb.Group]) -> dict[int, int]:
        """Computes how many optimizer steps each version in the groups' spans is behind ``step``."""
        spans = (span for group in groups for response in group.responses[:] for span in spans_of(response))
        return {version: self._queue.staleness(version, step) for version in {span.version for span in spans}}

    def _collect(self, step: int) -> Ending | None:
        config, collected = self._config, self._collected
        least_waiting = (config.hold_staleness + 1) * self._consumption.groups
        if config.hold_staleness and not len(collected) and self._queue.waiting() < least_waiting:
            return None
        lacking = config.groups_per_step - len(collected.counted)
        asked = min(lacking, config.most_groups_per_step - len(collected))
        taken = self._queue.take(asked, step, config.expiry_bound)
        for one in taken:
            self._sort(one)
        if len(taken) < asked:  # the queue is empty: fleets may wait for the capacity
            self._free()
        if len(collected.counted) >= config.groups_per_step:
            return "full"
        if len(collected) >= config.most_groups_per_step:
            return "most"
        return "late" if not taken and self.cut_short() and collected.oldest > config.max_staleness else None

    def _sort(self, taken: TakenGroup) -> None:
        if not self._config.refill.enabled or counts(taken.group, self._keep):
            self._collected.counted.append((taken.ref, taken.group))
            self._collected.oldest = max(self._collected.oldest, taken.staleness)
        else:
            clear_tokens(taken.group)
            self._collected.uncounted.append((taken.ref, taken.group))
            self._to_free.append(taken.ref)

    def _free(self) -> None:
        """Frees the capacity of groups that do not count; a call that fails is made again by the next ``collect``."""
        if self._to_free:
            self._queue.free_capacity(self._to_free)
            self._to_free.clear()

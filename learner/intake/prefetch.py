"""The next step's groups are fetched and decoded while the current step trains.

Every rank has a thread for it, and the threads a process group of their own: training's collectives and theirs interleave
differently on every rank. The thread ends with each batch, so between two steps that nothing is fetched for there is none.

What was fetched and not trained is lost neither by a kill nor by a stop: its entries are pending in the queue, and the next
learner's first.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from learner.batch.sequences import to_sequences
from learner.batch.statistics import GroupStatistics, describe
from learner.batch.types import Sequence
from learner.batch.weighting import Weighting
from learner.config import LearnerConfig
from learner.intake.batch_source import BatchSource, TakenBatch
from learner.megatron.parallel import Ranks
from learner.queue import LearnerQueue

_POLL_S = 0.004  # while the loop waits for us
_POLL_AHEAD_S = 0.02  # while it trains: the interpreter is the loop's
_END_S = 30.0  # a heartbeat of the intake, several times over


@dataclass(frozen=True)
class PreparedBatch:
    """A step's groups, what they say before training, and the sequences made of them (``weighting`` may keep none)."""

    taken: TakenBatch
    groups: GroupStatistics
    sequences: list[Sequence]


class Prefetch:
    """Feeds the loop, one step ahead of it.

    With ``hold_staleness`` a step's groups are taken when it begins and no sooner: studies want that lag to the step.

    Args:
        config: of the intake.
        queue: on rank 0, None elsewhere. The thread takes from it; everything else stays the loop's.
        ranks: all of them make a Prefetch at the same time.
        stopping: asked on every rank before every step, and on rank 0 before every wait; True on any ends the run cleanly.
        alive: called while the loop waits for us, and only then: a thread that waits for groups says nothing about a loop
            that hangs in a collective.
        weighting: the objective's.
    """

    def __init__(
        self,
        config: LearnerConfig,
        queue: LearnerQueue | None,
        ranks: Ranks,
        stopping: Callable[[], bool],
        alive: Callable[[], None],
        weighting: Weighting,
    ) -> None:
        self._config = config
        self._ranks = ranks
        self._stopping = stopping
        self._alive = alive
        self._weighting = weighting
        self._awaited = threading.Event()
        self._ending = threading.Event()
        self._coming: Future[PreparedBatch | None] | None = None
        self._intake = BatchSource(config, queue, ranks.channel(), self._stops, self._beat, self._pause)

    def take(self, step: int) -> PreparedBatch | None:
        """Blocks until the batch of ``step`` is there and starts to fetch the one after it. Collective. None: stop.

        Raises:
            IntakeError: on every rank, when no full batch came within take_timeout_s.
            QueueError: what the queue raised (rank 0).
        """
        coming = self._coming or self._fetch(step)
        self._awaited.set()
        try:
            prepared = coming.result()
        finally:
            self._awaited.clear()
            self._coming = None
        self._alive()
        # The batch may have been there for long: whether to train it is decided now. A node that is taken away is not always
        # rank 0's.
        if self._ranks.any(prepared is None or self._stopping()):
            return None
        if not self._config.hold_staleness and step + 1 < self._config.steps:
            self._coming = self._fetch(step + 1)
        return prepared

    def close(self) -> None:
        """Ends a fetch under way. Collective. Its groups stay the queue's."""
        self._ending.set()
        self._awaited.set()
        if self._coming is not None:
            concurrent.futures.wait([self._coming], timeout=_END_S)

    def _fetch(self, step: int) -> Future[PreparedBatch | None]:
        coming: Future[PreparedBatch | None] = Future()
        # A daemon: a loop that failed must not wait for groups before its process can end.
        threading.Thread(target=self._run, args=(step, coming), name=f"fetch-{step}", daemon=True).start()
        return coming

    def _run(self, step: int, coming: Future[PreparedBatch | None]) -> None:
        try:
            taken = self._intake.take(step)
            coming.set_result(self._prepare(taken) if taken is not None else None)
        except Exception as error:  # noqa: BLE001 - the end of this thread; take() raises it in the loop
            coming.set_exception(error)

    def _prepare(self, taken: TakenBatch) -> PreparedBatch:
        return PreparedBatch(
            taken, describe(taken.groups, taken.staleness), to_sequences(taken.groups, self._weighting)
        )

    def _stops(self) -> bool:
        return self._ending.is_set() or self._stopping()

    def _beat(self) -> None:
        if self._awaited.is_set():
            self._alive()

    def _pause(self) -> None:
        if self._awaited.is_set():
            self._ending.wait(_POLL_S)
        else:
            self._awaited.wait(_POLL_AHEAD_S)

"""Fetches, decodes and packs the next step's groups while the current step trains.

Every rank has a thread for it. These threads have a process group of their own, because their collectives and those of
training interleave differently on every rank. A thread ends with its batch, so none exists while nothing is fetched.

What was fetched and not trained is lost neither by a kill nor by a stop: its entries are pending in the queue, and the next
learner takes them first.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import Future

from learner.config import LearnerConfig
from learner.intake.batch_source import BatchSource
from learner.intake.preparation import Preparation, PreparedBatch
from learner.intake.step_groups import StepGroups
from learner.megatron.parallel import Ranks
from learner.queue import LearnerQueue

_POLL_S = 0.004  # while the training loop waits for the batch
_POLL_AHEAD_S = 0.02  # while it trains: this thread leaves the interpreter lock to it
_END_S = 30.0  # several heartbeats of the batch source


class Prefetch:
    """Feeds batches to the training loop, and fetches one step ahead of it.

    With ``hold_staleness`` a step's groups are taken only when the step begins: studies need exactly that staleness.

    Args:
        config: batch size, number of steps, and limits of waiting.
        queue: the queue on rank 0, None elsewhere. The thread only takes from it; all other calls are the loop's.
        ranks: all ranks construct a Prefetch at the same time.
        stopping: asked on every rank before every step, and on rank 0 before every wait; True on any ends the run cleanly.
        report_progress: called while the loop waits for a batch, and only then: a thread that waits for groups says
            nothing about a loop that hangs in a collective.
        preparation: makes a batch of a step's groups, in the thread.
    """

    def __init__(
        self,
        config: LearnerConfig,
        queue: LearnerQueue | None,
        ranks: Ranks,
        stopping: Callable[[], bool],
        report_progress: Callable[[], None],
        preparation: Preparation,
    ) -> None:
        self._config = config
        self._ranks = ranks
        self._stopping = stopping
        self._report_progress = report_progress
        self._preparation = preparation
        self._loop_waits = threading.Event()
        self._ending = threading.Event()
        self._prefetched: Future[PreparedBatch | None] | None = None
        collector = None if queue is None else StepGroups(config, queue, preparation.weighting.keep)
        self._source = BatchSource(
            config, collector, ranks.channel(), self._stop_requested, self._report_if_awaited, self._pause
        )

    def take(self, step: int) -> PreparedBatch | None:
        """Blocks until the batch of ``step`` (0-based) is ready, then starts to fetch the one after it. Collective.

        Returns:
            The batch; None if the run is to stop.

        Raises:
            IntakeError: on every rank, when no full batch came within take_timeout_s, if that is set.
            QueueError: on rank 0, when the queue failed.
        """
        fetched = self._prefetched or self._fetch(step)
        self._loop_waits.set()
        try:
            prepared = fetched.result()
        finally:
            self._loop_waits.clear()
            self._prefetched = None
        self._report_progress()
        # The batch may have been ready for long, so whether to train it is decided now. Any rank may have got the stop
        # signal: the node that is taken away need not be rank 0's.
        if self._ranks.any(prepared is None or self._stopping()):
            return None
        if not self._config.hold_staleness and step + 1 < self._config.steps:
            self._prefetched = self._fetch(step + 1)
        return prepared

    def close(self) -> None:
        """Ends a fetch that is in progress; its groups stay in the queue. Collective."""
        self._ending.set()
        self._loop_waits.set()
        if self._prefetched is not None:
            concurrent.futures.wait([self._prefetched], timeout=_END_S)

    def _fetch(self, step: int) -> Future[PreparedBatch | None]:
        """Starts the thread that fetches the batch of ``step``."""
        batch: Future[PreparedBatch | None] = Future()
        # A daemon, so that a process whose loop has failed can end without waiting for groups.
        threading.Thread(target=self._run, args=(step, batch), name=f"fetch-{step}", daemon=True).start()
        return batch

    def _run(self, step: int, batch: Future[PreparedBatch | None]) -> None:
        """Runs in the thread: takes a batch and prepares it. Its errors are raised by ``take``, in the loop."""
        try:
            taken = self._source.take(step)
            batch.set_result(self._preparation.prepare(taken) if taken is not None else None)
        except Exception as error:  # noqa: BLE001 - nothing may be lost with this thread; take() raises it in the loop
            batch.set_exception(error)

    def _stop_requested(self) -> bool:
        return self._ending.is_set() or self._stopping()

    def _report_if_awaited(self) -> None:
        if self._loop_waits.is_set():
            self._report_progress()

    def _pause(self) -> None:
        if self._loop_waits.is_set():
            self._ending.wait(_POLL_S)
        else:
            self._loop_waits.wait(_POLL_AHEAD_S)

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
from typing import Literal

from learner.config import LearnerConfig
from learner.intake.batch_source import BatchSource, InterruptedTake
from learner.intake.preparation import Preparation, PreparedBatch
from learner.intake.step_groups import StepGroups
from learner.megatron.parallel import Ranks
from learner.queue import LearnerQueue

_POLL_S = 0.004  # while the training loop waits for the batch
_POLL_AHEAD_S = 0.02  # while it trains: this thread leaves the interpreter lock to it
_END_S = 30.0  # several heartbeats of the batch source
_LOOK, _STOP = 1, 2  # what a rank wants of all; the largest wins

Fetched = PreparedBatch | Literal["look"] | None


class Prefetch:
    """Feeds batches to the training loop, and fetches one step ahead of it.

    With ``hold_staleness`` a step's groups are taken only when the step begins: studies need exactly that staleness.

    Args:
        config: batch size, number of steps, and limits of waiting.
        queue: the queue on rank 0, None elsewhere. The thread only takes from it, and looks for operators' changes while the
            loop waits for it; all other calls are the loop's.
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
        self._prefetched: Future[Fetched] | None = None
        self._queue = queue
        collector = None if queue is None else StepGroups(config, queue, preparation.weighting.keep)
        self._source = BatchSource(
            config, collector, ranks.channel(), self._stop_requested, self._report_if_awaited, self._pause
        )
        self._source.looking = self._interrupted

    def configure(self, config: LearnerConfig) -> None:
        """Takes another number of steps; what is fetched ahead of the last one goes back to the queue with ``close``."""
        self._config = config

    def pause(self, paused: bool) -> None:
        """Takes nothing more from the queue, or goes on; the time between does not count as waiting for groups."""
        self._source.pause(paused)

    def take(self, step: int) -> Fetched:
        """Blocks until the batch of ``step`` (0-based) is ready, then starts to fetch the one after it. Collective.

        Returns:
            The batch; None if the run is to stop; "look", on every rank, if changes wait: the batch stays here meanwhile.

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
        if prepared == "look":
            return prepared
        # The batch may have been ready for long, so whether to train it is decided now. Any rank may have got the stop
        # signal: the node that is taken away need not be rank 0's.
        stops, waits = prepared is None or self._stopping(), self._queue is not None and self._queue.changes_wait
        wanted = self._ranks.largest(_STOP if stops else _LOOK if waits else 0)
        if prepared is None or wanted == _STOP:
            return None
        if wanted == _LOOK:
            self._prefetched = fetched
            return "look"
        if not self._config.hold_staleness and step + 1 < self._config.steps:
            self._prefetched = self._fetch(step + 1)
        return prepared

    def close(self) -> None:
        """Ends a fetch that is in progress; its groups stay in the queue. Collective."""
        self._ending.set()
        self._loop_waits.set()
        if self._prefetched is not None:
            concurrent.futures.wait([self._prefetched], timeout=_END_S)

    def _fetch(self, step: int) -> Future[Fetched]:
        """Starts the thread that fetches the batch of ``step``."""
        batch: Future[Fetched] = Future()
        # A daemon, so that a process whose loop has failed can end without waiting for groups.
        threading.Thread(target=self._run, args=(step, batch), name=f"fetch-{step}", daemon=True).start()
        return batch

    def _run(self, step: int, batch: Future[Fetched]) -> None:
        """Runs in the thread: takes a batch and prepares it. Its errors are raised by ``take``, in the loop."""
        try:
            taken = self._source.take(step)
            batch.set_result(self._preparation.prepare(taken) if taken is not None else None)
        except InterruptedTake:
            batch.set_result("look")
        except Exception as error:  # noqa: BLE001 - nothing may be lost with this thread; take() raises it in the loop
            batch.set_exception(error)

    def _stop_requested(self) -> bool:
        return self._ending.is_set() or self._stopping()

    def _interrupted(self) -> bool:
        """Whether to end the wait for a batch because changes wait; while the loop trains, it asks by itself."""
        if self._queue is None or not self._loop_waits.is_set() or self._ending.is_set():
            return False
        self._queue.look_for_changes()
        return self._queue.changes_wait

    def _report_if_awaited(self) -> None:
        if self._loop_waits.is_set():
            self._report_progress()

    def _pause(self) -> None:
        if self._loop_waits.is_set():
            self._ending.wait(_POLL_S)
        else:
            self._loop_waits.wait(_POLL_AHEAD_S)

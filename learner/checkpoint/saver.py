"""Saves checkpoints in the background, and commits the groups that a durable checkpoint contains.

A group leaves the queue only after a checkpoint that contains it is durable. A checkpoint is written into the staging
directory of this learner's epoch (learner.storage.fence) and renamed when complete. What it contains, and how damage is
noticed, is in learner.checkpoint.store. Retention keeps the newest few checkpoints and the newest healthy one, to which
learner.checkpoint.rollback may return.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from learner.checkpoint import store
from learner.checkpoint.store import CheckpointState, ResumePoint
from learner.config import CheckpointConfig
from learner.queue import REPAIRED_S, GroupRef, StillAwayError
from learner.storage.digests import FileDigest, file_digests
from learner.storage.fence import DirectoryFence, sync_directory

_DAMAGED = "damaged_"


class Sharded(Protocol):
    """Saves and loads the model and the optimizer; every method is collective."""

    def begin_save(self, directory: Path) -> None:
        """Copies the state to host memory and starts writing it; returns before the bytes are durable."""
        ...

    def poll(self, blocking: bool) -> bool:
        """Whether the save in progress is durable, with the same answer on every rank.

        Args:
            blocking: wait until it is durable.

        Raises:
            OSError: the save failed, on whatever rank; raised on every rank.
        """
        ...

    def digests(self) -> dict[str, FileDigest]:
        """Digests of those files of the last durable save that were hashed while they were written (rank 0)."""
        ...

    def load(self, directory: Path) -> None:
        """Restores the model and the optimizer, whatever parallel layout they were saved from."""
        ...


class CheckpointCallbacks(Protocol):
    """Receives the outcome of every save, on rank 0."""

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        """Called when the checkpoint of ``step`` is durable, ``seconds`` after it began: ``refs`` may leave the queue."""
        ...

    def not_saved(self, step: int, error: Exception) -> None:
        """Called when the checkpoint of ``step`` could not be written; its groups stay in the queue."""
        ...


class Checkpointer:
    """Saves every n steps in the background and commits what has become durable.

    Args:
        config: interval, retention.
        fence: the right to change the directory; already taken, by rank 0.
        sharded: saves and loads the shards of model and optimizer.
        callbacks: told about every save; on rank 0 only, None elsewhere.
        barrier: collective; returns when every rank has called it.
        extra: returns the other state to put into a checkpoint, as JSON values; called on rank 0 when a save begins.

    Attributes:
        saved_step: step of the newest save that was begun; None before the first.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        fence: DirectoryFence,
        sharded: Sharded,
        callbacks: CheckpointCallbacks | None,
        barrier: Callable[[], None],
        extra: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._config = config
        self.fence = fence
        self._sharded = sharded
        self._callbacks = callbacks
        self._barrier = barrier
        self._extra = extra
        self.saved_step: int | None = None
        self._uncommitted: list[GroupRef] = []
        self._recent: deque[tuple[float, list[GroupRef]]] = deque()  # commit time and groups
        self._contained: Counter[str] = Counter()  # fleet -> groups in the weights; rank 0
        # The save in progress: its state, how many of the uncommitted groups it contains, when it began.
        self._saving: tuple[CheckpointState, int, float] | None = None
        newest = store.completed(fence.root)[-1:] if callbacks is not None else []
        # Names of the checkpoints that may still be marked healthy (rank 0). A resumed run may mark the one it resumed from.
        self._not_yet_healthy = [directory.name for directory in newest if not store.is_healthy(directory)]
        for directory in newest:
            self._contained.update(store.read_state(directory).contained)

    @property
    def uncommitted(self) -> int:
        """Number of groups in the weights that no durable checkpoint contains yet. Meaningful on rank 0."""
        return len(self._uncommitted)

    def after_step(self, step: int, trained: Sequence[GroupRef]) -> None:
        """Records a step's groups, commits the save in progress if it is durable, begins one every n steps. Collective."""
        self._uncommitted += trained
        self._contained.update(ref.fleet for ref in trained)
        self._poll(blocking=False)
        if step % self._config.every == 0:
            self.save(step)

    def configure(self, config: CheckpointConfig) -> None:
        """Takes another interval and retention between two steps; the directory must stay what it is."""
        self._config = config

    def poll(self) -> None:
        """Commits the save in progress if it is durable. Collective."""
        self._poll(blocking=False)

    def save(self, step: int) -> None:
        """Begins a save now, after waiting for the one before it. Collective.

        Raises:
            SupersededError: a newer learner has taken over (rank 0).
        """
        self._poll(blocking=True)
        self.saved_step = step
        extra = self._extra() if self._callbacks is not None else {}
        trained, contained = list(self._uncommitted), dict(self._contained)
        state = CheckpointState(step, self.fence.epoch, trained, self._remembered(), contained, extra)
        self._saving = (state, len(self._uncommitted), time.monotonic())
        name = store.name(step, self.fence.epoch)
        if self._callbacks is not None:
            self.fence.require_current()
            self.fence.discard_staged(name)
            with contextlib.suppress(OSError):  # no rank can write then, and every rank fails when polled
                self.fence.staging_path(name).mkdir()
        self._barrier()
        self._sharded.begin_save(self.fence.staging_path(name))

    def mark_healthy(self, steps: range) -> None:
        """Marks the checkpoints of these steps as healthy, and the initial one: a rollback may return to them (rank 0).

        A checkpoint of an earlier step is never marked: an alarm was active at it or soon after.
        """
        waiting, self._not_yet_healthy = self._not_yet_healthy, []
        for name in waiting:
            _, step = store.epoch_and_step(name)
            if step in steps or step == 0:
                with contextlib.suppress(OSError):  # a full disk, or superseded: it stays unmarked
                    self.fence.staging_path(store.HEALTHY).touch()
                    self.fence.commit(store.HEALTHY, f"{name}/{store.HEALTHY}")
            elif step >= steps.start:
                self._not_yet_healthy.append(name)

    def abandon(self) -> None:
        """Drops the save in progress; its groups stay in the queue. Collective."""
        if self._saving is not None:
            state, self._saving = self._saving[0], None
            with contextlib.suppress(OSError):
                self._sharded.poll(blocking=True)
            if self._callbacks is not None:
                self.fence.discard_staged(store.name(state.step, state.epoch))

    def finish(self) -> None:
        """Waits until the save in progress is durable and committed. Collective."""
        self._poll(blocking=True)

    def _poll(self, blocking: bool) -> None:
        if self._saving is None:
            return
        state, count, started = self._saving
        failure: OSError | None = None
        try:
            if not self._sharded.poll(blocking):
                return
        except OSError as error:  # the groups stay uncommitted, and the next save contains them too
            failure = error
        self._saving = None
        if self._callbacks is None:
            return
        try:
            if failure is not None:
                raise failure
            self._finalize(state)
        except OSError as error:
            self.fence.discard_staged(store.name(state.step, state.epoch))
            self.fence.require_current()
            self._callbacks.not_saved(state.step, error)
        else:
            with contextlib.suppress(StillAwayError):  # the next checkpoint contains these groups too, and commits them
                self._callbacks.committed(state.step, state.trained, time.monotonic() - started)
                self._uncommitted = self._uncommitted[count:]
                self._recent.append((time.monotonic(), state.trained))
            self._not_yet_healthy.append(store.name(state.step, state.epoch))
            self._retain()

    def _finalize(self, state: CheckpointState) -> None:
        name = store.name(state.step, state.epoch)
        if (self.fence.root / name).exists():  # saved again without a step in between: equal weights
            self.fence.discard_staged(name)
            return
        directory = self.fence.staging_path(name)
        hashed = self._sharded.digests()
        rest = sorted({path.name for path in directory.iterdir()} - hashed.keys())
        files = hashed | file_digests(directory, rest)
        for file in rest:
            with (directory / file).open("rb+") as content:
                os.fsync(content.fileno())
        store.write_state(directory, replace(state, files=files))
        sync_directory(directory)
        self.fence.commit(name, name)

    def _remembered(self) -> list[GroupRef]:
        while self._recent and self._recent[0][0] < time.monotonic() - REPAIRED_S:
            self._recent.popleft()
        return [ref for _, refs in self._recent for ref in refs]

    def _retain(self) -> None:
        with contextlib.suppress(OSError):  # superseded: the newer learner decides what is kept
            present = store.completed(self.fence.root)
            healthy = [directory for directory in present if store.is_healthy(directory)]
            for directory in present[: -self._config.keep]:
                if directory not in healthy[-1:]:
                    self.fence.remove(directory.name)


def set_aside(fence: DirectoryFence, found: ResumePoint, keep: int) -> None:
    """Renames damaged checkpoints, for a person to inspect; of all the renamed ones only the newest ``keep`` stay."""
    for damaged in found.damaged:
        fence.rename(damaged.name, _DAMAGED + damaged.name)
    old = sorted(fence.root.glob(_DAMAGED + "*"), key=lambda path: path.stat().st_mtime)
    for directory in old[:-keep]:
        fence.remove(directory.name)

"""Saving checkpoints, and the commit protocol.

A group leaves the queue only after a checkpoint that contains it is durable. A checkpoint is written into the staging
directory of this learner's epoch (learner.storage.fence) and renamed when complete. What it contains, and how damage is
noticed, is in learner.checkpoint.store. Retention keeps the newest few and the newest healthy one, to which
learner.checkpoint.rollback may return.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from learner.checkpoint import store
from learner.checkpoint.store import CheckpointState, ResumePoint
from learner.config import CheckpointConfig
from learner.queue import GroupRef
from learner.storage.digests import FileDigest, file_digests
from learner.storage.fence import DirectoryFence, sync_directory

_DAMAGED = "damaged_"
_REMEMBERED_S = 10.0  # with AOF everysec, Redis forgets its last second, or two when the disk is slow


class Sharded(Protocol):
    """What saves and loads the model and optimizer; every method is collective."""

    def begin_save(self, directory: Path) -> None:
        """Snapshots to host memory and starts writing; returns before the bytes are durable."""
        ...

    def poll(self, blocking: bool) -> bool:
        """True, on every rank, once the save under way is durable. Raises OSError, on every rank, when it failed."""
        ...

    def digests(self) -> dict[str, FileDigest]:
        """Files of the last durable save whose digests were taken while they were written (rank 0)."""
        ...

    def load(self, directory: Path) -> None:
        """Restores model and optimizer, whatever layout they were saved from."""
        ...


class CheckpointCallbacks(Protocol):
    """Rank 0's side of a save."""

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        """A checkpoint of ``step`` is durable after ``seconds``: these groups may leave the queue."""
        ...

    def not_saved(self, step: int, error: Exception) -> None:
        """A checkpoint could not be written; its groups stay in the queue."""
        ...


class Checkpointer:
    """Saves every n steps in the background and commits what has become durable.

    Args:
        config: interval, retention.
        claim: on the directory; taken on rank 0 before.
        sharded: saves and loads the model's shards.
        accounts: rank 0 only, None elsewhere.
        barrier: collective; returns when every rank has called it.
        extra: what else goes into a checkpoint, as of the step it is asked; JSON values. Asked on rank 0.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        fence: DirectoryFence,
        sharded: Sharded,
        accounts: CheckpointCallbacks | None,
        barrier: Callable[[], None],
        extra: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._config = config
        self.fence = fence
        self._sharded = sharded
        self._accounts = accounts
        self._barrier = barrier
        self._extra = extra
        self._uncommitted: list[GroupRef] = []
        self._recent: deque[tuple[float, list[GroupRef]]] = deque()  # when committed, what
        self._saving: tuple[CheckpointState, int, float] | None = (
            None  # what, how many of the uncommitted it contains, start
        )
        newest = store.completed(fence.root)[-1:] if accounts is not None else []
        self._unproven = [directory.name for directory in newest if not store.is_healthy(directory)]  # rank 0

    @property
    def uncommitted(self) -> int:
        """Groups in the weights that no durable checkpoint contains yet. Meaningful on rank 0."""
        return len(self._uncommitted)

    def after_step(self, step: int, trained: Sequence[GroupRef]) -> None:
        """Records a step's groups; starts a save every n steps; commits a finished one. Collective."""
        self._uncommitted += trained
        self._poll(blocking=False)
        if step % self._config.every == 0:
            self.save(step)

    def save(self, step: int) -> None:
        """Starts a save now; waits for the one before it. Collective.

        Raises:
            SupersededError: a newer learner has taken over (rank 0).
        """
        self._poll(blocking=True)
        extra = self._extra() if self._accounts is not None else {}
        state = CheckpointState(step, self.fence.epoch, list(self._uncommitted), self._remembered(), extra)
        self._saving = (state, len(self._uncommitted), time.monotonic())
        name = store.name(step, self.fence.epoch)
        if self._accounts is not None:
            self.fence.require()
            self.fence.discard(name)
            with contextlib.suppress(OSError):  # then no rank can write, and each says so when polled
                self.fence.path(name).mkdir()
        self._barrier()
        self._sharded.begin_save(self.fence.path(name))

    def mark_healthy(self, steps: range) -> None:
        """Marks the checkpoints of these steps, and that of no step at all, as healthy: a rollback may go there (rank 0).

        Checkpoints of earlier steps have had their chance.
        """
        waiting, self._unproven = self._unproven, []
        for name in waiting:
            _, step = store.order_of(name)
            if step in steps or step == 0:
                with contextlib.suppress(OSError):  # a full disk, or superseded: it stays as it is
                    self.fence.path(store.HEALTHY).touch()
                    self.fence.put(store.HEALTHY, f"{name}/{store.HEALTHY}")
            elif step >= steps.start:
                self._unproven.append(name)

    def abandon(self) -> None:
        """Drops the save under way: its groups stay in the queue. Collective."""
        if self._saving is not None:
            state, self._saving = self._saving[0], None
            with contextlib.suppress(OSError):
                self._sharded.poll(blocking=True)
            if self._accounts is not None:
                self.fence.discard(store.name(state.step, state.epoch))

    def finish(self) -> None:
        """Waits until the save under way is durable and committed. Collective."""
        self._poll(blocking=True)

    def _poll(self, blocking: bool) -> None:
        if self._saving is None:
            return
        state, count, started = self._saving
        failure: OSError | None = None
        try:
            if not self._sharded.poll(blocking):
                return
        except OSError as error:  # the groups stay uncommitted: the next save contains them too
            failure = error
        self._saving = None
        if self._accounts is None:
            return
        try:
            if failure is not None:
                raise failure
            self._finalize(state)
        except OSError as error:
            self.fence.discard(store.name(state.step, state.epoch))
            self.fence.require()
            self._accounts.not_saved(state.step, error)
        else:
            self._uncommitted = self._uncommitted[count:]
            self._accounts.committed(state.step, state.trained, time.monotonic() - started)
            self._recent.append((time.monotonic(), state.trained))
            self._unproven.append(store.name(state.step, state.epoch))
            self._retain()

    def _finalize(self, state: CheckpointState) -> None:
        name = store.name(state.step, state.epoch)
        if (self.fence.root / name).exists():  # saved again without a step in between: the same weights
            self.fence.discard(name)
            return
        directory = self.fence.path(name)
        taken = self._sharded.digests()
        rest = sorted({path.name for path in directory.iterdir()} - taken.keys())
        files = taken | file_digests(directory, rest)
        for file in rest:
            with (directory / file).open("rb+") as content:
                os.fsync(content.fileno())
        store.write_state(directory, replace(state, files=files))
        sync_directory(directory)
        self.fence.put(name, name)

    def _remembered(self) -> list[GroupRef]:
        while self._recent and self._recent[0][0] < time.monotonic() - _REMEMBERED_S:
            self._recent.popleft()
        return [ref for _, refs in self._recent for ref in refs]

    def _retain(self) -> None:
        with contextlib.suppress(OSError):  # superseded: what is kept is the newer learner's business
            there = store.completed(self.fence.root)
            healthy = [directory for directory in there if store.is_healthy(directory)]
            for directory in there[: -self._config.keep]:
                if directory not in healthy[-1:]:
                    self.fence.remove(directory.name)


def set_aside(fence: DirectoryFence, found: ResumePoint, keep: int) -> None:
    """Renames damaged checkpoints, for a person to look at; of those set aside before, the newest ``keep`` stay."""
    for damaged in found.damaged:
        fence.rename(damaged.name, _DAMAGED + damaged.name)
    old = sorted(fence.root.glob(_DAMAGED + "*"), key=lambda path: path.stat().st_mtime)
    for directory in old[:-keep]:
        fence.remove(directory.name)

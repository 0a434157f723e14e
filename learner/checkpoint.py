"""Saving checkpoints, and the commit protocol.

A group leaves the queue only after a checkpoint that contains it is durable. A checkpoint is written in the room of this
learner's epoch (learner.claim) and renamed when whole, so what carries the final name was complete when it got it; what is in
it, and how damage is noticed, is learner.resume's business.
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

from learner import resume
from learner.claim import Claim, sync_directory
from learner.config import CheckpointConfig
from learner.queue import GroupRef
from learner.resume import FileDigest, Resume, State

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


class Accounts(Protocol):
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
        claim: Claim,
        sharded: Sharded,
        accounts: Accounts | None,
        barrier: Callable[[], None],
        extra: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._config = config
        self._claim = claim
        self._sharded = sharded
        self._accounts = accounts
        self._barrier = barrier
        self._extra = extra
        self._uncommitted: list[GroupRef] = []
        self._recent: deque[tuple[float, list[GroupRef]]] = deque()  # when committed, what
        self._saving: tuple[State, int, float] | None = None  # what, how many of the uncommitted it contains, start

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
        state = State(step, self._claim.epoch, list(self._uncommitted), self._remembered(), extra)
        self._saving = (state, len(self._uncommitted), time.monotonic())
        name = resume.name(step, self._claim.epoch)
        if self._accounts is not None:
            self._claim.require()
            self._claim.discard(name)
            with contextlib.suppress(OSError):  # then no rank can write, and each says so when polled
                self._claim.path(name).mkdir()
        self._barrier()
        self._sharded.begin_save(self._claim.path(name))

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
            self._seal(state)
        except OSError as error:
            self._claim.discard(resume.name(state.step, state.epoch))
            self._claim.require()
            self._accounts.not_saved(state.step, error)
        else:
            self._uncommitted = self._uncommitted[count:]
            self._accounts.committed(state.step, state.trained, time.monotonic() - started)
            self._recent.append((time.monotonic(), state.trained))
            self._retain()

    def _seal(self, state: State) -> None:
        name = resume.name(state.step, state.epoch)
        if (self._claim.root / name).exists():  # saved again without a step in between: the same weights
            self._claim.discard(name)
            return
        directory = self._claim.path(name)
        taken = self._sharded.digests()
        rest = sorted({path.name for path in directory.iterdir()} - taken.keys())
        files = taken | resume.digests(directory, rest)
        for file in rest:
            with (directory / file).open("rb+") as content:
                os.fsync(content.fileno())
        resume.write_state(directory, replace(state, files=files))
        sync_directory(directory)
        self._claim.put(name, name)

    def _remembered(self) -> list[GroupRef]:
        while self._recent and self._recent[0][0] < time.monotonic() - _REMEMBERED_S:
            self._recent.popleft()
        return [ref for _, refs in self._recent for ref in refs]

    def _retain(self) -> None:
        with contextlib.suppress(OSError):  # superseded: what is kept is the newer learner's business
            for directory in resume.sealed(self._claim.root)[: -self._config.keep]:
                self._claim.remove(directory.name)


def set_aside(claim: Claim, found: Resume, keep: int) -> None:
    """Renames damaged checkpoints, for a person to look at; of those set aside before, the newest ``keep`` stay."""
    for damaged in found.damaged:
        claim.rename(damaged.name, _DAMAGED + damaged.name)
    old = sorted(claim.root.glob(_DAMAGED + "*"), key=lambda path: path.stat().st_mtime)
    for directory in old[:-keep]:
        claim.remove(directory.name)

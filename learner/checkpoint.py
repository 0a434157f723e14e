"""Resumable checkpoints and the commit protocol.

A group leaves the queue only after a checkpoint that contains it is durable. A checkpoint is a directory
``step_00000050/`` with the sharded model and optimizer and ``state.json``: the step and the groups trained since the last
commit. It is written under a temporary name and renamed when whole, so what carries the final name is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from learner.config import CheckpointConfig
from learner.publish import sync_directory
from learner.queue import GroupRef

_STATE = "state.json"
_SCHEMA = 1


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the path and what is wrong."""


class Sharded(Protocol):
    """What saves and loads the model and optimizer; every method is collective."""

    def begin_save(self, directory: Path) -> None:
        """Snapshots to host memory and starts writing; returns before the bytes are durable."""
        ...

    def poll(self, blocking: bool) -> bool:
        """True, on every rank, once the save under way is durable. Raises OSError, on every rank, when it failed."""
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


@dataclass(frozen=True)
class Resume:
    """What a checkpoint says besides weights.

    Attributes:
        directory: where it lies.
        step: optimizer steps in it.
        trained: groups in these weights that may not have been committed when it was written.
    """

    directory: Path
    step: int
    trained: list[GroupRef]


def latest(root: Path) -> Resume | None:
    """The newest complete checkpoint under ``root``, or None when there is none.

    Raises:
        CheckpointError: its state file is damaged or of another schema.
    """
    complete = sorted(path for path in root.glob("step_*") if path.is_dir())
    if not complete:
        return None
    directory = complete[-1]
    try:
        state = json.loads((directory / _STATE).read_text())
        if state["schema"] != _SCHEMA:
            raise CheckpointError(f"{directory}: schema {state['schema']} is not {_SCHEMA}: written by another version")
        return Resume(directory, state["step"], [GroupRef(**ref) for ref in state["trained"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{directory / _STATE}: damaged ({error}); move the directory away to use the one before it"
        ) from error


class Checkpointer:
    """Saves every n steps in the background and commits what has become durable.

    Args:
        config: directory, interval, retention.
        sharded: saves and loads the model's shards.
        accounts: rank 0 only, None elsewhere.
        barrier: collective; returns when every rank has called it.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        sharded: Sharded,
        accounts: Accounts | None,
        barrier: Callable[[], None],
    ) -> None:
        self._config = config
        self._sharded = sharded
        self._accounts = accounts
        self._barrier = barrier
        self._uncommitted: list[GroupRef] = []
        self._saving: tuple[int, int, float] | None = None  # step, how many of the uncommitted it contains, start
        if accounts is not None:
            config.dir.mkdir(parents=True, exist_ok=True)
            for leftover in config.dir.glob(".writing_*"):
                shutil.rmtree(leftover)
        barrier()

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
        """Starts a save now; waits for the one before it. Collective."""
        self._poll(blocking=True)
        self._saving = (step, len(self._uncommitted), time.monotonic())
        directory = self._temporary(step)
        if self._accounts is not None:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        self._barrier()
        self._sharded.begin_save(directory)

    def finish(self) -> None:
        """Waits until the save under way is durable and committed. Collective."""
        self._poll(blocking=True)

    def _poll(self, blocking: bool) -> None:
        if self._saving is None:
            return
        step, count, started = self._saving
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
            trained = self._uncommitted[:count]
            self._seal(step, {"schema": _SCHEMA, "step": step, "trained": [asdict(ref) for ref in trained]})
        except OSError as error:
            shutil.rmtree(self._temporary(step), ignore_errors=True)
            self._accounts.not_saved(step, error)
        else:
            self._uncommitted = self._uncommitted[count:]
            self._accounts.committed(step, trained, time.monotonic() - started)
            self._retain()

    def _seal(self, step: int, state: dict[str, Any]) -> None:
        temporary = self._temporary(step)
        (temporary / _STATE).write_text(json.dumps(state))
        for path in temporary.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        final = self._config.dir / f"step_{step:08d}"
        if final.exists():  # a resumed run saved the same step again: its content is the newer truth
            shutil.rmtree(final)
        os.rename(temporary, final)
        sync_directory(self._config.dir)

    def _retain(self) -> None:
        for directory in sorted(self._config.dir.glob("step_*"))[: -self._config.keep]:
            shutil.rmtree(directory)

    def _temporary(self, step: int) -> Path:
        return self._config.dir / f".writing_{step:08d}"

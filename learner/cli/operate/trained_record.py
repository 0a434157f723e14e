"""The learner's own record of the groups that are in its weights, read from its metrics and checkpoints, not from Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from learner.checkpoint import store
from learner.checkpoint.store import DamagedError
from learner.cli.run.run_history import LineReader
from learner.queue.acceptance import TrainedStep


def trained_steps(checkpoints: Path, metrics: Path) -> Iterator[TrainedStep]:
    """Yields what the newest intact checkpoint contains, step by step; nothing if there is no checkpoint.

    A step is in it if no later learner has resumed from an earlier step. Groups of steps after the checkpoint are left out:
    a learner that runs commits them itself, and one that resumes trains them again.

    Args:
        checkpoints: the learner's directory of checkpoints.
        metrics: its directory of metrics.

    Raises:
        CheckpointError: a checkpoint has another schema.
        OSError: a file cannot be read.
    """
    newest = None
    for directory in reversed(store.completed(checkpoints)):
        try:
            newest = store.read_state(directory)
            break
        except DamagedError:
            continue
    if newest is None:
        return
    rows = LineReader(metrics / "learner.jsonl").read()
    # A crash of the machine may have taken the last rows, which are not forced to disk as a checkpoint is.
    unseen = {(ref.fleet, ref.group_id) for ref in newest.trained + newest.recent}
    starts = [(row["epoch"], row["resumed_step"]) for row in rows if row.get("kind") == "start"]
    for row in LineReader(metrics / "trained.jsonl").read():
        epoch, step = row["epoch"], row["step"]
        forks = [resumed for start, resumed in starts if epoch < start <= newest.epoch]
        survives = epoch < newest.epoch or (epoch == newest.epoch and step <= newest.step)
        if survives and step <= min(forks, default=step):
            groups = [(fleet, group) for fleet, group in row["groups"]]
            unseen.difference_update(groups)
            yield TrainedStep(epoch, step, groups)
    if unseen:
        yield TrainedStep(newest.epoch, newest.step, sorted(unseen))

"""Which groups a run's newest checkpoint contains, by the learner's own record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from learner.checkpoint import store
from learner.checkpoint.store import CheckpointState
from learner.cli.operate.trained_record import trained_steps
from learner.cli.run.run_directory import RunDirectory
from learner.queue import GroupRef
from tests.tools.runs import make_run


def recorded(root: Path, starts: list[tuple[int, int]], steps: list[tuple[int, int]]) -> RunDirectory:
    """Makes a run whose learners started at (epoch, step) and made the steps (epoch, step), each with one group."""
    run = make_run(root).directory
    rows = [{"kind": "start", "epoch": epoch, "resumed_step": step} for epoch, step in starts]
    (run.metrics / "learner.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = [{"step": step, "epoch": epoch, "groups": [["a", f"{epoch}-{step}"]]} for epoch, step in steps]
    (run.metrics / "trained.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trained))
    return run


def checkpoint(run: RunDirectory, step: int, epoch: int, trained: Sequence[str] = ()) -> None:
    directory = run.checkpoints / store.name(step, epoch)
    directory.mkdir(parents=True)
    store.write_state(directory, CheckpointState(step, epoch, [GroupRef("a", group, "1-1") for group in trained]))


def found(run: RunDirectory) -> list[str]:
    return [group for one in trained_steps(run.checkpoints, run.metrics) for _, group in one.groups]


def test_steps_after_the_newest_checkpoint_and_lost_branches_are_left_out(tmp_path: Path):
    starts = [(1, 0), (2, 2), (3, 4)]
    steps = [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4), (2, 5), (3, 5), (3, 6), (3, 7)]
    run = recorded(tmp_path / "run", starts, steps)
    assert found(run) == []  # without a checkpoint nothing is in any weights that last
    checkpoint(run, 2, 1)
    assert found(run) == ["1-1", "1-2"]
    checkpoint(run, 4, 2)
    assert found(run) == ["1-1", "1-2", "2-3", "2-4"]
    checkpoint(run, 6, 3)
    assert found(run) == ["1-1", "1-2", "2-3", "2-4", "3-5", "3-6"]
    (run.checkpoints / store.name(6, 3) / store.STATE).write_text("damaged")
    assert found(run) == ["1-1", "1-2", "2-3", "2-4"]


def test_rows_that_a_crash_has_taken_are_in_the_checkpoint(tmp_path: Path):
    run = recorded(tmp_path / "run", [(1, 0)], [(1, 1), (1, 2)])
    checkpoint(run, 3, 1, ["1-2", "1-3"])
    assert found(run) == ["1-1", "1-2", "1-3"]

"""Which checkpoints are marked healthy, the request to return to one, and its application, once or interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from learner.checkpoint.rollback import apply_rollback, mark_reported, read_request, request_rollback, set_aside_by
from learner.checkpoint.saver import Checkpointer
from learner.checkpoint.store import CheckpointError, completed, is_healthy, latest
from learner.config import CheckpointConfig
from learner.control.alarms import Alarm
from learner.queue import GroupRef
from learner.storage.digests import FileDigest
from learner.storage.fence import DirectoryFence, SupersededError

ALARM = Alarm("reward", "rollback", "the mean reward has fallen")


class Disk:
    """A sharded writer whose saves are durable at once, unless it is stuck."""

    stuck = False

    def begin_save(self, directory: Path) -> None:
        (directory / "shard").write_text("weights")

    def poll(self, blocking: bool) -> bool:
        return blocking or not self.stuck

    def digests(self) -> dict[str, FileDigest]:
        return {}

    def load(self, directory: Path) -> None: ...


class Callbacks:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        self.steps.append(step)

    def not_saved(self, step: int, error: Exception) -> None:
        raise error


class Learner:
    """A learner of one epoch that trains one group a step and saves every second step."""

    def __init__(self, root: Path, epoch: int = 1, keep: int = 9) -> None:
        self.disk, self.callbacks = Disk(), Callbacks()
        self.fence = DirectoryFence(root, epoch)
        self.fence.acquire()
        config = CheckpointConfig(dir=root, every=2, keep=keep)
        self.checkpointer = Checkpointer(config, self.fence, self.disk, self.callbacks, lambda: None)

    def train(self, steps: range) -> None:
        for step in steps:
            self.checkpointer.after_step(step, [GroupRef("a", f"{self.fence.epoch}.{step}", "1-1")])
            self.checkpointer.finish()


def names(root: Path) -> list[str]:
    return [directory.name for directory in completed(root)]


def healthy(root: Path) -> list[str]:
    return [directory.name for directory in completed(root) if is_healthy(directory)]


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    """A learner with checkpoints of steps 2, 4, 6 and 8, of which that of step 4 is the newest healthy one."""
    made = Learner(tmp_path)
    made.train(range(1, 9))
    made.checkpointer.mark_healthy(range(2, 5))
    return made


def test_a_checkpoint_is_marked_healthy_once_its_step_has_proved_healthy(learner: Learner, tmp_path: Path):
    assert healthy(tmp_path) == ["step_00000002_e0001", "step_00000004_e0001"]
    learner.checkpointer.mark_healthy(range(7, 9))  # an alarm was active at step 6
    learner.checkpointer.mark_healthy(range(3, 9))
    assert healthy(tmp_path) == ["step_00000002_e0001", "step_00000004_e0001", "step_00000008_e0001"]
    found = latest(tmp_path)  # the mark is not taken for damage
    assert found is not None
    assert (found.step, found.damaged) == (8, [])


def test_the_initial_policy_is_healthy_from_the_start(tmp_path: Path):
    learner = Learner(tmp_path)
    learner.checkpointer.save(0)
    learner.checkpointer.finish()
    learner.checkpointer.mark_healthy(range(1, -9))
    assert healthy(tmp_path) == ["step_00000000_e0001"]


def test_retention_keeps_the_newest_healthy_one_and_the_next_learner_may_mark_what_it_found(tmp_path: Path):
    first = Learner(tmp_path, keep=2)
    first.train(range(1, 5))
    first.checkpointer.mark_healthy(range(2, 3))
    first.train(range(5, 9))
    assert names(tmp_path) == ["step_00000002_e0001", "step_00000006_e0001", "step_00000008_e0001"]
    second = Learner(tmp_path, epoch=2, keep=2)
    second.checkpointer.mark_healthy(range(5, 9))
    second.train(range(9, 11))
    assert names(tmp_path) == ["step_00000008_e0001", "step_00000010_e0002"]
    assert healthy(tmp_path) == ["step_00000008_e0001"]


def test_the_request_names_the_newest_healthy_one_and_sets_aside_what_came_after(learner: Learner, tmp_path: Path):
    request = request_rollback(learner.fence, 9, ALARM, number=1, factor=0.5)
    assert request is not None
    assert (request.checkpoint, request.step, request.epoch, request.rule) == ("step_00000004_e0001", 9, 1, "reward")
    next_fence = DirectoryFence(tmp_path, 2)
    next_fence.acquire()
    assert read_request(tmp_path) == request
    apply_rollback(next_fence, request)
    assert names(tmp_path) == ["step_00000002_e0001", "step_00000004_e0001"]
    assert set_aside_by(tmp_path, request) == ["step_00000006_e0001", "step_00000008_e0001"]
    mark_reported(next_fence, request)
    assert read_request(tmp_path) == replace(request, reported=True)


def test_an_interrupted_rollback_is_applied_by_the_next_start(learner: Learner, tmp_path: Path):
    request = request_rollback(learner.fence, 9, ALARM, 1, 0.5)
    assert request is not None
    (tmp_path / "step_00000008_e0001").rename(tmp_path / "rolled_back_1_step_00000008_e0001")
    for epoch in (2, 3):
        fence = DirectoryFence(tmp_path, epoch)
        fence.acquire()
        apply_rollback(fence, request)
        assert len(set_aside_by(tmp_path, request)) == 2
    assert names(tmp_path)[-1] == "step_00000004_e0001"


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_a_rollback_that_is_killed_between_any_two_renames_is_finished_by_the_next_start(
    learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
):
    request = request_rollback(learner.fence, 9, ALARM, 1, 0.5)
    assert request is not None
    killed = DirectoryFence(tmp_path, 2)
    killed.acquire()
    made: list[str] = []
    rename = os.rename

    def rename_until_killed(source: Path, target: Path) -> None:
        if len(made) == moves:
            raise KeyboardInterrupt
        made.append(target.name)
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("learner.storage.fence.os.rename", rename_until_killed)
        with pytest.raises(KeyboardInterrupt):
            apply_rollback(killed, request)
    assert len(made) == moves
    following = DirectoryFence(tmp_path, 3)
    following.acquire()
    apply_rollback(following, request)
    assert names(tmp_path) == ["step_00000002_e0001", "step_00000004_e0001"]
    aside = set_aside_by(tmp_path, request)
    assert aside == ["step_00000006_e0001", "step_00000008_e0001"]
    for name in aside:
        assert (tmp_path / f"rolled_back_1_{name}" / "shard").read_text() == "weights"


def test_newer_learners_checkpoints_are_not_given_up_and_a_second_rollback_clears_the_firsts(
    learner: Learner, tmp_path: Path
):
    first = request_rollback(learner.fence, 9, ALARM, 1, 0.5)
    assert first is not None
    second = Learner(tmp_path, epoch=2)
    apply_rollback(second.fence, first)
    second.train(range(5, 9))
    third = Learner(tmp_path, epoch=3)
    apply_rollback(third.fence, first)
    assert names(tmp_path)[-1] == "step_00000008_e0002"
    assert first.covers(1)
    assert not first.covers(2)
    request = request_rollback(third.fence, 9, ALARM, 2, 0.25)
    assert request is not None
    apply_rollback(third.fence, request)
    aside = sorted(path.name for path in tmp_path.glob("rolled_back_*"))
    assert aside == ["rolled_back_2_step_00000006_e0002", "rolled_back_2_step_00000008_e0002"]


def test_no_healthy_checkpoint_no_request(tmp_path: Path):
    learner = Learner(tmp_path)
    learner.train(range(1, 5))
    assert request_rollback(learner.fence, 5, ALARM, 1, 0.5) is None
    assert read_request(tmp_path) is None


def test_a_learner_that_was_replaced_requests_and_marks_nothing(learner: Learner, tmp_path: Path):
    DirectoryFence(tmp_path, 2).acquire()
    learner.checkpointer.mark_healthy(range(8, 9))
    assert healthy(tmp_path)[-1] == "step_00000004_e0001"
    with pytest.raises(SupersededError):
        request_rollback(learner.fence, 9, ALARM, 1, 0.5)
    assert read_request(tmp_path) is None


def test_the_save_in_progress_is_dropped_uncommitted(learner: Learner, tmp_path: Path):
    learner.disk.stuck = True
    learner.checkpointer.after_step(10, [GroupRef("a", "10", "1-1")])
    learner.checkpointer.abandon()
    assert names(tmp_path)[-1] == "step_00000008_e0001"
    assert learner.callbacks.steps[-1] == 8
    assert list((tmp_path / ".epoch_00000001").iterdir()) == []


def test_a_request_that_cannot_be_read_stops_the_start(tmp_path: Path):
    (tmp_path / "rollback.json").write_text(json.dumps({"number": 1}))
    with pytest.raises(CheckpointError, match="remove it to go on without the rollback"):
        read_request(tmp_path)

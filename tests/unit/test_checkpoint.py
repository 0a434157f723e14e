"""The commit protocol: nothing is committed before it is durable, and a resume knows what the weights contain."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from learner.checkpoint import Checkpointer, CheckpointError, latest
from learner.config import CheckpointConfig
from learner.queue import GroupRef


class SlowDisk:
    """Stands for the sharded writer: a save becomes durable when the test says so."""

    def __init__(self) -> None:
        self.durable = False
        self.full = False

    def begin_save(self, directory: Path) -> None:
        self.durable = False
        (directory / "shard").write_text("weights")

    def poll(self, blocking: bool) -> bool:
        if self.full:
            raise OSError(28, "No space left on device")
        self.durable |= blocking
        return self.durable

    def load(self, directory: Path) -> None: ...


class Commits:
    def __init__(self) -> None:
        self.rows: list[tuple[int, list[str]]] = []
        self.failed: list[int] = []

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        self.rows.append((step, [ref.group_id for ref in refs]))

    def not_saved(self, step: int, error: Exception) -> None:
        self.failed.append(step)


def refs(*names: str) -> list[GroupRef]:
    return [GroupRef(fleet="a", group_id=name, entry_id="1-1") for name in names]


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


def make(tmp_path: Path, disk: SlowDisk, commits: Commits, every: int = 2, keep: int = 2) -> Checkpointer:
    return Checkpointer(CheckpointConfig(dir=tmp_path, every=every, keep=keep), disk, commits, lambda: None)


def test_commit_waits_for_durability_and_covers_only_what_the_checkpoint_contains(tmp_path: Path, disk: SlowDisk):
    commits = Commits()
    checkpointer = make(tmp_path, disk, commits)
    checkpointer.after_step(1, refs("a"))
    checkpointer.after_step(2, refs("b"))  # the save of step 2 begins: contains a and b
    checkpointer.after_step(3, refs("c"))
    assert commits.rows == []
    assert latest(tmp_path) is None
    assert checkpointer.uncommitted == 3
    disk.durable = True
    checkpointer.after_step(4, refs("d"))  # the save of step 2 is durable: committed; that of step 4 begins
    assert commits.rows == [(2, ["a", "b"])]
    assert checkpointer.uncommitted == 2
    resume = latest(tmp_path)
    assert resume is not None
    assert (resume.step, resume.trained) == (2, refs("a", "b"))
    checkpointer.finish()
    assert commits.rows[1:] == [(4, ["c", "d"])]
    assert checkpointer.uncommitted == 0


def test_a_half_written_checkpoint_is_invisible_and_swept(tmp_path: Path, disk: SlowDisk):
    checkpointer = make(tmp_path, disk, Commits())
    checkpointer.save(5)  # killed here: never polled
    assert latest(tmp_path) is None
    make(tmp_path, disk, Commits())
    assert list(tmp_path.iterdir()) == []


def test_retention_and_the_newest_wins(tmp_path: Path, disk: SlowDisk):
    checkpointer = make(tmp_path, disk, Commits(), every=1, keep=2)
    for step in (9, 10, 11):
        checkpointer.after_step(step, refs(str(step)))
    checkpointer.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010", "step_00000011"]
    resume = latest(tmp_path)
    assert resume is not None
    assert resume.step == 11


def test_a_damaged_state_file_is_named(tmp_path: Path, disk: SlowDisk):
    checkpointer = make(tmp_path, disk, Commits())
    checkpointer.save(1)
    checkpointer.finish()
    (tmp_path / "step_00000001" / "state.json").write_text('{"schema": 1, "step": 1, "trained": [{"fle')
    with pytest.raises(CheckpointError, match=r"step_00000001/state\.json: damaged"):
        latest(tmp_path)


def test_a_full_disk_commits_nothing_and_the_next_save_makes_up_for_it(tmp_path: Path, disk: SlowDisk):
    commits = Commits()
    checkpointer = make(tmp_path, disk, commits)
    checkpointer.after_step(1, refs("a"))
    checkpointer.after_step(2, refs("b"))
    disk.full = True
    checkpointer.after_step(3, refs("c"))
    assert commits.failed == [2]
    assert list(tmp_path.iterdir()) == []
    disk.full = False
    checkpointer.after_step(4, refs("d"))
    checkpointer.finish()
    assert commits.rows == [(4, ["a", "b", "c", "d"])]

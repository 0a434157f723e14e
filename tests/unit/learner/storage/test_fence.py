"""The fence in the file system: whatever a replaced learner does to a shared directory fails, and damages nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from learner.storage.fence import DirectoryFence, SupersededError, newest_epoch


def claimed(root: Path, epoch: int) -> DirectoryFence:
    fence = DirectoryFence(root, epoch)
    fence.take()
    return fence


def write(fence: DirectoryFence, name: str) -> None:
    fence.path(name).mkdir()
    (fence.path(name) / "content").write_text(str(fence.epoch))


@pytest.mark.parametrize(
    "act",
    [
        lambda fence: fence.put("mine", "final"),
        lambda fence: fence.put_text("latest", "1"),
        lambda fence: fence.remove("kept"),
        lambda fence: fence.rename("kept", "other"),
        lambda fence: fence.path("new").mkdir(),
        lambda fence: (fence.path("mine") / "more").write_text("x"),
    ],
)
def test_a_replaced_learner_can_change_nothing(tmp_path: Path, act: Callable[[DirectoryFence], object]):
    zombie = claimed(tmp_path, 1)
    write(zombie, "kept")
    zombie.put("kept", "kept")
    zombie.put_text("latest", "0")
    write(zombie, "mine")
    living = claimed(tmp_path, 2)
    assert living.held()
    assert not zombie.held()
    with pytest.raises(FileNotFoundError):
        act(zombie)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".epoch_00000002", "kept", "latest"]
    assert (tmp_path / "latest").read_text() == "0"
    assert (tmp_path / "kept" / "content").read_text() == "1"


def test_a_rename_never_replaces(tmp_path: Path):
    fence = claimed(tmp_path, 1)
    for _ in range(2):
        write(fence, "mine")
        if not (tmp_path / "final").exists():
            fence.put("mine", "final")
    (tmp_path / "final" / "content").write_text("first")
    with pytest.raises(FileExistsError):
        fence.put("mine", "final")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError):
        fence.put("mine", "empty")
    assert (tmp_path / "final" / "content").read_text() == "first"


def test_a_learner_that_was_frozen_before_its_claim_gives_way(tmp_path: Path):
    """It opened the queue, froze, and a newer one has been working since."""
    living = claimed(tmp_path, 3)
    with pytest.raises(SupersededError, match="epoch 3, ours is 2"):
        DirectoryFence(tmp_path, 2).take()
    assert living.held()
    assert newest_epoch(tmp_path) == 3


def test_an_epoch_that_the_queue_forgot_starts_clean(tmp_path: Path):
    """Two learners of one epoch: the second's claim takes the first's room away."""
    write(claimed(tmp_path, 2), "half")
    again = claimed(tmp_path, 2)
    assert list(again.path(".").iterdir()) == []


def test_an_eviction_cut_short_is_finished_by_the_next(tmp_path: Path):
    write(claimed(tmp_path, 1), "mine")
    (tmp_path / ".epoch_00000001").rename(tmp_path / ".evicted_by_one_that_was_killed")
    claimed(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == [".epoch_00000002"]

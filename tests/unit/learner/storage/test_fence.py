"""The fence in the file system: whatever a replaced learner does to a shared directory fails, and damages nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from learner.storage.fence import DirectoryFence, SupersededError, newest_epoch


def acquired(root: Path, epoch: int) -> DirectoryFence:
    fence = DirectoryFence(root, epoch)
    fence.acquire()
    return fence


def write(fence: DirectoryFence, name: str) -> None:
    fence.staging_path(name).mkdir()
    (fence.staging_path(name) / "content").write_text(str(fence.epoch))


@pytest.mark.parametrize(
    "act",
    [
        lambda fence: fence.commit("mine", "final"),
        lambda fence: fence.replace_text("latest", "1"),
        lambda fence: fence.remove("kept"),
        lambda fence: fence.rename("kept", "other"),
        lambda fence: fence.staging_path("new").mkdir(),
        lambda fence: (fence.staging_path("mine") / "more").write_text("x"),
    ],
)
def test_a_replaced_learner_can_change_nothing(tmp_path: Path, act: Callable[[DirectoryFence], object]):
    zombie = acquired(tmp_path, 1)
    write(zombie, "kept")
    zombie.commit("kept", "kept")
    zombie.replace_text("latest", "0")
    write(zombie, "mine")
    living = acquired(tmp_path, 2)
    assert living.is_current()
    assert not zombie.is_current()
    with pytest.raises(FileNotFoundError):
        act(zombie)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".epoch_00000002", "kept", "latest"]
    assert (tmp_path / "latest").read_text() == "0"
    assert (tmp_path / "kept" / "content").read_text() == "1"


def test_a_rename_never_replaces(tmp_path: Path):
    fence = acquired(tmp_path, 1)
    for _ in range(2):
        write(fence, "mine")
        if not (tmp_path / "final").exists():
            fence.commit("mine", "final")
    (tmp_path / "final" / "content").write_text("first")
    with pytest.raises(FileExistsError):
        fence.commit("mine", "final")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError):
        fence.commit("mine", "empty")
    assert (tmp_path / "final" / "content").read_text() == "first"


def test_a_learner_that_was_frozen_before_it_acquired_the_directory_gives_way(tmp_path: Path):
    """It took the queue over, froze, and a newer one has been working since."""
    living = acquired(tmp_path, 3)
    with pytest.raises(SupersededError, match="epoch 3, this one has epoch 2"):
        DirectoryFence(tmp_path, 2).acquire()
    assert living.is_current()
    assert newest_epoch(tmp_path) == 3


def test_an_epoch_that_the_queue_forgot_starts_clean(tmp_path: Path):
    """Two learners of one epoch: the second takes the first's staging directory away."""
    write(acquired(tmp_path, 2), "half")
    again = acquired(tmp_path, 2)
    assert list(again.staging_path(".").iterdir()) == []


def test_fencing_off_that_was_cut_short_is_finished_by_the_next(tmp_path: Path):
    write(acquired(tmp_path, 1), "mine")
    (tmp_path / ".epoch_00000001").rename(tmp_path / ".fenced_off_by_one_that_was_killed")
    acquired(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == [".epoch_00000002"]


def interrupted_rename(root: Path, epoch: int) -> None:
    """Leaves a directory half-way between its two names, as a learner does that is killed there."""
    fence = acquired(root, epoch)
    write(fence, "kept")
    fence.commit("kept", "kept")
    (root / "kept").rename(fence.staging_path("moving_to_other"))


def test_a_rename_that_was_cut_short_is_finished_by_the_next(tmp_path: Path):
    interrupted_rename(tmp_path, 1)
    acquired(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".epoch_00000002", "other"]
    assert (tmp_path / "other" / "content").read_text() == "1"


def test_a_rename_is_finished_even_if_the_next_is_killed_before_it_gets_to_it(tmp_path: Path):
    interrupted_rename(tmp_path, 1)
    (tmp_path / ".epoch_00000001").rename(tmp_path / ".fenced_off_by_one_that_was_killed")
    acquired(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".epoch_00000003", "other"]


def test_a_rename_whose_new_name_is_taken_loses_nothing(tmp_path: Path):
    interrupted_rename(tmp_path, 1)
    (tmp_path / "other").mkdir()
    with pytest.raises(FileExistsError, match=r"moving_to_other: was being renamed to .*other, which exists"):
        DirectoryFence(tmp_path, 2).acquire()
    assert [path.read_text() for path in tmp_path.glob(".fenced_off_*/moving_to_other/content")] == ["1"]


def test_files_are_removed_too(tmp_path: Path):
    fence = acquired(tmp_path, 1)
    fence.replace_text("note", "x")
    fence.remove("note")
    assert [path.name for path in tmp_path.rglob("*")] == [".epoch_00000001"]

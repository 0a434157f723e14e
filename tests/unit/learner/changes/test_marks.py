"""What changes leave on disk: pins as `leeway policy pin` makes them, and a rollback that is requested once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from learner.changes import marks
from learner.checkpoint.rollback import read_request
from learner.checkpoint.store import CheckpointState, name, write_state
from learner.config.changeable import ChangeError
from learner.publish.catalog import pinned
from learner.storage.fence import DirectoryFence

ASKED, LIMITS = ("r1", "ann"), (2, 0.5)


@pytest.fixture(autouse=True)
def versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version v is of step 10 v in epoch 2."""
    monkeypatch.setattr(marks, "read_manifest", lambda root, version: SimpleNamespace(epoch=2, step=10 * version))


@pytest.fixture
def fence(tmp_path: Path) -> DirectoryFence:
    found = DirectoryFence(tmp_path / "checkpoints", 3)
    found.acquire()
    for step, epoch in ((0, 1), (8, 2), (16, 2), (18, 3)):
        directory = found.root / name(step, epoch)
        directory.mkdir()
        write_state(directory, CheckpointState(step, epoch, []))
    return found


def test_a_pin_is_a_mark_on_disk_and_a_second_unpin_says_so(tmp_path: Path):
    assert marks.pin(tmp_path, 7) == ""
    assert pinned(tmp_path) == {7}
    assert marks.unpin(tmp_path, 7) == ""
    assert marks.unpin(tmp_path, 7) == "it was not pinned"
    assert pinned(tmp_path) == set()


def test_a_rollback_goes_to_the_newest_checkpoint_at_or_before_the_version(fence: DirectoryFence, tmp_path: Path):
    assert marks.requested_already(fence, "r1") is None
    assert marks.request_rollback_to(fence, tmp_path, 1, 20, ASKED, LIMITS) == "step_00000008_e0002"
    request: Any = read_request(fence.root)
    assert (request.rule, request.number, request.factor, request.epoch) == ("operator", 2, 0.5, 3)
    assert "ann asked" in request.reason
    assert marks.requested_already(fence, "r1") == "step_00000008_e0002"
    assert marks.requested_already(fence, "r2") is None
    assert marks.request_rollback_to(fence, tmp_path, 2, 20, ASKED, LIMITS) == "step_00000016_e0002"


def test_a_version_before_every_checkpoint_is_refused(fence: DirectoryFence, tmp_path: Path):
    fence.remove(name(0, 1))
    with pytest.raises(ChangeError, match="no checkpoint is left at or before its step, 0"):
        marks.request_rollback_to(fence, tmp_path, 0, 20, ASKED, LIMITS)
    assert read_request(fence.root) is None

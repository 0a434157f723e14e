"""A backup that an operator asks for, as the learner begins it."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from learner.backup.errors import BackupError
from learner.changes import application
from learner.config import LearnerConfig
from learner.config.changeable import ChangeError
from leeway.v1 import operator_pb2 as op

CONFIG = LearnerConfig.parse(
    {
        "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "checkpoint": {"dir": "c"},
        "publish": {"dir": "p"}, "metrics_dir": "d",
    },
    source="test",
)  # fmt: skip


@pytest.mark.parametrize(("keep", "kept"), [(3, 3), (0, None)])
def test_a_backup_keeps_as_many_as_the_operator_wants(monkeypatch: pytest.MonkeyPatch, keep: int, kept: int | None):
    asked: list[Any] = []

    def back_up(config: LearnerConfig, uri: str, keep: int | None = None) -> Future[Any]:
        asked.append((config, uri, keep))
        return Future()

    monkeypatch.setattr(application, "back_up", back_up)
    application.begun_backup(CONFIG, op.BackUp(uri="file:///b", keep=keep))
    assert asked == [(CONFIG, "file:///b", kept)]


def test_a_backup_that_cannot_be_begun_is_a_change_that_is_refused(tmp_path: Path):
    with pytest.raises(ChangeError, match="uri = nowhere://x: "):
        application.begun_backup(CONFIG, op.BackUp(uri="nowhere://x"))
    with pytest.raises(BackupError):
        application.back_up(CONFIG, "nowhere://x")

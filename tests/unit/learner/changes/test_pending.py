"""What rank 0 reads of the changes that wait, while the disk or Redis fails now and then."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from learner.changes import pending as pending_module
from learner.changes.pending import PendingChanges
from learner.config import LearnerConfig
from learner.queue import QueueError
from learner.run import RankZeroCallbacks
from leeway.v1 import operator_pb2 as op


class FakeJournal:
    """A journal with one change that waits; ``away``: Redis does not answer."""

    def __init__(self, *_: object) -> None:
        self.away = False
        self.pins: list[set[int]] = []

    def pending(self) -> list[op.RecordedChange]:
        if self.away:
            raise QueueError("Redis is away")
        return [op.RecordedChange(number=1)]

    def pin_exactly(self, versions: set[int]) -> int:
        self.pins.append(versions)
        return len(versions)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> tuple[PendingChanges, FakeJournal]:
    journal = FakeJournal()
    monkeypatch.setattr(pending_module, "ChangeJournal", lambda *_: journal)
    config = SimpleNamespace(queue=None, publish=SimpleNamespace(dir=Path("p")))
    lead = SimpleNamespace(queue=SimpleNamespace(epoch=1, changes_seen=lambda: None))
    return PendingChanges(cast(LearnerConfig, config), cast(RankZeroCallbacks, lead)), journal


def test_a_disk_that_does_not_give_the_pins_keeps_no_change_waiting(
    monkeypatch: pytest.MonkeyPatch, opened: tuple[PendingChanges, FakeJournal]
):
    pending, journal = opened
    answers: list[Any] = [OSError(errno.ESTALE, "Stale file handle"), {3}]

    def pinned(root: Path) -> set[int]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(pending_module, "pinned", pinned)
    assert [[one.number for one in pending.read()] for _ in range(3)] == [[1], [1], [1]]
    assert journal.pins == [{3}]


def test_the_first_look_is_the_first_that_redis_answers(
    monkeypatch: pytest.MonkeyPatch, opened: tuple[PendingChanges, FakeJournal]
):
    pending, journal = opened
    monkeypatch.setattr(pending_module, "pinned", lambda root: set[int]())
    looks: list[tuple[int, bool]] = []
    for away in (True, False, False):
        journal.away = away
        looks.append((len(pending.read()), pending.first_look))
    assert looks == [(0, False), (1, True), (1, False)]

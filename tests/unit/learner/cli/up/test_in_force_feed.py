"""What operators have changed is read now and then, and kept while Redis is away."""

from __future__ import annotations

import pytest

from learner.cli.up import in_force_feed
from learner.cli.up.in_force_feed import InForceFeed
from learner.config import QueueConfig
from learner.queue import QueueError
from learner.queue.change_journal import InForce


def test_it_is_read_every_five_seconds_and_kept_while_redis_is_away(monkeypatch: pytest.MonkeyPatch):
    now, reads = [0.0], []
    answers = [InForce({"optimizer.lr": "1e-05"}, frozenset(), frozenset(), True), QueueError("away")]

    class OpenedOnce:
        def __init__(self, config: QueueConfig) -> None:
            reads.append(config.timeout_s)

        def __enter__(self) -> OpenedOnce:
            return self

        def __exit__(self, *_: object) -> None: ...

        def in_force(self) -> InForce:
            answer = answers.pop(0)
            if isinstance(answer, QueueError):
                raise answer
            return answer

    monkeypatch.setattr(in_force_feed, "ChangeJournal", OpenedOnce)
    feed = InForceFeed(QueueConfig(url="redis://nowhere", run="r"), lambda: now[0])
    first = feed.read()
    assert first is not None
    assert first.paused
    assert feed.read() is first
    assert reads == [1.0]
    now[0] = 5.0
    assert feed.read() is first
    assert len(reads) == 2

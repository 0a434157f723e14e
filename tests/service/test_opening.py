"""A learner's start on a real queue: what it takes over, commits, and owns up to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from learner.checkpoint.rollback import request_rollback
from learner.checkpoint.saver import Checkpointer
from learner.checkpoint.takeover import Takeover
from learner.config import LearnerConfig, QueueConfig
from learner.control.alarms import Alarm
from learner.megatron.parallel import Ranks
from learner.queue import FencedError, GroupRef, LearnerQueue, check, read_ledgers
from learner.storage.digests import FileDigest
from learner.telemetry.metrics_writer import MetricsWriter
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import valid_group
from tests.service.queueing import client, feed


class OneRank:
    """What a world of one rank agrees on."""

    rank = 0

    def attended(self, work: Callable[[], Any]) -> Any:
        return work()

    def agree(self, values: list[int]) -> list[int]:
        return values

    def broadcast_bytes(self, data: bytes) -> bytes:
        return data


class Metrics:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def event(self, kind: str, **values: Any) -> None:
        self.events.append({"kind": kind, **values})

    def untrained(self, outcome: str, step: int, refs: Sequence[GroupRef]) -> None: ...


class Disk:
    """Writes checkpoints at once."""

    def begin_save(self, directory: Path) -> None:
        (directory / "shard").write_text("weights")

    def poll(self, blocking: bool) -> bool:
        return True

    def digests(self) -> dict[str, FileDigest]:
        return {}

    def load(self, directory: Path) -> None: ...


class Accounts:
    """Commits at most ``limit`` groups of a checkpoint, as if killed amid it."""

    def __init__(self, queue: LearnerQueue, limit: int = 99) -> None:
        self.queue = queue
        self.limit = limit

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        self.queue.commit(step, refs[: self.limit])

    def not_saved(self, step: int, error: Exception) -> None:
        raise error


class Start:
    """One learner start; its epoch's number is the order of starting."""

    def __init__(self, config: QueueConfig, root: Path) -> None:
        settings = {
            "model": "unused", "queue": config.model_dump(mode="json"), "steps": 9, "metrics_dir": "unused",
            "groups_per_step": 2, "checkpoint": {"dir": str(root / "c"), "every": 1, "keep": 9},
            "publish": {"dir": str(root / "w")},
        }  # fmt: skip
        self.config = LearnerConfig.parse(settings, source="test")
        self.metrics = Metrics()
        self.opening = Takeover.start(self.config, cast(Ranks, OneRank()), cast(MetricsWriter, self.metrics))
        self.first_version = self.opening.begin()
        assert self.opening.queue is not None
        self.queue = self.opening.queue
        self.accounts = Accounts(self.queue)
        self.checkpointer = Checkpointer(
            self.config.checkpoint,
            self.opening.checkpoints,
            Disk(),
            self.accounts,
            lambda: None,
            lambda: {"version": 0},
        )

    def train(self, step: int, groups: int) -> list[str]:
        """A step on so many groups, and a save that is sealed; the ids."""
        taken = self.queue.take(groups, step - 1, 9)
        self.checkpointer.after_step(step, [one.ref for one in taken])
        self.checkpointer.finish()
        return [one.ref.group_id for one in taken]


@pytest.fixture
async def first(config, gateway_queue, tmp_path: Path) -> Start:
    """A learner that has begun, version 0 published, six groups waiting."""
    start = Start(config, tmp_path)
    start.queue.publish(pb.Policy(version=0, step=0, epoch=1))
    await feed(gateway_queue, [valid_group() for _ in range(6)])
    return start


def ledger(config: QueueConfig) -> pb.Ledger:
    (one,) = read_ledgers(config.url, config.run)
    assert check(one) == []
    return one


async def test_the_next_learner_commits_what_its_predecessor_sealed_and_could_not(first, config, tmp_path: Path):
    """Frozen between the rename and the commit; the newer one resumes from that very checkpoint."""
    first.train(1, 2)
    first.accounts.limit = 0
    sealed = first.train(2, 2)
    second = Start(config, tmp_path)
    assert second.opening.resume is not None
    assert second.opening.resume.step == 2
    assert second.metrics.events[-1]["recommitted"] == 2
    assert ledger(config).trained == 4
    with pytest.raises(FencedError):
        first.train(3, 2)
    assert not set(second.train(3, 9)) & set(sealed)
    assert ledger(config).trained == 6


async def test_a_damaged_checkpoint_costs_what_was_committed_and_says_so(first, config, tmp_path: Path, capsys):
    first.train(1, 2)
    first.accounts.limit = 1
    _committed, pending = first.train(2, 2)
    shard = tmp_path / "c" / "step_00000002_e0001" / "shard"
    shard.write_text("weighty")
    second = Start(config, tmp_path)
    assert second.opening.resume is not None
    assert second.opening.resume.step == 1
    damaged = next(event for event in second.metrics.events if event["kind"] == "damaged")
    assert damaged["checkpoints"] == ["step_00000002_e0001"]
    assert (damaged["resumed_step"], damaged["newest_step"], damaged["lost"], damaged["complete"]) == (1, 2, 1, True)
    assert "1 groups trained between step 1 and 2 are not in these weights" in capsys.readouterr().out
    assert pending in second.train(2, 9)  # the one that was not committed is trained again
    assert ledger(config).trained == 6
    third = Start(config, tmp_path)
    assert third.opening.resume is not None
    assert (third.opening.resume.step, third.opening.resume.state.epoch) == (2, 2)


async def test_a_rollback_is_a_new_timeline_and_every_group_is_accounted_for(first, config, tmp_path: Path, capsys):
    first.train(1, 2)
    first.checkpointer.mark_healthy(range(1, 2))
    first.accounts.limit = 1
    committed, pending = first.train(2, 2)
    alarm = Alarm("reward", "rollback", "the mean reward has fallen")
    assert request_rollback(first.opening.checkpoints, 2, alarm, number=1, factor=0.5) is not None
    second = Start(config, tmp_path)
    assert second.opening.resume is not None
    assert (second.opening.resume.step, second.opening.resume.state.epoch) == (1, 1)
    assert second.opening.rollback is not None
    assert (second.opening.rollback.number, second.opening.rollback.factor) == (1, 0.5)
    told = next(event for event in second.metrics.events if event["kind"] == "rollback")
    assert (told["step"], told["newest_step"], told["lost"], told["complete"]) == (2, 2, 1, True)
    assert told["set_aside"] == ["step_00000002_e0001"]
    assert "1 groups trained since are not in these weights" in capsys.readouterr().out
    assert second.first_version == 1  # version 0 is the given-up timeline's
    again = second.train(2, 9)
    assert pending in again
    assert committed not in again  # the ledger has it as trained: it is the one that was lost
    assert ledger(config).trained == 6
    third = Start(config, tmp_path)
    assert third.opening.resume is not None
    assert (third.opening.resume.step, third.opening.resume.state.epoch) == (2, 2)
    assert third.opening.rollback is None  # this checkpoint knows of it
    assert [event for event in third.metrics.events if event["kind"] == "rollback"] == []


async def test_an_epoch_that_redis_forgot_is_not_given_twice(first, config, tmp_path: Path):
    """The queue was emptied; what lies on disk is of epoch 1, and of it the next learner must be the newer."""
    first.train(1, 2)
    with client(config) as raw:
        raw.flushall()
    second = Start(config, tmp_path)
    assert second.queue.epoch == 2
    assert second.opening.resume is not None
    assert second.opening.resume.step == 1
    assert second.first_version == 1  # the checkpoint remembers version 0, though neither disk nor queue does

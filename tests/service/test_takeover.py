"""Tests of a learner's start on a real queue: what it takes over, what it commits, and which groups it reports as lost."""

from __future__ import annotations

import os
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
from learner.queue import FencedError, GroupRef, HaltedError, LearnerQueue, imbalances, read_ledgers
from learner.queue.acceptance import HaltedQueue
from learner.storage.digests import FileDigest
from learner.telemetry.metrics_writer import MetricsWriter
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import valid_group
from tests.service.queueing import client, feed


class OneRank:
    """Collectives of a world of one rank."""

    rank = 0

    def run_on_rank_zero(self, work: Callable[[], Any]) -> Any:
        return work()

    def agree(self, values: list[int]) -> list[int]:
        return values

    def broadcast_bytes(self, data: bytes) -> bytes:
        return data


class Metrics:
    """Records events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def event(self, kind: str, **values: Any) -> None:
        self.events.append({"kind": kind, **values})

    def untrained(self, outcome: str, step: int, refs: Sequence[GroupRef]) -> None: ...


class Disk:
    """A disk that writes checkpoints at once."""

    def begin_save(self, directory: Path) -> None:
        (directory / "shard").write_text("weights")

    def poll(self, blocking: bool) -> bool:
        return True

    def digests(self) -> dict[str, FileDigest]:
        return {}

    def load(self, directory: Path) -> None: ...


class Accounts:
    """Commits at most ``limit`` groups of a checkpoint, as if it were killed in the midst of it."""

    def __init__(self, queue: LearnerQueue, limit: int = 99) -> None:
        self.queue = queue
        self.limit = limit

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        self.queue.commit(step, refs[: self.limit])

    def not_saved(self, step: int, error: Exception) -> None:
        raise error


class Start:
    """One start of a learner; its epoch is 1 for the first start, 2 for the next, and so on."""

    def __init__(self, config: QueueConfig, root: Path) -> None:
        settings = {
            "model": "unused", "queue": config.model_dump(mode="json"), "steps": 9, "metrics_dir": "unused",
            "groups_per_step": 2, "checkpoint": {"dir": str(root / "c"), "every": 1, "keep": 9},
            "publish": {"dir": str(root / "w")},
        }  # fmt: skip
        self.config = LearnerConfig.parse(settings, source="test")
        self.metrics = Metrics()
        self.takeover = Takeover.start(self.config, cast(Ranks, OneRank()), cast(MetricsWriter, self.metrics))
        self.first_version = self.takeover.begin()
        assert self.takeover.queue is not None
        self.queue = self.takeover.queue
        self.accounts = Accounts(self.queue)
        self.checkpointer = Checkpointer(
            self.config.checkpoint,
            self.takeover.checkpoints,
            Disk(),
            self.accounts,
            lambda: None,
            lambda: {"version": 0, "witness": self.queue.guard.witness()},
        )

    def train(self, step: int, groups: int) -> list[str]:
        """Trains a step on ``groups`` groups and saves a complete checkpoint; returns the ids of the groups."""
        taken = self.queue.take(groups, step - 1, 9)
        self.checkpointer.after_step(step, [one.ref for one in taken])
        self.checkpointer.finish()
        return [one.ref.group_id for one in taken]


@pytest.fixture
async def first(config, gateway_queue, tmp_path: Path) -> Start:
    """Starts a learner with version 0 published and six groups waiting."""
    start = Start(config, tmp_path)
    start.queue.publish(pb.Policy(version=0, step=0, epoch=1))
    await feed(gateway_queue, [valid_group() for _ in range(6)])
    return start


def ledger(config: QueueConfig) -> pb.Ledger:
    (one,) = read_ledgers(config.url, config.run)
    assert imbalances(one) == []
    return one


async def test_the_next_learner_commits_what_its_predecessor_saved_and_could_not_commit(first, config, tmp_path: Path):
    """Freezes a learner between the rename and the commit; the next one resumes from that very checkpoint."""
    first.train(1, 2)
    first.accounts.limit = 0
    saved = first.train(2, 2)
    second = Start(config, tmp_path)
    assert second.takeover.resume is not None
    assert second.takeover.resume.step == 2
    assert second.metrics.events[-1]["recommitted"] == 2
    assert ledger(config).trained == 4
    with pytest.raises(FencedError):
        first.train(3, 2)
    assert not set(second.train(3, 9)) & set(saved)
    assert ledger(config).trained == 6


async def test_a_damaged_checkpoint_costs_what_was_committed_and_says_so(first, config, tmp_path: Path, capsys):
    first.train(1, 2)
    first.accounts.limit = 1
    _committed, pending = first.train(2, 2)
    shard = tmp_path / "c" / "step_00000002_e0001" / "shard"
    shard.write_text("weighty")
    second = Start(config, tmp_path)
    assert second.takeover.resume is not None
    assert second.takeover.resume.step == 1
    damaged = next(event for event in second.metrics.events if event["kind"] == "damaged")
    assert damaged["checkpoints"] == ["step_00000002_e0001"]
    assert (damaged["resumed_step"], damaged["lost"]) == (1, 1)
    assert "1 groups trained since are not in these weights" in capsys.readouterr().out
    assert ledger(config).given_up == 1
    assert pending in second.train(2, 9)  # the one that was not committed is trained again
    assert ledger(config).trained == 6
    third = Start(config, tmp_path)
    assert third.takeover.resume is not None
    assert (third.takeover.resume.step, third.takeover.resume.state.epoch) == (2, 2)


async def test_a_rollback_is_a_new_timeline_and_every_group_is_accounted_for(first, config, tmp_path: Path, capsys):
    first.train(1, 2)
    first.checkpointer.mark_healthy(range(1, 2))
    first.accounts.limit = 1
    committed, pending = first.train(2, 2)
    alarm = Alarm("reward", "rollback", "the mean reward has fallen")
    assert request_rollback(first.takeover.checkpoints, 2, alarm, number=1, factor=0.5) is not None
    second = Start(config, tmp_path)
    assert second.takeover.resume is not None
    assert (second.takeover.resume.step, second.takeover.resume.state.epoch) == (1, 1)
    assert second.takeover.rollback is not None
    assert (second.takeover.rollback.number, second.takeover.rollback.factor) == (1, 0.5)
    told = next(event for event in second.metrics.events if event["kind"] == "rollback")
    assert (told["step"], told["newest_step"], told["lost"]) == (2, 2, 1)
    assert told["set_aside"] == ["step_00000002_e0001"]
    assert "1 groups trained since are not in these weights" in capsys.readouterr().out
    assert second.first_version == 1  # version 0 is the given-up timeline's
    again = second.train(2, 9)
    assert pending in again
    assert committed not in again  # the ledger has it as trained: it is the one that was lost
    assert ledger(config).trained == 6
    third = Start(config, tmp_path)
    assert third.takeover.resume is not None
    assert (third.takeover.resume.step, third.takeover.resume.state.epoch) == (2, 2)
    assert third.takeover.rollback is None  # this checkpoint knows of it
    assert [event["kind"] for event in third.metrics.events] == ["start"]
    assert ledger(config).given_up == 1


async def test_a_rollback_that_is_killed_half_way_tells_what_it_cost(first, config, tmp_path: Path, monkeypatch):
    """Kills the start that applies a rollback while a checkpoint is between its two names; the next start finishes it."""
    first.train(1, 2)
    first.checkpointer.mark_healthy(range(1, 2))
    first.train(2, 2)
    first.train(3, 2)
    alarm = Alarm("reward", "rollback", "the mean reward has fallen")
    assert request_rollback(first.takeover.checkpoints, 3, alarm, number=1, factor=0.5) is not None
    rename = os.rename

    def rename_until_killed(source: Path, target: Path) -> None:
        if target.parent.name == "c" and target.name.startswith("rolled_back_"):
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("learner.storage.fence.os.rename", rename_until_killed)
        with pytest.raises(KeyboardInterrupt):
            Start(config, tmp_path)
    third = Start(config, tmp_path)
    told = next(event for event in third.metrics.events if event["kind"] == "rollback")
    assert told["set_aside"] == ["step_00000002_e0001", "step_00000003_e0001"]
    assert (told["newest_step"], told["lost"]) == (3, 4)
    assert third.takeover.resume is not None
    assert third.takeover.resume.step == 1
    assert sorted(path.name for path in (tmp_path / "c").glob("rolled_back_*")) == [
        "rolled_back_1_step_00000002_e0001",
        "rolled_back_1_step_00000003_e0001",
    ]


async def test_the_cost_of_a_rollback_counts_what_retention_had_removed(first, config, tmp_path: Path):
    """Rolls back twice, the second time past the first: each group that is in no weights is counted once."""
    alarm = Alarm("reward", "rollback", "the mean reward has fallen")
    first.train(1, 2)
    first.checkpointer.mark_healthy(range(1, 2))
    first.train(2, 2)
    first.train(3, 1)
    for name in ("step_00000002_e0001", "step_00000003_e0001"):
        first.takeover.checkpoints.remove(name)
    second = Start(config, tmp_path)  # somebody has removed checkpoints
    assert [(event["kind"], event.get("lost")) for event in second.metrics.events] == [("start", None), ("given_up", 3)]
    second.train(2, 1)
    assert request_rollback(second.takeover.checkpoints, 2, alarm, number=1, factor=0.5) is not None
    third = Start(config, tmp_path)
    assert next(event for event in third.metrics.events if event["kind"] == "rollback")["lost"] == 1
    assert (ledger(config).trained, ledger(config).given_up) == (6, 4)


async def test_an_epoch_that_redis_forgot_is_not_given_twice(first, config, tmp_path: Path):
    """Empties the queue while the disk holds data of epoch 1: the next learner must still get a larger epoch."""
    first.train(1, 2)
    with client(config) as raw:
        raw.flushall()
    with pytest.raises(HaltedError, match="has other data under this run's name"):
        Start(config, tmp_path)
    with HaltedQueue(config) as halted:
        halt = halted.halt()
        assert halt is not None
        halted.accept(halt, [])
    second = Start(config, tmp_path)
    assert second.queue.epoch == 3
    assert second.takeover.resume is not None
    assert second.takeover.resume.step == 1
    assert second.first_version == 1  # the checkpoint remembers version 0, though neither disk nor queue does

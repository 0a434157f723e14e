"""Operators' changes of a running learner: applied between two steps on every rank, refused whole, kept over a restart.

Real Redis, real ranks under torchrun; one learner, which is killed once, and told to finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from learner.checkpoint.store import completed
from learner.config import LearnerConfig, QueueConfig
from learner.publish.catalog import pinned
from learner.queue import EmbeddedRedis, LearnerQueue, imbalances, read_ledgers
from learner.queue.change_journal import ChangeJournal
from leeway.v1 import operator_pb2 as op
from leeway.v1 import rollout_pb2 as pb
from runtime.children import Child
from tests.parallel.conftest import SMALL
from tests.parallel.test_rollback import fill, group, launch, rows, weights

RANKS, GROUPS, RESPONSES = 2, 2, 8
_LIMIT_S = 300
LR, NEW_LR = 1e-4, 1e-20  # the new one moves no weight of float32: a rank that kept the old one would be seen


def prepare(directory: Path, queue: QueueConfig) -> Path:
    before = LearnerQueue.open(queue)
    before.begin(0, [])
    before.publish(pb.Policy(version=0, step=0, epoch=before.epoch, uri="file:///of/the/test"))
    before.close()
    model = transformers.AutoModelForCausalLM.from_config(transformers.Qwen3Config(**SMALL, head_dim=32))
    model.float().save_pretrained(directory / "model")
    settings = {
        "model": str(directory / "model"), "queue": queue.model_dump(mode="json"), "steps": 1000, "groups_per_step": GROUPS,
        "max_staleness": 1000, "metrics_dir": str(directory / "metrics"), "parallel": {"pipeline": RANKS}, "loggers": [],
        "optimizer": {"lr": LR}, "checkpoint": {"dir": str(directory / "checkpoints"), "every": 500, "keep": 9},
        "publish": {"dir": str(directory / "weights"), "keep": 2, "every": 500}, "objective": {"name": "asympo"},
    }  # fmt: skip
    file = directory / "learner.json"
    LearnerConfig.parse(settings, "test").write(file)
    return file


class Trial:
    """A learner and its operator; groups come as the test gives them."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.queue = QueueConfig(url=url, run="changes")
        self.file = prepare(directory, self.queue)
        self.journal = ChangeJournal(self.queue)
        self.child: Child | None = None
        self._seed = self._requests = 0

    def start(self) -> None:
        self.child = launch(self.file, self.directory / "learner.log", RANKS)

    def feed(self, steps: int) -> None:
        groups = [group(RESPONSES // 2, self._seed + number) for number in range(steps * GROUPS)]
        self._seed += len(groups)
        asyncio.run(fill(self.queue, groups))

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + _LIMIT_S
        while not (found := condition()):
            text = (self.directory / "learner.log").read_text() if self.child else ""
            assert time.monotonic() < deadline, text[-6000:]
            assert self.child is None or self.child.exit_code() is None, text[-6000:]
            time.sleep(0.02)
        return found

    def rows(self, kind: str) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            return rows(self.directory).get(kind, [])
        return []

    def steps(self, count: int) -> list[dict[str, Any]]:
        """Waits until the run has made so many steps."""
        return self.until(lambda: (found := self.rows("step")) and found[-1]["step"] >= count and found)

    def ask(self, **change: Any) -> op.RecordedChange:
        """Requests a change, and waits until it is settled."""
        number = self.request(**change)
        return self.until(lambda: self.settled(number))

    def request(self, **change: Any) -> int:
        self._requests += 1
        return self.journal.request(f"r{self._requests}", "ann", op.Change(**change)).number

    def settled(self, number: int) -> op.RecordedChange | None:
        record = self.journal.list(after=number - 1)[0]
        return None if record.state == op.CHANGE_STATE_PENDING else record

    def ended(self) -> int:
        assert self.child is not None
        deadline = time.monotonic() + _LIMIT_S
        while (status := self.child.exit_code()) is None:
            assert time.monotonic() < deadline, (self.directory / "learner.log").read_text()[-6000:]
            time.sleep(0.02)
        return status


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    server = EmbeddedRedis.start(tmp_path / "redis")
    found = Trial(tmp_path, server.url)
    try:
        yield found
    finally:
        if found.child is not None:
            found.child.kill()
        found.journal.close()
        server.stop()


@pytest.mark.timeout(400)
def test_changes_are_applied_between_two_steps_on_every_rank_and_survive_a_restart(trial: Trial):
    trial.feed(3)
    trial.start()
    trial.steps(3)  # then it waits for groups: that is between two steps too

    assert trial.ask(pause=op.Pause()).step == 4
    values = {"optimizer.lr": str(NEW_LR), "objective.rho_max": "1e-6", "weights.local": "2"}
    change = trial.ask(set=op.SetSettings(values=values))
    assert (change.state, change.step) == (op.CHANGE_STATE_APPLIED, 4)
    assert dict(change.old_values) == {"optimizer.lr": "0.0001", "objective.rho_max": "0.1"}
    refused = trial.ask(set=op.SetSettings(values={"optimizer.lr": "1e-3", "steps": "2"}))
    assert (refused.state, refused.step) == (op.CHANGE_STATE_REFUSED, 4)
    assert "the run has made 3 already" in refused.reason
    assert trial.ask(set=op.SetSettings(values={"optimizer.lr": "-1"})).state == op.CHANGE_STATE_REFUSED
    assert trial.ask(checkpoint=op.SaveCheckpoint()).reason == "step 3 is in a checkpoint"
    published = trial.ask(publish=op.PublishVersion())
    version = int(published.reason.split()[-1])
    trial.until(lambda: any(row["version"] == version and row["step"] == 3 for row in trial.rows("version")))
    assert trial.ask(pin=op.PinVersion(version=version)).state == op.CHANGE_STATE_APPLIED
    assert "pin one" in trial.ask(pin=op.PinVersion(version=77)).reason
    assert pinned(trial.directory / "weights") == {version}
    first, third = (weights(trial.directory / f"weights/weight_v{number:06d}") for number in (version - 1, version))
    assert not any(torch.equal(first[name], third[name]) for name in first)
    trial.feed(2)
    assert trial.ask(checkpoint=op.SaveCheckpoint()).step == 4  # groups wait, and none is taken
    assert len(trial.rows("step")) == 3
    assert trial.ask(resume=op.Resume()).step == 4
    steps = trial.steps(5)
    assert [row["lr"] for row in steps] == [LR] * 3 + [NEW_LR] * 2
    assert steps[2]["guard"] > 1e-4 > steps[3]["guard"]
    fifth = int(trial.ask(publish=op.PublishVersion()).reason.split()[-1])
    trial.until(lambda: trial.rows("version")[-1]["version"] == fifth)
    now = weights(trial.directory / f"weights/weight_v{fifth:06d}")
    assert all(torch.equal(now[name], third[name]) for name in now)
    (ledger,) = read_ledgers(trial.queue.url, trial.queue.run)
    assert (ledger.trained, imbalances(ledger)) == (3 * GROUPS, [])

    assert trial.child is not None
    trial.child.kill()
    trial.feed(2)
    trial.start()
    steps = trial.steps(7)[5:]  # from the checkpoint after step 3
    assert [(row["step"], row["lr"]) for row in steps] == [(4, NEW_LR), (5, NEW_LR), (6, NEW_LR), (7, NEW_LR)]
    assert max(row["guard"] for row in steps) < 1e-4

    assert trial.ask(unset=op.UnsetSettings(names=["optimizer.lr"])).new_values["optimizer.lr"] == "0.0001"
    back = trial.request(rollback=op.RollBack(version=version))
    assert trial.ended() == 1  # torchrun's own; the ranks' is ROLLED_BACK
    trial.start()
    assert trial.until(lambda: trial.settled(back)).reason == "goes on from step_00000003_e0002"
    trial.feed(1)
    trial.until(lambda: trial.rows("step")[-1]["epoch"] == 4 and trial.rows("step")[-1]["step"] == 8)
    assert trial.ask(finish=op.Finish()).new_values["steps"] == "8"
    assert trial.ended() == 0
    assert completed(trial.directory / "checkpoints")[-1].name == "step_00000008_e0004"
    assert [row["rule"] for row in trial.rows("rollback")] == ["operator"]
    assert {row["lr"] for row in trial.rows("step") if row["epoch"] == 4} == {LR}
    told = trial.rows("change")
    assert [row["number"] for row in told] == [record.number for record in trial.journal.list()]
    (ledger,) = read_ledgers(trial.queue.url, trial.queue.run)
    assert (ledger.in_flight, imbalances(ledger)) == (0, [])

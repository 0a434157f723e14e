"""A run for tests of backups: real Redis in a run's directory, both sides of its queue, and checkpoints.

The learner is played by its queue and by the rules of learner.checkpoint.saver: a checkpoint names the groups that were not
committed when it began, and they are committed once it is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from learner.checkpoint import store
from learner.checkpoint.store import CheckpointState
from learner.cli.app import app
from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, GatewayQueue, GroupRef, LearnerQueue
from learner.storage.digests import file_digests
from leeway.v1 import rollout_pb2 as pb
from tests.service.queueing import feed as append
from tests.tools.published import publish
from tests.tools.runs import make_run


class PlayedRun:
    """A run in ``directory``; ``close`` stops its Redis.

    Attributes:
        run: its directory.
        config: its queue.
        learner: the learner's side, which has begun.
        contained: every group in the weights.
    """

    def __init__(self, directory: Path) -> None:
        self.run = make_run(directory).directory
        self.server = EmbeddedRedis.start(self.run.redis)
        self.config = QueueConfig(url=self.server.url, run=self.run.identity("demo"), timeout_s=5.0)
        self.contained: list[GroupRef] = []
        self._uncommitted: list[GroupRef] = []
        self._step = 0
        self.learner = self.begin()
        (directory / "base").mkdir()
        (directory / "base" / "config.json").write_text("{}")
        (self.run.metrics / "trained.jsonl").touch()
        self.publish(0)

    def begin(self) -> LearnerQueue:
        """Opens the learner's side and goes on from the newest checkpoint."""
        learner = LearnerQueue.open(self.config)
        found = store.completed(self.run.checkpoints)[-1:]
        state = store.read_state(found[0]) if found else CheckpointState(0, 0, [])
        learner.begin(state.step, state.trained + state.recent, state.extra.get("witness"))
        return learner

    def publish(self, version: int) -> None:
        """Publishes a version of a few bytes."""
        policy = publish(self.run.root / "base", self.run.weights, version)
        policy.epoch = self.learner.epoch
        self.learner.publish(policy)

    async def feed(self, groups: Sequence[pb.Group], fleet: str = "alpha") -> None:
        """Accepts groups as a gateway does."""
        queue = GatewayQueue(self.config, quarantine_groups=10)
        await queue.check()
        await append(queue, groups, fleet)
        await queue.close()

    def train(self, groups: int) -> None:
        """Makes a step with up to so many groups."""
        taken = [one.ref for one in self.learner.take(groups, self._step, 99)]
        self._step += 1
        self.contained += taken
        self._uncommitted += taken
        row = {"epoch": self.learner.epoch, "step": self._step, "groups": [[ref.fleet, ref.group_id] for ref in taken]}
        with (self.run.metrics / "trained.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.learner.report(self._step, 0, len(self._uncommitted))

    def save(self, healthy: bool = False) -> CheckpointState:
        """Writes a checkpoint; its groups are not committed yet."""
        self.learner.guard.begin(None)
        contained: dict[str, int] = {}
        for ref in self.contained:
            contained[ref.fleet] = contained.get(ref.fleet, 0) + 1
        name = store.name(self._step, self.learner.epoch)
        staged = self.run.checkpoints / f".staged_{name}"
        staged.mkdir()
        (staged / "shard.distcp").write_bytes(f"weights of step {self._step}".encode() * 100)
        extra: dict[str, Any] = {"witness": self.learner.guard.witness(), "version": 0}
        files = file_digests(staged, ["shard.distcp"])
        state = CheckpointState(
            self._step, self.learner.epoch, list(self._uncommitted), contained=contained, extra=extra, files=files
        )
        store.write_state(staged, state)
        if healthy:
            (staged / store.HEALTHY).touch()
        staged.rename(self.run.checkpoints / name)
        return state

    def commit(self, state: CheckpointState) -> None:
        """Commits the groups of a checkpoint."""
        self.learner.commit(state.step, state.trained)
        done = set(state.trained)
        self._uncommitted = [ref for ref in self._uncommitted if ref not in done]

    def stop(self) -> None:
        """Stops the learner's side and Redis."""
        self.learner.close()
        self.server.stop()


def leeway(*arguments: object, input: str | None = None) -> tuple[int, str]:
    """Runs the command; returns its exit status and what it prints."""
    result = CliRunner().invoke(app, [*map(str, arguments)], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output
